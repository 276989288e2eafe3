"""Locks on folders: one process at a time writes into one. A process that ends, in whatever way, releases its lock."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import warnings
from collections.abc import Iterator
from pathlib import Path

from codi_tf.core.errors import UserError
from codi_tf.core.paths import RemotePath


class Locked(UserError):
    """Another process holds the lock."""


@contextlib.contextmanager
def only_one(path: Path, work: str) -> Iterator[None]:
    """Hold the lock file `path` within the block. It is removed afterwards, and so are folders made for it, if empty.

    The lock is the system's (flock): that of a process that was killed is free, although its file is left.
    At a remote path there are no locks: nothing is checked.

    Args:
        path: the lock file.
        work: what the lock is for, in the words of the error: "trains in runs/a".

    Raises:
        Locked: another process holds the lock; names it.
        UserError: the folder cannot be made or written to.
    """
    if isinstance(path, RemotePath):
        yield
        return
    made = [folder for folder in path.parents if not folder.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = _held(path, work)
    except OSError as error:
        problem = error.strerror or error
        raise UserError(f"cannot write {path}: {problem}; make room or choose another place") from None
    try:
        with contextlib.suppress(OSError):  # a full disk: then the holder has no name
            os.truncate(file, 0)
            os.write(file, f"{os.getpid()} {socket.gethostname()}\n".encode())
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink()
        os.close(file)
        with contextlib.suppress(OSError):  # the work has filled them, as a rule
            for folder in made:
                folder.rmdir()


def _held(path: Path, work: str) -> int:
    """The descriptor of the locked file."""
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(file, 200, 0).decode(errors="replace").split()
            os.close(file)
            raise Locked(f"{_named(holder)} {work}; wait for it, end it, or choose another --out") from None
        except OSError as error:
            warnings.warn(
                f"{path} cannot be locked ({error.strerror}): see to it that no other process {work}", stacklevel=4
            )
            return file
        # Between opening and locking its holder may have removed it.
        with contextlib.suppress(OSError):
            if os.fstat(file).st_ino == path.stat().st_ino:
                return file
        os.close(file)


def _named(holder: list[str]) -> str:
    if len(holder) != 2:
        return "another process"  # it has not written its name yet
    number, host = holder
    return f"process {number}" + ("" if host == socket.gethostname() else f" on {host}")
