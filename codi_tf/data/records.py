"""An index of the records in shards and folders, which can then be read in any order.

Indexing reads only the headers of TFRecord files and WebDataset's tar files, and only the names in folders of images.
"""

from __future__ import annotations

import os
import re
import struct
import tarfile
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, cast

import google_crc32c
import numpy as np

from codi_tf.core.errors import UserError
from codi_tf.core.progress import Progress
from codi_tf.data.splits import is_heldout
from codi_tf.io.image_files import EXTENSIONS

DEPTH_EXTENSIONS = (".png", ".tif", ".tiff")
COMPANIONS = {
    ".depth": ("depth", DEPTH_EXTENSIONS),
    ".source": ("source", EXTENSIONS),
}  # NAME.depth.png, NAME.source.jpg
PATIENCE = 3.0  # seconds of indexing before its progress is shown
_LENGTH = struct.Struct("<QI")  # of a TFRecord: the length and its masked checksum
_CHECKSUM_SIZE = 4  # bytes behind the data of a TFRecord
_BLOCK = 512  # bytes: the unit of tar files
# A member of a WebDataset: the key of its sample is the path up to the first dot of the file name.
_MEMBER = re.compile(r"(?P<key>(?:.*/)?[^./]+)(?P<extension>\.[^/]+)")


class Unreadable(Exception):
    """A record that cannot be used; the message is the reason, in one line."""


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
    """

    paths: tuple[str, ...]
    places: dict[str, Field]
    keys: np.ndarray | None = None
    checked: bool = False
    damaged: tuple[Damage, ...] = ()

    def __len__(self) -> int:
        return len(next(iter(self.places.values())).file)

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields that at least one record has."""
        return tuple(self.places)

    def read(self, i: int) -> dict[str, bytes]:
        """The fields that record i has.

        Raises:
            Unreadable: the file is missing or truncated, or the checksum does not match.
        """
        return {name: self._bytes(place, i) for name, place in self.places.items() if place.file[i] >= 0}

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
        first = next(iter(self.places.values()))
        heldout = np.empty(len(self), bool)
        for i in range(len(self)):
            if self.keys is not None:
                name = self.keys[i].decode("utf-8", "replace")
            else:
                name = os.path.basename(self.paths[first.file[i]]) + (f":{first.start[i]}" if self.checked else "")
            heldout[i] = is_heldout(name, heldout_fraction)
        return self.chosen(heldout == (split == "heldout"))

    def chosen(self, which: np.ndarray) -> Records:
        """Some of the records, chosen by a mask bool [N] or by their numbers."""
        places = {name: Field(*(part[which] for part in place)) for name, place in self.places.items()}
        return replace(self, places=places, keys=None if self.keys is None else self.keys[which])

    def _bytes(self, place: Field, i: int) -> bytes:
        path, start, size = self.paths[place.file[i]], int(place.start[i]), int(place.size[i])
        try:
            with open(path, "rb", buffering=0) as file:
                if size < 0:
                    return file.read()
                wanted = size + (_CHECKSUM_SIZE if self.checked else 0)
                data = _read_at(file.fileno(), start, wanted)
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
    """The samples of WebDataset's tar files: consecutive members whose names agree up to the first dot.

    Fields are "image" (KEY.jpg, .png, .webp, ...), "text" (KEY.txt), "json", "depth" (KEY.depth.png, .tif) and "source"
    (KEY.source.jpg, .png, ...); other members, and samples without an image, are left out.

    Raises:
        UserError: no image in any of the files, or one of them is missing.
    """
    return _indexed(paths, _scan_tar, "WebDataset", checked=False)


def index_files(paths: Sequence[str | os.PathLike[str]]) -> Records:
    """Image files, with the fields of `index_webdataset` from companions: NAME.txt, NAME.json, NAME.depth.png, ...

    Companions that a pattern matches are not records themselves.

    Raises:
        UserError: all paths are companions of images.
    """
    named = [path for path in map(Path, paths) if _is_image(path.name)]
    if not named:
        raise UserError(f"{paths[0]} is a companion of an image: name that image")
    companions, all_paths = {}, []
    places = defaultdict(lambda: np.full(len(named), -1, np.int32))
    for i, path in enumerate(named):
        if path.parent not in companions:
            companions[path.parent] = _companions(path.parent)
        for field, name in {**companions[path.parent].get(path.stem, {}), "image": path.name}.items():
            places[field][i] = len(all_paths)
            all_paths.append(os.path.join(path.parent, name))
    start, size = np.zeros(len(named), np.int64), np.full(len(named), -1, np.int64)
    order = sorted(places, key=lambda field: field != "image")
    return Records(tuple(all_paths), {field: Field(places[field], start, size) for field in order})


def image_files(folder: str | os.PathLike[str]) -> list[str]:
    """The images in a folder, sorted by name, without those that are companions of others.

    Raises:
        UserError: the folder is missing or has no image.
    """
    if not os.path.isdir(folder):
        raise UserError(f"no such folder of images: {folder}")
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if _is_image(entry.name) and entry.is_file())
    if not names:
        raise UserError(f"no image in folder {folder}; expected files ending in {', '.join(EXTENSIONS)}")
    return [os.path.join(folder, name) for name in names]


def field_of(extension: str) -> str | None:
    """The field of an extension such as ".jpg" or ".source.jpg"; None for any other."""
    extension = extension.lower()
    if extension in EXTENSIONS:
        return "image"
    for infix, (field, extensions) in COMPANIONS.items():
        if extension.startswith(infix) and extension[len(infix) :] in extensions:
            return field
    return {".txt": "text", ".json": "json"}.get(extension)


def _is_image(name: str) -> bool:
    stem, extension = os.path.splitext(name)
    return extension.lower() in EXTENSIONS and os.path.splitext(stem)[1].lower() not in COMPANIONS


def _companions(folder: Path) -> dict[str, dict[str, str]]:
    """Name of an image without its extension -> field -> the file that holds it."""
    found = defaultdict(dict)
    for name in sorted(os.listdir(folder)):
        stem, extension = os.path.splitext(name)
        inner, infix = os.path.splitext(stem)
        if infix.lower() in COMPANIONS:
            stem, extension = inner, infix + extension
        field = field_of(extension)
        if field not in (None, "image"):
            found[stem][field] = name
    return found


class _Scan(NamedTuple):
    """The headers of one shard."""

    places: dict[str, tuple[list[int], list[int]]]  # field -> starts and sizes; a start of -1: no such field
    keys: list[bytes] | None
    reason: str | None  # of damage

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
            part = scan(path, os.stat(path).st_size)
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
    return Records(paths, places, keys, checked, tuple(damaged))


def _scan_tfrecord(path: str, size: int) -> _Scan:
    starts, lengths, reason, position = [], [], None, 0
    with open(path, "rb", buffering=0) as file:
        while position < size:
            header = _read_at(file.fileno(), position, _LENGTH.size)
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
    samples, reason = [], None  # a sample: its key, and field -> (start, size)
    try:
        with tarfile.open(path, "r:") as tar:
            while (member := tar.next()) is not None:
                cast(Any, tar).members.clear()  # else it keeps all of them in memory
                if member.offset_data + member.size > size:
                    reason = f"cut off at byte {member.offset}"
                    break
                match = _MEMBER.fullmatch(member.name) if member.isreg() else None
                if match is None or (field := field_of(match["extension"])) is None:
                    continue
                key = match["key"].encode("utf-8", "surrogateescape")
                if not samples or samples[-1][0] != key:
                    samples.append((key, {}))
                samples[-1][1][field] = (member.offset_data, member.size)
            else:
                with open(path, "rb", buffering=0) as file:
                    end = _read_at(file.fileno(), tar.offset, _BLOCK)
                if end != bytes(_BLOCK):  # tarfile itself does not check the end mark
                    reason = f"damaged at byte {tar.offset}" if len(end) == _BLOCK else f"cut off at byte {tar.offset}"
    except tarfile.TarError as error:
        reason = f"damaged, or not an uncompressed tar file ({error})"
    samples = [(key, fields) for key, fields in samples if "image" in fields]
    names = {field for _, fields in samples for field in fields}
    nothing = (-1, 0)
    places = {}
    for name in names:
        found = [fields.get(name, nothing) for _, fields in samples]
        places[name] = ([start for start, _ in found], [size for _, size in found])
    return _Scan(places, [key for key, _ in samples], reason)


def _read_at(descriptor: int, start: int, size: int) -> bytes:
    """`size` bytes from `start`, fewer at the end of the file. A single read ends at 2 GiB."""
    data = os.pread(descriptor, size, start)
    while 0 < len(data) < size:
        more = os.pread(descriptor, size - len(data), start + len(data))
        if not more:
            break
        data += more
    return data
