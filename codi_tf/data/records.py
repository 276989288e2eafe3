"""An index of the records in shards and folders, which can then be read in any order.

Indexing reads only the headers of TFRecord files and WebDataset's tar files, and only the names in folders of images.
What is a record, and what belongs to it, follows from the names: `io.naming`.
"""

from __future__ import annotations

import contextlib
import functools
import os
import struct
import tarfile
import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import IO, Any, NamedTuple, Protocol, cast

import google_crc32c
import numpy as np

from codi_tf.core.errors import UserError
from codi_tf.core.paths import as_path, is_remote
from codi_tf.core.progress import Progress
from codi_tf.data.left_out import LeftOut
from codi_tf.data.splits import is_heldout
from codi_tf.io.listing import is_file, is_hidden
from codi_tf.io.naming import Sorted, field_of, sort_names
from codi_tf.io.plain_files import check_plain, open_plain, part_of

PATIENCE = 3.0  # seconds of indexing before its progress is shown
_LENGTH = struct.Struct("<QI")  # of a TFRecord: the length and its masked checksum
_CHECKSUM_SIZE = 4  # bytes behind the data of a TFRecord
_BLOCK = 512  # bytes: the unit of tar files


class Unreadable(Exception):
    """A record that cannot be used; the message is the reason, in one line."""


class Readable(Protocol):
    """N records that can be read in any order, such as `Records`."""

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields that records can have."""
        ...

    def __len__(self) -> int: ...

    def read(self, i: int, fields: Collection[str] | None = None) -> dict[str, bytes]:
        """The fields that record i has, of "image", companions, "text" and "json". Raises Unreadable.

        Only those in `fields` are read, if they are named.
        """
        ...

    def without_text(self) -> int:
        """The number of records that are known to have no text before they are read."""
        ...

    def name(self, i: int) -> str:
        """The name of record i in messages."""
        ...

    def split_name(self, i: int) -> str:
        """The name of record i that decides its split."""
        ...


class Field(NamedTuple):
    """The location of one field of N records."""

    file: np.ndarray  # int32 [N], an index into `paths`; -1: the record has no such field
    start: np.ndarray  # int64 [N], in bytes
    size: np.ndarray  # int64 [N]; -1: to the end of the file


class Damage(NamedTuple):
    """A damaged shard: the records after the damage are lost."""

    path: str
    reason: str
    intact: int  # records before the damage


@dataclass(frozen=True)
class Records:
    """N records, each of a few fields of bytes.

    Attributes:
        paths: the files.
        places: field -> its location.
        keys: names of the records of tar files, bytes [N]; else None.
        checked: whether a checksum (TFRecord's) follows each field.
        damaged: the damaged shards.
        left_out: files, and members of tar files, that are neither records nor parts of one.
    """

    paths: tuple[str, ...]
    places: dict[str, Field]
    keys: np.ndarray | None = None
    checked: bool = False
    damaged: tuple[Damage, ...] = ()
    left_out: LeftOut = LeftOut()

    def __len__(self) -> int:
        return len(next(iter(self.places.values())).file)

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields that at least one record has."""
        return tuple(self.places)

    def read(self, i: int, fields: Collection[str] | None = None) -> dict[str, bytes]:
        """The fields that record i has; only some of them are read if they are named.

        Raises:
            Unreadable: a file is missing or truncated, or the checksum does not match.
        """
        wanted = {name: place for name, place in self.places.items() if fields is None or name in fields}
        return {name: self._bytes(place, i) for name, place in wanted.items() if place.file[i] >= 0}

    @contextlib.contextmanager
    def opened(self, field: str, i: int) -> Iterator[IO[bytes]]:
        """A field that record i has, as a file of which only what is asked for is read. Raises OSError."""
        place = self.places[field]
        start, size = int(place.start[i]), int(place.size[i])
        with open_plain(self.paths[place.file[i]]) as file:
            yield file if size < 0 else part_of(file, start, size)

    def without_text(self) -> int:
        """The number of records without a file or member of text."""
        texts = [place.file >= 0 for field, place in self.places.items() if field in ("text", "json")]
        return len(self) - int(np.any(texts, axis=0).sum()) if texts else len(self)

    def name(self, i: int) -> str:
        """Path and, within a shard, key or position of record i, for messages."""
        first = next(iter(self.places.values()))
        path = self.paths[first.file[i]]
        if self.keys is not None:
            return f"{path}: {self.keys[i].decode('utf-8', 'replace')}"
        return f"{path}: record at byte {first.start[i] - _LENGTH.size}" if self.checked else path

    def of_split(self, split: str, heldout_fraction: float) -> Records:
        """The records of "train" or "heldout": a hash of the name decides.

        The name is that of the file without its folder, the key in a tar file, shard and position for a TFRecord.
        """
        heldout = np.array([is_heldout(self.split_name(i), heldout_fraction) for i in range(len(self))], bool)
        return self.chosen(heldout == (split == "heldout"))

    def split_name(self, i: int) -> str:
        """The name that decides the split of record i."""
        if self.keys is not None:
            return self.keys[i].decode("utf-8", "replace")
        first = next(iter(self.places.values()))
        return os.path.basename(self.paths[first.file[i]]) + (f":{first.start[i]}" if self.checked else "")

    def chosen(self, which: np.ndarray) -> Records:
        """Some of the records, chosen by a mask bool [N] or by their numbers."""
        places = {name: Field(*(part[which] for part in place)) for name, place in self.places.items()}
        return replace(self, places=places, keys=None if self.keys is None else self.keys[which])

    def _bytes(self, place: Field, i: int) -> bytes:
        path, start, size = self.paths[place.file[i]], int(place.start[i]), int(place.size[i])
        try:
            check_plain(path)
            with _opened(path) as file:
                if size < 0:
                    return file.read()
                wanted = size + (_CHECKSUM_SIZE if self.checked else 0)
                data = _read_at(file, start, wanted)
        except OSError as error:
            raise Unreadable(error.strerror or str(error)) from None
        if len(data) < wanted:
            raise Unreadable("the file ends before it")
        if self.checked and _checksum(data[:size]) != int.from_bytes(data[size:], "little"):
            raise Unreadable("its checksum does not fit")
        return data[:size]


def index_tfrecord(paths: Iterable[str | os.PathLike[str]]) -> Records:
    """The records of TFRecord files, with the single field "example".

    The checksums of lengths are verified here, those of contents when they are read.

    Raises:
        UserError: no record in any of the files, or one of them is missing.
    """
    return _indexed(paths, _scan_tfrecord, "TFRecord", checked=True)


def index_webdataset(paths: Iterable[str | os.PathLike[str]]) -> Records:
    """The images in tar files, with their companions: WebDataset's samples, or a folder that was packed.

    Fields are "image", "text" (NAME.txt), "json" and companions, such as "depth" (NAME.depth.png, .tif), see
    `io.naming`. Other members are left out.

    Raises:
        UserError: no image in any of the files, or one of them is missing.
    """
    return _indexed(paths, _scan_tar, "WebDataset", checked=False)


def index_files(paths: Sequence[str | os.PathLike[str]]) -> Records:
    """Image files, with the fields of `index_webdataset` from the companions next to them.

    Companions among the paths are not records themselves. Companions of an image need not be among the paths.

    Raises:
        UserError: none of the paths is an image.
    """
    split = [os.path.split(os.fspath(path)) for path in paths]
    given = defaultdict(list)
    for folder, name in split:
        given[folder].append(name)
    companions, left_out = {}, set()  # (folder, name) of an image -> field -> path
    for folder, names in given.items():
        names, found = _sorted_folder(folder, names)
        left_out |= {(folder, names[i]) for i in found.left_out}
        for i, parts in zip(found.images, found.companions, strict=True):
            beside = {field: os.path.join(folder, names[one]) for field, one in parts.items()}
            companions[folder, names[i]] = {**beside, "image": os.path.join(folder, names[i])}
    named = [path for path in split if path in companions]
    if not named:
        raise UserError(f"{os.fspath(paths[0])} is a companion of an image: name that image")
    all_paths, places = [], defaultdict(lambda: np.full(len(named), -1, np.int32))
    for i, path in enumerate(named):
        for field, one in companions[path].items():
            places[field][i] = len(all_paths)
            all_paths.append(one)
    start, size = np.zeros(len(named), np.int64), np.full(len(named), -1, np.int64)
    order = sorted(places, key=lambda field: field != "image")
    fields = {field: Field(places[field], start, size) for field in order}
    return Records(
        tuple(all_paths), fields, left_out=LeftOut.of(name for folder, name in split if (folder, name) in left_out)
    )


def with_files(records: Records, field: str, paths: Sequence[str | os.PathLike[str]]) -> Records:
    """Image files with their texts, and a field that is one file for each, whatever its name."""
    file = np.arange(len(records.paths), len(records.paths) + len(paths), dtype=np.int32)
    added = Field(file, np.zeros(len(file), np.int64), np.full(len(file), -1, np.int64))
    texts = {name: place for name, place in records.places.items() if name in ("text", "json")}
    places = {"image": records.places["image"], field: added, **texts}
    return replace(records, paths=(*records.paths, *(os.fspath(path) for path in paths)), places=places)


def _sorted_folder(folder: str, given: Sequence[str]) -> tuple[list[str], Sorted]:
    """The names in one folder, of the files that are not hidden and of those that are given, and what they are."""
    try:
        if is_remote(folder):
            names = [path.name for path in as_path(folder).iterdir() if not is_hidden(path.name)]
        else:
            with os.scandir(folder or ".") as entries:
                names = [entry.name for entry in entries if not is_hidden(entry.name) and is_file(entry)]
    except OSError:
        names = []  # reading its images will report it
    names = sorted({*names, *given})
    return names, sort_names(names)


class _Scan(NamedTuple):
    """The headers of one shard."""

    places: dict[str, tuple[list[int], list[int]]]  # field -> starts and sizes; a start of -1: no such field
    keys: list[bytes] | None
    reason: str | None  # of damage
    left_out: LeftOut = LeftOut()

    @property
    def count(self) -> int:
        """The number of records."""
        return len(next(iter(self.places.values()), ([],))[0])


def _indexed(paths, scan, kind: str, *, checked: bool) -> Records:
    paths = tuple(os.fspath(path) for path in paths)
    parts, damaged = [], []
    progress, began = Progress(f"indexing {kind} files", len(paths)), time.monotonic()
    for number, path in enumerate(paths):
        try:
            part = scan(path, as_path(path).stat().st_size)
        except OSError as error:
            raise UserError(f"cannot read {kind} file {path}: {error.strerror or error}") from None
        if part.reason:
            damaged.append(Damage(path, part.reason, part.count))
        parts.append(part)
        if time.monotonic() - began > PATIENCE:
            progress.update(number + 1)
    names = {field for part in parts for field in part.places}
    count = [part.count for part in parts]
    if not sum(count):
        reasons = "; ".join(f"{d.path}: {d.reason}" for d in damaged[:3])
        where = paths[0] if len(paths) == 1 else f"the {len(paths)} files {paths[0]} to {paths[-1]}"
        raise UserError(f"no {kind} record with an image in {where}{'; ' + reasons if reasons else ''}")
    places = {}
    for field in sorted(names, key=lambda name: (name != "image", name)):
        columns = [part.places.get(field, ([-1] * n, [0] * n)) for part, n in zip(parts, count, strict=True)]
        start, size = (np.concatenate([np.array(c[k], np.int64) for c in columns]) for k in (0, 1))
        file = np.repeat(np.arange(len(paths), dtype=np.int32), count)
        places[field] = Field(np.where(start < 0, np.int32(-1), file), start, size)
    keys = None if checked else np.array([key for part in parts for key in part.keys])
    left_out = functools.reduce(LeftOut.joined, (part.left_out for part in parts))
    return Records(paths, places, keys, checked, tuple(damaged), left_out)


def _scan_tfrecord(path: str, size: int) -> _Scan:
    starts, lengths, reason, position = [], [], None, 0
    with _opened(path) as file:
        while position < size:
            header = _read_at(file, position, _LENGTH.size)
            if len(header) < _LENGTH.size:
                reason = f"cut off at byte {position}"
                break
            length, checksum = _LENGTH.unpack(header)
            if _checksum(header[:8]) != checksum:
                reason = f"damaged, or not a TFRecord file, at byte {position}"
                break
            starts.append(position + _LENGTH.size)
            lengths.append(length)
            position = starts[-1] + length + _CHECKSUM_SIZE
            if position > size:
                reason = f"cut off at byte {starts[-1] - _LENGTH.size}"
                break
    count = len(starts) - (position > size)  # the last one is not whole
    return _Scan({"example": (starts[:count], lengths[:count])}, None, reason)


def _checksum(data: bytes) -> int:
    """The checksum of TFRecord files: CRC-32C, rotated by 15 bits, plus a constant."""
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _scan_tar(path: str, size: int) -> _Scan:
    names, places, others, reason = [], [], [], None
    try:
        with as_path(path).open("rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
            while (member := tar.next()) is not None:
                cast(Any, tar).members.clear()  # else it keeps all of them in memory
                if member.offset_data + member.size > size:
                    reason = f"cut off at byte {member.offset}"
                    break
                if member.isdir() or is_hidden(member.name):
                    continue
                if member.isreg():
                    names.append(member.name)
                    places.append((member.offset_data, member.size))
                else:
                    others.append(f"{member.name} ({'a link' if member.islnk() or member.issym() else 'not a file'})")
            else:
                end = _read_at(file, tar.offset, _BLOCK)
                if end != bytes(_BLOCK):  # tarfile itself does not check the end mark
                    reason = f"damaged at byte {tar.offset}" if len(end) == _BLOCK else f"cut off at byte {tar.offset}"
    except tarfile.TarError as error:
        reason = f"damaged, or not an uncompressed tar file ({error})"
    found, nothing = sort_names(names), (-1, 0)
    parts = [{**companions, "image": i} for companions, i in zip(found.companions, found.images, strict=True)]
    columns = {}
    for field in {field for one in parts for field in one}:
        column = [places[one[field]] if field in one else nothing for one in parts]
        columns[field] = ([start for start, _ in column], [size for _, size in column])
    keys = [field_of(names[i])[0].encode("utf-8", "surrogateescape") for i in found.images]
    return _Scan(columns, keys, reason, LeftOut.of([*(names[i] for i in found.left_out), *others]))


def _opened(path: str) -> IO[bytes]:
    """A file to read single places of; nothing is read ahead on this machine."""
    return as_path(path).open("rb") if is_remote(path) else open(path, "rb", buffering=0)


def _read_at(file: IO[bytes], start: int, size: int) -> bytes:
    """`size` bytes from `start`, fewer at the end of the file. A single read ends at 2 GiB."""
    file.seek(start)
    data = file.read(size)
    while 0 < len(data) < size:
        more = file.read(size - len(data))
        if not more:
            break
        data += more
    return data
