"""The files below a folder, except those that systems hide."""

from __future__ import annotations

import os

from codi_tf.core.errors import UserError
from codi_tf.core.paths import as_path, is_remote

HIDDEN = ("__macosx", "thumbs.db", "desktop.ini", "@eadir", "$recycle.bin", "lost+found")  # without a dot
ABOUT = ("readme.md", "license.md", "licenses.md")  # texts on the folder, of no image


def is_hidden(path: str) -> bool:
    """Whether a relative path, or a folder on it, does not count: `.name`, what systems add, and README.md."""
    parts = path.split("/")
    return any(part.lower() in (*HIDDEN, *ABOUT) or part.startswith(".") and part not in (".", "..") for part in parts)


def files_below(folder: str | os.PathLike[str]) -> tuple[list[str], list[str]]:
    """The regular files in a folder and its subfolders, sorted, and what cannot be read there.

    Hidden files are in neither list. Links are followed; a folder that several links lead to is read once.

    Returns:
        Paths that begin with the folder; and paths with the reason: broken links, pipes, folders without permission.

    Raises:
        UserError: no such folder, or it cannot be read.
    """
    root = os.fspath(folder)
    if is_remote(root):
        return _remote_files(root), []
    if not os.path.isdir(root):
        raise UserError(f"no such folder of images: {root}")
    files, others, seen, waiting = [], [], set(), [root]
    while waiting:
        here = waiting.pop()
        if (real := os.path.realpath(here)) in seen:
            continue
        seen.add(real)
        try:
            with os.scandir(here) as entries:
                found = [entry for entry in entries if not is_hidden(entry.name)]
        except OSError as error:
            if here == root:
                raise UserError(f"cannot read folder {root}: {error.strerror or error}") from None
            others.append(f"{here} ({error.strerror or error})")
            continue
        for entry in found:
            if os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir():
                waiting.append(entry.path)
            elif is_file(entry):
                files.append(entry.path)
            else:
                others.append(f"{entry.path} ({'a broken link' if entry.is_symlink() else 'not a file'})")
    return sorted(files), sorted(others)


def _remote_files(root: str) -> list[str]:
    folder = as_path(root)
    try:
        files = list(folder.rglob("*"))
    except FileNotFoundError:
        raise UserError(f"no such folder of images: {root}") from None
    except OSError as error:
        raise UserError(f"cannot read folder {root}: {error.strerror or error}") from None
    return sorted(str(file) for file in files if not is_hidden(file.relative_to(folder).as_posix()))


def is_file(entry: os.DirEntry) -> bool:
    """Whether an entry of a folder is a regular file, or a link to one."""
    return os.path.isfile(entry.path) if entry.is_symlink() else entry.is_file()
