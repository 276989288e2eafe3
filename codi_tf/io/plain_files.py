"""Opening files of other people: only regular files, and no more bytes than expected. Needs no TensorFlow.

A named pipe blocks whoever opens it, a device may never end, and a file of any size fills the memory. At remote
paths there are neither pipes nor devices.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import stat
from collections.abc import Iterator
from io import BufferedReader
from typing import IO, cast

from codi_tf.core.paths import as_path, is_remote

_AT_ONCE = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)


class SpecialFileError(OSError):
    """A pipe or a device where a file is expected."""


def check_plain(path: str | os.PathLike[str]) -> None:
    """Raise OSError for what is missing, or is no regular file (a folder, a pipe, a device); links are followed."""
    if not is_remote(path):
        _check(path, os.stat(path).st_mode)
    elif as_path(path).is_dir():
        raise _folder(path)
    elif not as_path(path).exists():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), os.fspath(path))


@contextlib.contextmanager
def open_plain(path: str | os.PathLike[str]) -> Iterator[BufferedReader]:
    """A regular file, open for reading. Raises OSError as `check_plain`, and never waits."""
    check_plain(path)  # before it is opened, which alone may act on a device
    if is_remote(path):
        with as_path(path).open("rb") as file:
            yield cast(BufferedReader, file)
        return
    descriptor = os.open(path, os.O_RDONLY | _AT_ONCE)
    with open(descriptor, "rb") as file:
        _check(path, os.fstat(descriptor).st_mode)
        yield file


def read_plain(path: str | os.PathLike[str], most: int) -> bytes:
    """The content of a regular file of at most `most` bytes. Raises OSError as `check_plain`, and for a larger file."""
    with open_plain(path) as file:
        size = size_of(file)
        content = b"" if size > most else file.read(most + 1)
        if max(size, len(content)) > most:
            raise OSError(errno.EFBIG, f"it has {max(size, len(content)):,} bytes, more than {most:,}", os.fspath(path))
    return content


def size_of(file: BufferedReader) -> int:
    """The bytes of an open file, which is at its beginning afterwards."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    return size


def part_of(file: IO[bytes], start: int, size: int) -> IO[bytes]:
    """Bytes `start` to `start + size` of an open file, as a file of their own."""
    return io.BufferedReader(_Part(file, start, size))


def _check(path: str | os.PathLike[str], mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise _folder(path)
    if not stat.S_ISREG(mode):
        raise SpecialFileError(errno.EINVAL, "it is a pipe or a device, no file", os.fspath(path))


def _folder(path: str | os.PathLike[str]) -> OSError:
    return IsADirectoryError(errno.EISDIR, "it is a folder", os.fspath(path))


class _Part(io.RawIOBase):
    """See `part_of`."""

    def __init__(self, file: IO[bytes], start: int, size: int):
        self._file, self._start, self._size, self._at = file, start, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        self._file.seek(self._start + self._at)
        data = self._file.read(max(0, min(len(buffer), self._size - self._at)))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        self._at = max(0, offset + (0, self._at, self._size)[whence])
        return self._at

    def tell(self) -> int:
        return self._at
