"""Paths as people write them: on this machine, or remote, as gs://BUCKET/FOLDER.

Remote is what `tf.io.gfile` reaches: gs:// without any further package, others where their file system is registered.
A `RemotePath` has the methods of `pathlib.Path` that this project uses, and raises OSError, as files on a disk do. So
code takes a path of either kind, if it makes it by `as_path` and not by `Path`, which would read gs://a as gs:/a.
"""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import io
import os
import re
import sys
import types
from collections.abc import Generator
from pathlib import Path, PosixPath
from typing import IO, Any

from codi_tf.core.lazy import tensorflow
from codi_tf.core.quiet import quiet_import

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://(?=[^/])")
LONGEST = 200  # characters of a file system's message
BLOCK = 1 << 20  # bytes that are read ahead


def as_path(path: str | os.PathLike[str]) -> Path:
    """The path that a text names: a `RemotePath` for SCHEME://..., else a `pathlib.Path`; paths as they are."""
    if isinstance(path, Path):
        return path
    text = os.fspath(path)
    return RemotePath(text) if is_remote(text) else Path(text)


def is_remote(path: str | os.PathLike[str]) -> bool:
    """Whether a path is SCHEME://..."""
    return _SCHEME.match(os.fspath(path)) is not None


def is_folder(path: str | os.PathLike[str]) -> bool:
    """Whether a folder is there; remote or not, as `os.path.isdir`."""
    return as_path(path).is_dir() if is_remote(path) else os.path.isdir(path)


def is_regular(path: str | os.PathLike[str]) -> bool:
    """Whether a file is there; remote or not, as `os.path.isfile`."""
    return as_path(path).is_file() if is_remote(path) else os.path.isfile(path)


def is_there(path: str | os.PathLike[str]) -> bool:
    """Whether a file or folder is there; remote or not, as `os.path.exists`."""
    return as_path(path).exists() if is_remote(path) else os.path.exists(path)


def joined(folder: Path, text: str) -> Path:
    """The place that a text names, seen from a folder. `..` takes away the name before it, also that of a link."""
    if is_remote(text):
        return as_path(text)
    if isinstance(folder, RemotePath) and not os.path.isabs(text):
        return (folder / text).resolve()
    return Path(os.path.normpath(os.path.join(folder, text)))


def matching(pattern: str) -> list[str]:
    """The remote files and folders that a pattern names, sorted. Raises OSError."""
    return sorted(_ask(as_path(pattern), lambda gfile: gfile.glob(pattern)))


class RemotePath(PosixPath):
    """A remote file or folder. Every method that looks there raises OSError with the reason.

    A folder is what the names of files begin with: it need not be made, and it is gone with its last file.
    """

    def __str__(self) -> str:
        first, *others = self.parts or (".",)
        return "//".join((first, "/".join(others))) if first.endswith(":") else "/".join((first, *others))

    def __fspath__(self) -> str:
        return str(self)

    def is_absolute(self) -> bool:
        """Whether it has its scheme."""
        return is_remote(str(self))

    def resolve(self, strict: bool = False) -> RemotePath:
        """The path without `..`, which never leads out of the bucket; there are no links."""
        scheme, *names = self.parts
        kept: list[str] = []
        for name in names:
            if name != os.pardir:
                kept.append(name)
            elif len(kept) > 1:
                kept.pop()
        return type(self)(scheme, *kept)

    def absolute(self) -> RemotePath:
        """Itself."""
        return self

    def exists(self) -> bool:
        """Whether a file or folder is there."""
        return _ask(self, lambda gfile: gfile.exists(str(self)))

    def is_dir(self) -> bool:
        """Whether files are below it."""
        return _ask(self, lambda gfile: gfile.isdir(str(self)))

    def is_file(self) -> bool:
        """Whether it is a file."""
        return self.exists() and not self.is_dir()

    def stat(self, *, follow_symlinks: bool = True) -> Any:
        """`st_size` in bytes and `st_mtime_ns`, when it was last written."""
        found = _ask(self, lambda gfile: gfile.stat(str(self)))
        return types.SimpleNamespace(st_size=found.length, st_mtime_ns=found.mtime_nsec)

    def is_symlink(self) -> bool:
        """False: there are no links."""
        return False

    def samefile(self, other_path: str | os.PathLike[str]) -> bool:
        """Whether both are the same place."""
        return str(self.resolve()) == str(as_path(other_path).resolve())

    def iterdir(self) -> Generator[RemotePath, None, None]:
        """What is in the folder."""
        for name in _ask(self, lambda gfile: gfile.listdir(str(self))):
            yield self / name.rstrip("/")

    def glob(self, pattern: str) -> Generator[RemotePath, None, None]:
        """What is in the folder and has a name of this pattern, without `/`."""
        return (path for path in self.iterdir() if fnmatch.fnmatchcase(path.name, pattern))

    def rglob(self, pattern: str) -> Generator[RemotePath, None, None]:
        """The files below the folder whose names have this pattern, without `/`."""
        waiting: list[RemotePath] = [self]
        while waiting:
            for path in waiting.pop().iterdir():
                if path.is_dir():
                    waiting.append(path)
                elif fnmatch.fnmatchcase(path.name, pattern):
                    yield path

    def mkdir(self, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        """Make the folder, with those above it; buckets have no folders, and need none."""
        _ask(self, lambda gfile: gfile.makedirs(str(self)))

    def unlink(self, missing_ok: bool = False) -> None:
        """Delete the file."""
        with contextlib.suppress(*[FileNotFoundError] * missing_ok):
            _ask(self, lambda gfile: gfile.remove(str(self)))

    def rmdir(self) -> None:
        """Delete the folder with all that is in it."""
        _ask(self, lambda gfile: gfile.rmtree(str(self)))

    def replace(self, target: str | os.PathLike[str]) -> RemotePath:
        """Give the file another name, in place of what has it."""
        _ask(self, lambda gfile: gfile.rename(str(self), str(target), overwrite=True))
        return type(self)(target)

    def open(self, mode: str = "r", buffering: int = -1, encoding=None, errors=None, newline=None) -> IO[Any]:
        """The file, open for reading. A remote file is written as a whole: `io.files.whole_file`."""
        if mode not in ("r", "rb"):
            raise io.UnsupportedOperation(f"{self}: open with mode {mode!r}")
        if not self.exists():  # TensorFlow would say so at the first read
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self))
        file = io.BufferedReader(_Reader(self), BLOCK)
        return file if mode == "rb" else io.TextIOWrapper(file, encoding, errors, newline)

    def read_bytes(self) -> bytes:
        """The content of the file."""
        with self.open("rb") as file:
            return file.read()

    def read_text(self, encoding: str | None = None, errors: str | None = None) -> str:
        """The content of the file, by default in UTF-8."""
        return self.read_bytes().decode(encoding or "utf-8", errors or "strict")

    def write_bytes(self, data: bytes) -> int:
        """Write the file."""

        def write(gfile) -> None:
            with gfile.GFile(str(self), "wb") as file:
                file.write(data)

        _ask(self, write)
        return len(data)

    def write_text(self, data: str, encoding=None, errors=None, newline=None) -> int:
        """Write the file, by default in UTF-8."""
        return self.write_bytes(data.encode(encoding or "utf-8", errors or "strict"))


def copy_file(source: Path, target: Path) -> None:
    """Copy a file; source, target or both may be remote. Raises OSError."""
    _ask(target, lambda gfile: gfile.copy(str(source), str(target), overwrite=True))


class _Reader(io.RawIOBase):
    """A remote file, as Python's files are."""

    def __init__(self, path: RemotePath):
        self._path = path
        self._file = _ask(path, lambda gfile: gfile.GFile(str(path), "rb"))

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        data = _ask(self._path, lambda gfile: self._file.read(len(buffer)))
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        _ask(self._path, lambda gfile: self._file.seek(offset, whence))
        return self.tell()

    def tell(self) -> int:
        return _ask(self._path, lambda gfile: self._file.tell())

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


def _ask(path: Path, what):
    """`what(tf.io.gfile)`; TensorFlow's errors become OSErrors that name the path."""
    if "tensorflow" not in sys.modules:
        with quiet_import():
            tensorflow.io  # noqa: B018  (imports it)
    tf = tensorflow
    try:
        return what(tf.io.gfile)
    except tf.errors.OpError as error:
        reason = " ".join(str(error.message).split())[:LONGEST]
        numbers = {
            tf.errors.NotFoundError: errno.ENOENT,
            tf.errors.PermissionDeniedError: errno.EACCES,
            tf.errors.UnauthenticatedError: errno.EACCES,
        }
        number = numbers.get(type(error), errno.EIO)
        if number != errno.EIO:
            reason = os.strerror(number) if number == errno.ENOENT else f"{os.strerror(number)}: {reason}"
        raise OSError(number, reason, str(path)) from None
