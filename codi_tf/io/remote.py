"""Remote files and folders: written on this machine first, then copied; read through a copy where need be.

A file appears whole: object stores show an object when all of it has arrived, and elsewhere it gets its name after
that. A folder has no such moment. Its marker lists its files and comes first; those that say what the folder is come
last. So a folder that was not copied to its end lacks files of its list, see `missing_of`.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from codi_tf.core.paths import RemotePath, copy_file

WHOLE_AT_ONCE = ("gs:", "s3:")  # schemes of object stores
_kept: dict[str, tempfile.TemporaryDirectory] = {}  # a remote folder -> its copy, which goes with the process


@contextlib.contextmanager
def uploaded(target: RemotePath) -> Iterator[Path]:
    """A path on this machine; the file there is copied to `target` when the block succeeds. Raises OSError."""
    with _room() as room:
        yield room / target.name
        upload(room / target.name, target)


def upload(source: Path, target: RemotePath) -> None:
    """Copy a file to a remote path, whole or not at all. Raises OSError."""
    if target.parts[0] in WHOLE_AT_ONCE:
        copy_file(source, target)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        copy_file(source, partial)
        partial.replace(target)
    except OSError:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise


def replace_folder(source: Path, target: RemotePath, marker: str) -> None:
    """Copy a folder to a remote path, in place of the files that are there; see the head of this module.

    Args:
        source: on this machine.
        target: with files of an earlier folder alone, or none.
        marker: the file that lists the others.

    Raises:
        OSError: it cannot be written.
    """
    there = [path for path in _files(target) if path.name != marker] if target.is_dir() else []
    for path in sorted(there, key=_last, reverse=True):
        path.unlink()
    for path in sorted(_files(source), key=lambda one: (one.name != marker, _last(one))):
        upload(path, target.joinpath(*path.relative_to(source).parts))


@contextlib.contextmanager
def on_this_machine(path: Path) -> Iterator[Path]:
    """The file itself, or a copy of a remote one for the time of the block. Raises OSError."""
    if not isinstance(path, RemotePath):
        yield path
        return
    with _room() as room:
        copy_file(path, room / path.name)
        yield room / path.name


def kept_copy(path: Path) -> Path:
    """The file or folder itself, or a copy of a remote one, which stays until the process ends. Raises OSError."""
    if not isinstance(path, RemotePath):
        return path
    name = str(path.resolve())
    if name not in _kept:
        room = tempfile.TemporaryDirectory(prefix="codi_tf.")
        for file in _files(path) if path.is_dir() else [path]:
            copy = Path(room.name, path.name, *file.relative_to(path).parts)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy_file(file, copy)
        _kept[name] = room
    return Path(_kept[name].name, path.name)


def try_to_write(folder: RemotePath) -> None:
    """Make an empty file in a folder and delete it. Raises OSError."""
    probe = folder / f".codi_tf.{os.getpid()}"
    probe.write_bytes(b"")
    probe.unlink()


def append(path: Path, text: str) -> None:
    """Append to a text file; a remote one is written anew. Raises OSError."""
    if not isinstance(path, RemotePath):
        with open(path, "a", encoding="utf-8") as file:
            file.write(text)
        return
    earlier = path.read_text() if path.exists() else ""
    with uploaded(path) as partial:
        partial.write_text(earlier + text, encoding="utf-8")


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if isinstance(path, RemotePath) or path.is_file()]


def _last(path: Path) -> tuple:
    """Sorts weights first, then configurations, and of these the ones at the top last."""
    return path.suffix == ".json", -len(path.parts), path.name


@contextlib.contextmanager
def _room() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="codi_tf.") as name:
        yield Path(name)
