"""Files out of archives of other people: Debian packages (.deb) and npm's (.tgz). Nothing is unpacked onto the disk.

A .deb is an ar archive, and its files are in the member data.tar, compressed by xz, gzip or Zstandard: deb(5).
"""

from __future__ import annotations

import contextlib
import gzip
import io
import lzma
import shutil
import subprocess
import tarfile
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import IO, cast

from codi_tf.core.errors import UserError, first_line
from codi_tf.io.plain_files import open_plain

MOST_UNPACKED = 1 << 30  # bytes of an archive, all of its files together
MOST_FILE = 1 << 26  # bytes of a file that is read
_AR, _AR_HEADER = b"!<arch>\n", 60  # the beginning of an ar archive; bytes of a member's header


class Damaged(Exception):
    """An archive that cannot be read; the message is the reason."""


def read_members(path: Path, names: Collection[str]) -> dict[str, bytes]:
    """The contents of some files in a .deb or .tgz archive.

    Args:
        path: the archive.
        names: of the files, as "usr/share/doc/a". No other file is read.

    Returns:
        name -> content of those that the archive has; links and special files do not count.

    Raises:
        UserError: the archive is missing or damaged, unpacks to more than `MOST_UNPACKED` bytes, or holds a file among
            `names` of more than `MOST_FILE` bytes.
    """
    try:
        with open_plain(path) as file, _unpacked(file, path) as unpacked:
            stream = _Bounded(unpacked)
            with tarfile.open(fileobj=stream, mode="r|") as archive:
                found = dict(_files(archive, names))
            while stream.read(tarfile.RECORDSIZE):
                pass  # to the end, where the checksum is
    except UserError:
        raise
    except OSError as error:
        if error.strerror:  # of the file system; those of a decoder have none
            raise UserError(f"cannot read {path}: {error.strerror}") from None
        raise _damaged(path, error) from None
    except (Damaged, tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, ValueError, OverflowError) as error:
        raise _damaged(path, error) from None
    return found


def _files(archive: tarfile.TarFile, names: Collection[str]) -> Iterator[tuple[str, bytes]]:
    for member in archive:
        name = member.name.removeprefix("./")
        if name in names and member.isreg():
            if member.size > MOST_FILE:
                raise Damaged(f"{name} has {member.size:,} bytes, more than {MOST_FILE:,}")
            content = archive.extractfile(member)
            yield name, content.read() if content else b""


class _Bounded(io.RawIOBase):
    """A stream that ends in `Damaged` after `MOST_UNPACKED` bytes."""

    def __init__(self, stream: IO[bytes]):
        self.stream, self.left = stream, MOST_UNPACKED

    def read(self, size: int = -1, /) -> bytes:
        block = self.stream.read(size)
        self.left -= len(block)
        if self.left < 0:
            raise Damaged(f"it unpacks to more than {MOST_UNPACKED:,} bytes")
        return block


@contextlib.contextmanager
def _unpacked(file: IO[bytes], path: Path) -> Iterator[IO[bytes]]:
    """The tar archive of a package, as a stream."""
    if file.read(len(_AR)) != _AR:
        file.seek(0)
        yield _gzip(file)
        return
    name, content = _data(file)
    if name == "data.tar.xz":
        with lzma.open(content) as stream:
            yield stream
    elif name == "data.tar.gz":
        yield _gzip(content)
    elif name == "data.tar":
        yield content
    elif shutil.which("dpkg-deb"):  # data.tar.zst, which Python reads from 3.14 on
        command = ["dpkg-deb", "--fsys-tarfile", path]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
            assert process.stdout is not None
            yield process.stdout
        if process.returncode:
            raise Damaged("dpkg-deb cannot read it")
    else:
        raise UserError(f"{path}: to read {name} takes dpkg-deb, which is missing; install dpkg")


def _gzip(file: IO[bytes]) -> IO[bytes]:
    return cast(IO[bytes], gzip.GzipFile(fileobj=file))


def _data(file: IO[bytes]) -> tuple[str, IO[bytes]]:
    """Name and content of the member data.tar of an ar archive, whose first bytes have been read."""
    while header := file.read(_AR_HEADER):
        if len(header) < _AR_HEADER or header[-2:] != b"`\n" or not header[48:58].strip().isdigit():
            raise Damaged("a member of it has no header")
        name, size = header[:16].decode("latin-1").rstrip(" /"), int(header[48:58])
        if name.startswith("data.tar"):
            if size > MOST_UNPACKED:  # Python makes room before it reads
                raise Damaged(f"{name} is said to have {size:,} bytes")
            return name, io.BytesIO(file.read(size))
        file.seek(size + size % 2, io.SEEK_CUR)
    raise Damaged("it has no member data.tar")


def _damaged(path: Path, error: Exception) -> UserError:
    return UserError(f"{path}: a damaged archive ({first_line(error)}); fetch it again")
