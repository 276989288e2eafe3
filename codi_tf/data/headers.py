"""What the headers of image files say: whether operations of TensorFlow decode them to the pixels of `io.images`.

TensorFlow decodes JPEG, PNG and WebP, but for JPEG in CMYK, PNG with 32 bits and moving WebP. How an image is turned
is in its header, too: TensorFlow does not look there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import IO, Any, NamedTuple

import numpy as np
from PIL import ExifTags, Image

from codi_tf.core.paths import is_remote
from codi_tf.core.progress import Progress
from codi_tf.data.decoding import ROTATED, reason_of
from codi_tf.data.records import PATIENCE, Records, Unreadable
from codi_tf.io.companions import Companion, companion
from codi_tf.io.image_files import open_image

PLAIN, ALPHA, DEEP, JPEG = range(4)  # ways to decode: RGB or gray; over white; gray of 16 bits; JPEG
AT_ONCE = 1024  # records whose headers are read before the progress is shown again
THREADS, REMOTE_THREADS = 4, 32
_PNG = b"\x89PNG\r\n\x1a\n"
_EXIF, _TEXTS = b"eXIf", (b"tEXt", b"zTXt", b"iTXt")  # chunks of PNG that may say how an image is turned
_IN_TEXTS = (b"Raw profile type", b"XML:com.adobe.xmp")  # the texts that do


class Header(NamedTuple):
    """Of one file.

    Attributes:
        size: (height, width), upright.
        way: how it is decoded, of PLAIN, ALPHA, DEEP, JPEG; None: TensorFlow cannot.
        turn: the EXIF orientation, 1 .. 8; 1 is upright.
    """

    size: tuple[int, int]
    way: int | None
    turn: int


@dataclass(frozen=True)
class Headers:
    """Of N records, each of one file or several.

    Attributes:
        size: int64 [N, 2], (height, width) of the image, upright; 0 where it is unreadable.
        way: field -> int32 [N], see `Header`.
        turn: field -> int32 [N].
        bad: record -> the reason why it is unreadable.
    """

    size: np.ndarray
    way: dict[str, np.ndarray]
    turn: dict[str, np.ndarray]
    bad: dict[int, str]

    def chosen(self, numbers: Sequence[int]) -> Headers:
        """Of some of the records."""
        rows = np.asarray(numbers, np.int64)
        way, turn = ({key: one[rows] for key, one in table.items()} for table in (self.way, self.turn))
        bad = {i: self.bad[number] for i, number in enumerate(rows.tolist()) if number in self.bad}
        return Headers(self.size[rows], way, turn, bad)


def is_decoded_in_graph(kind: Companion) -> bool:
    """Whether operations of TensorFlow can make the windows of a companion."""
    own = type(kind).window is not Companion.window
    return type(kind).in_graph is not Companion.in_graph if own or not kind.is_color else True


def read_header(file: IO[bytes], kind: Companion) -> Header:
    """The header of a file. Raises Unreadable for what is no image."""
    try:
        may_be_turned = _may_be_turned(file)
        image = open_image(file)
        turn = image.getexif().get(ExifTags.Base.Orientation, 1) if may_be_turned else 1
        way = _way(image, kind)
    except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error, ...
        raise Unreadable(reason_of(error)) from None
    width, height = image.size
    return Header(
        (width, height) if turn in ROTATED else (height, width),
        way,
        turn if isinstance(turn, int) and turn in range(2, 9) else 1,
    )


def read_headers(records: Records, keys: Sequence[str], mismatch: Callable[[str, Any, Any], str | None]):
    """The headers of the files of all records; None if there is one that TensorFlow cannot decode.

    Args:
        records: the records.
        keys: "image", first, and the companions that are read along with it.
        mismatch: (companion, its size, the image's) -> why a record with these is unreadable; None: it is not, but
            TensorFlow alone cannot read it.
    """
    kinds = {key: companion(key) for key in keys}
    count = len(records)
    size = np.zeros([count, 2], np.int64)
    way = {key: np.zeros(count, np.int32) for key in keys}
    turn = {key: np.ones(count, np.int32) for key in keys}
    bad: dict[int, str] = {}

    def read(i: int) -> dict[str, Header] | str:
        found = {}
        for key, kind in kinds.items():
            if records.places[key].file[i] < 0:
                return f"it has no {key}"
            try:
                with records.opened(key, i) as file:
                    found[key] = read_header(file, kind)
            except Unreadable as reason:
                return str(reason)
            except OSError as error:
                return error.strerror or str(error)
        return found

    remote = any(map(is_remote, records.paths[:1]))
    progress, began = Progress("reading the headers of images", count), time.monotonic()
    with ThreadPoolExecutor(REMOTE_THREADS if remote else THREADS) as pool:
        for first in range(0, count, AT_ONCE):
            rows = range(first, min(first + AT_ONCE, count))
            for i, found in zip(rows, pool.map(read, rows), strict=True):
                if isinstance(found, str):
                    bad[i] = found
                    continue
                size[i] = found["image"].size
                for key, header in found.items():
                    other = None if header.size == found["image"].size else (key, header.size, found["image"].size)
                    reason = None if other is None else mismatch(*other)
                    if header.way is None or (other is not None and reason is None):
                        return None
                    if reason is not None:
                        bad[i] = reason
                    way[key][i], turn[key][i] = header.way, header.turn
            if time.monotonic() - began > PATIENCE:
                progress.update(rows.stop)
    return Headers(size, way, turn, bad)


def _way(image: Image.Image, kind: Companion) -> int | None:
    deep = image.mode.startswith("I;16")
    if not kind.is_color:
        of_png = DEEP if deep else PLAIN if image.mode == "L" else None
        return of_png if image.format == "PNG" else None
    if image.format in ("JPEG", "MPO"):  # MPO is a JPEG with others behind it
        return JPEG if image.mode in ("L", "RGB") else None
    if image.format == "WEBP":
        moves = getattr(image, "is_animated", False)
        return None if moves else ALPHA if image.has_transparency_data else PLAIN
    if image.format != "PNG" or image.mode in ("I", "F"):
        return None
    return DEEP if deep else ALPHA if image.has_transparency_data else PLAIN


def _may_be_turned(file: IO[bytes]) -> bool:
    """Whether a file may say how it is turned. Pillow decodes a whole PNG to find out; its chunks tell it sooner."""
    file.seek(0)
    turned = file.read(len(_PNG)) != _PNG
    while not turned and len(head := file.read(8)) == 8:
        length, chunk = int.from_bytes(head[:4], "big"), head[4:]
        start = file.read(min(length, 20)) if chunk in _TEXTS else b""
        turned = chunk == _EXIF or start.startswith(_IN_TEXTS)
        file.seek(length + 4 - len(start), 1)
    file.seek(0)
    return turned
