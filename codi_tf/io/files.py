"""Atomic writes of files, and checks of the places to write to. Links are followed; special files are refused.

A place may be remote, see `core.paths`; `io.remote` writes there.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from codi_tf.core.errors import UserError, full_disk
from codi_tf.core.paths import RemotePath, as_path
from codi_tf.io.remote import try_to_write, uploaded

MAX_NAME = 200  # bytes: a temporary name has some more, and most file systems take 255


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary path on this machine; the file replaces `path` when the block succeeds. Creates missing folders.

    A link stays, and the file that it leads to is replaced.

    Raises:
        UserError: the file cannot be written.
    """
    target = followed(path)
    _check_plain_file(path, target)
    try:
        with uploaded(target) if isinstance(target, RemotePath) else _put_in_place(target) as partial:
            yield partial
    except Exception as error:
        if isinstance(error, OSError) or full_disk(error):
            raise cannot_write(path, error) from error
        raise


@contextlib.contextmanager
def _put_in_place(target: Path) -> Iterator[Path]:
    """A path next to `target`; the file there takes its place when the block succeeds."""
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        os.replace(partial, target)
    finally:
        with contextlib.suppress(OSError):  # after success it is gone, and a failed block may not have made it
            partial.unlink()


def check_file(path: Path) -> None:
    """Check, before any work, that a file can be written or replaced here.

    Raises:
        UserError: it is a folder, a device, a pipe or write-protected; or its folder cannot be written to.
    """
    target = followed(path)
    _check_plain_file(path, target)
    check_parent(path, target)


def check_growing_folder(path: Path) -> None:
    """Check, before any work, that files can be written one by one into a folder, which may not exist yet.

    Raises:
        UserError: it is a file or anything else, or it cannot be written to.
    """
    target = followed(path)
    if _exists(target) and not target.is_dir():
        raise UserError(f"{path}: is a file, not a folder; choose another place")
    check_parent(path, target)
    if _exists(target):
        check_parent(path, target / "file")


def followed(path: Path) -> Path:
    """The absolute place that a path leads to, through links. Raises UserError for links in a circle."""
    try:
        return as_path(path).resolve()
    except (OSError, RuntimeError):  # RuntimeError: a circle, before Python 3.13
        raise UserError(f"{path}: a link in a circle; name another place") from None


def cannot_write(path: Path, error: Exception) -> UserError:
    """The error of a place that cannot be written to."""
    reason = full_disk(error) or getattr(error, "strerror", None) or error
    return UserError(f"cannot write {path}: {reason}; make room or choose another place")


def check_parent(path: Path, target: Path) -> Path:
    """The folder that `target`, or the first of its missing folders, will be made in. Messages name `path`.

    A file is made there and removed: permissions alone do not tell.

    Raises:
        UserError: nothing can be made there, or the name is too long.
    """
    _check_name(path, target)
    if isinstance(target, RemotePath):
        _check_remote(path, target)
        return target.parent
    parent = next(parent for parent in target.parents if _exists(parent))
    try:
        with tempfile.TemporaryFile(dir=parent):
            return parent
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{path}: nothing can be written into {parent} ({reason}); choose another place") from None


def _check_remote(path: Path, target: RemotePath) -> None:
    if len(target.parts) < 3:
        raise UserError(f"{path}: is a whole bucket; name a place in it, as {path / 'new'}")
    parent = next(one for one in target.parents if len(one.parts) == 2 or _exists(one))
    try:
        try_to_write(parent)
    except OSError as error:
        raise UserError(
            f"{path}: nothing can be written into {parent} ({error.strerror}); choose another place"
        ) from None


def _check_plain_file(path: Path, target: Path) -> None:
    _check_name(path, target)
    if not _exists(target if isinstance(target, RemotePath) else path):
        return
    if isinstance(target, RemotePath):
        if target.is_dir():
            raise UserError(f"{path}: that is a folder; name a file")
        return
    mode = os.stat(path).st_mode  # of the path itself: /dev/stdout leads to no path that exists
    if stat.S_ISDIR(mode):
        raise UserError(f"{path}: that is a folder; name a file")
    if not stat.S_ISREG(mode):
        raise UserError(f"{path}: is {_special(mode)}, which a file would replace; name another place")
    if not mode & 0o222:
        raise UserError(f"{path}: is write-protected; choose another place, or allow writing")


def _check_name(path: Path, target: Path) -> None:
    if len(os.fsencode(target.name)) > MAX_NAME:
        raise UserError(f"{path}: the name is longer than {MAX_NAME} bytes; choose a shorter one")


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name that is too long
        return False


def _special(mode: int) -> str:
    kinds = {stat.S_IFCHR: "a device", stat.S_IFBLK: "a device", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
    return kinds.get(stat.S_IFMT(mode), "no regular file")


def check_settings(folder: Path, earlier: Mapping, now: Mapping) -> None:
    """Check that a resumed run has the settings that its folder was started with. Both are mappings of plain data.

    Raises:
        UserError: a setting differs; names the first one.
    """
    earlier, now = flat(earlier), flat(now)
    for key in {**earlier, **now}:
        if now.get(key) != earlier.get(key):
            raise UserError(
                f"{folder}: was started with {key} = {earlier.get(key)!r}, now it is {now.get(key)!r}; "
                "choose another --out, or delete that folder"
            )


def flat(values: Mapping, prefix: str = "") -> dict:
    """Settings without sections: {"train": {"steps": 1}} -> {"train.steps": 1}."""
    found = {}
    for key, value in values.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found
