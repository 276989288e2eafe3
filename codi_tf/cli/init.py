"""codi init [FOLDER]: write the configs and small models that come with codi_tf into a folder.

They are written as configs/ and assets/. Files that are there already stay, if they are the same.
"""

from __future__ import annotations

import filecmp
import shutil
from pathlib import Path

from codi_tf.core.arguments import path_argument
from codi_tf.core.command_line import ArgumentParser
from codi_tf.core.errors import UserError
from codi_tf.io.files import check_growing_folder, whole_file
from codi_tf.io.starter import FOLDERS, starter_folder


def write_starter(folder: Path) -> int:
    """Copy configs/ and assets/ into a folder. Files that are there already stay, if they are the same.

    Returns:
        How many files were written.

    Raises:
        UserError: a file is there with other contents, or the folder cannot be written; nothing was written in the
            first case.
    """
    check_growing_folder(folder)
    source = starter_folder()
    files = [path.relative_to(source) for name in FOLDERS for path in sorted((source / name).rglob("*"))]
    files = [path for path in files if (source / path).is_file() and "__pycache__" not in path.parts]
    if not files:
        raise UserError(f"{source}: has no {' and no '.join(FOLDERS)}; install codi_tf again")
    missing = []
    for path in files:
        target = folder / path
        try:
            if not target.exists() and not target.is_symlink():
                missing.append(path)
            elif not (target.is_file() and filecmp.cmp(source / path, target, shallow=False)):
                raise UserError(f"{target}: is there already, with other contents; name another folder")
        except OSError as error:
            raise UserError(f"{target}: cannot be read ({error.strerror}); name another folder") from None
    for path in missing:
        with whole_file(folder / path) as partial:
            shutil.copyfile(source / path, partial)
    return len(missing)


def main(arguments: list[str], prog: str = "codi init") -> None:
    """Run `codi init`. Raises UserError, see `write_starter`."""
    parser = ArgumentParser(prog=prog, doc=__doc__)
    parser.add_argument(
        "folder", nargs="?", type=path_argument, default=Path(), help="by default the working directory"
    )
    folder = parser.parse_args(arguments).folder
    written = write_starter(folder)
    print(f"{folder}: {' and '.join(f'{name}/' for name in FOLDERS)} are there; files written: {written}")
    print("next: codi train configs/photos_codi.yaml")
