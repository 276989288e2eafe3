"""Atomic writes of files and folders, and checks of the folders to write to."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from codi_tf.core.errors import UserError


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A temporary folder next to `path`, which replaces `path` when the block succeeds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    partial.chmod(0o755)  # mkdtemp's 0o700 would keep other users out
    try:
        yield partial
        if path.exists():
            old = partial.with_name(partial.name + ".old")
            os.replace(path, old)
            os.replace(partial, path)
            shutil.rmtree(old)
        else:
            os.replace(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary path next to `path`; the file replaces `path` when the block succeeds. Creates missing folders.

    Raises:
        UserError: the file cannot be written.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        os.replace(partial, path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}; make room or choose another place") from error
    finally:
        with contextlib.suppress(OSError):  # after success it is gone, and a failed block may not have made it
            partial.unlink()


def check_settings(folder: Path, earlier: Mapping, now: Mapping) -> None:
    """Check that a resumed run has the settings that its folder was started with. Both are mappings of plain data.

    Raises:
        UserError: a setting differs; names the first one.
    """
    earlier, now = _flat(earlier), _flat(now)
    for key in {**earlier, **now}:
        if now.get(key) != earlier.get(key):
            raise UserError(
                f"{folder}: was started with {key} = {earlier.get(key)!r}, now it is {now.get(key)!r}; "
                "choose another --out, or delete that folder"
            )


def _flat(values: Mapping, prefix: str = "") -> dict:
    flat = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def check_target(folder: Path) -> None:
    """Raise UserError for a folder that is not empty or cannot be created."""
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise UserError(f"{folder}: already exists; name a new folder")
    parent = next(parent for parent in folder.absolute().parents if parent.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise UserError(f"{folder}: cannot write into {parent}; choose another place")
