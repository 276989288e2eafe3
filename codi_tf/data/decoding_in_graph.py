"""Windows of image files in operations of TensorFlow: those that `decoding` cuts in Python, pixel by pixel."""

from __future__ import annotations

import zlib

import numpy as np
import tensorflow as tf

from codi_tf.core.tensors import Tensor
from codi_tf.data.headers import ALPHA, DEEP, JPEG, PLAIN
from codi_tf.data.windows import MAX_ZOOM_OUT, Size, largest_side, sides
from codi_tf.io.companions import Companion
from codi_tf.io.images import to_uint8

RATIOS = (1, 2, 4, 8)  # by which a JPEG is made smaller while it is decoded
MARGIN = 32  # pixels of a JPEG around a window: its colors, which are stored coarser, depend on those beside them
_BEGIN = b"\xff\xd8\xff"  # of the files of JPEG
_BYTES = np.arange(256, dtype=np.float32) / 255
OVER_WHITE = to_uint8(1.0 - _BYTES[:, None] * (1.0 - _BYTES)).reshape(-1)  # [alpha * 256 + color], as `rgb_pixels`
DEEP_TO_BYTE = to_uint8(np.arange(65536).astype(np.float32) / 65535)


def window_size(u: Tensor, size: Tensor, image_size: Size, *, whole: bool) -> Tensor:
    """A window of an image, (height, width), drawn by u, as `decoding.window_size`: int64 [2].

    Args:
        u: float64 [], in [0, 1).
        size: int64 [2], (height, width) of the image, at least as large as the crop.
        image_size: of the crop.
        whole: the window is as large as the image, whatever u.
    """
    height, width = tf.unstack(tf.cast(size, tf.float64))
    if whole:
        return window_of(height, size, image_size)
    tall, wide = sides(image_size)
    factor = tf.maximum(tf.constant(1.0, tf.float64), tf.maximum(height, width) / largest_side(image_size))
    zooms = [tf.maximum(tf.round(side / factor), least) / least for side, least in ((height, tall), (width, wide))]
    zoom = tf.exp(u * tf.math.log(tf.minimum(tf.minimum(zooms[0], zooms[1]), MAX_ZOOM_OUT)))
    return window_of(tall * zoom * factor, size, image_size)


def window_of(height: Tensor, size: Tensor, image_size: Size) -> Tensor:
    """A window about as high as `height`, float64 [], of the crop's shape, as `windows.window_of`: int64 [2]."""
    tall, wide = sides(image_size)
    high = tf.maximum(tf.cast(tf.round(height), tf.int64), tall)
    high = tf.minimum(tf.minimum(high, size[0]), size[1] * tall // wide)
    broad = tf.cast(tf.round(tf.cast(high * wide, tf.float64) / tall), tf.int64)
    return tf.stack([high, tf.minimum(tf.maximum(broad, wide), size[1])])


def place(u: Tensor, room: Tensor) -> Tensor:
    """A whole number from 0 to room, int64 [], with equal probability; u float64 [] in [0, 1)."""
    return tf.minimum(tf.cast(u * tf.cast(room + 1, tf.float64), tf.int64), room)


def way_of(payload: Tensor) -> Tensor:
    """The way to decode a color image that `encoded` stored: JPEG or PLAIN, int32 []."""
    return tf.where(tf.strings.substr(payload, 0, len(_BEGIN)) == _BEGIN, JPEG, PLAIN)


def reduction(factor: Tensor, size: Tensor) -> Tensor:
    """The place in RATIOS of what Pillow's decoder makes a JPEG smaller by, at most `factor`, float64 []: int32 []."""
    wanted = tf.cast(tf.math.ceil(tf.cast(size, tf.float64) / factor), tf.int64)
    scale = tf.reduce_min(size // wanted)
    found = tf.reduce_sum(tf.cast(scale >= tf.constant(RATIOS[1:], tf.int64), tf.int32))
    return tf.where(factor >= 2, found, 0)


def reduced(size: Tensor, number: Tensor) -> Tensor:
    """The (height, width) of a JPEG that is made smaller by RATIOS[number]: int64 [2]."""
    ratio = tf.gather(tf.constant(RATIOS, tf.int64), number)
    return (size + ratio - 1) // ratio


def window(kind: Companion, payload: Tensor, box: Tensor, *, way: Tensor, number: Tensor, turn: Tensor) -> Tensor:
    """A window of a file, of the kind's dtype [H, W, channels].

    Args:
        kind: the companion, or `companions.IMAGE`.
        payload: the file, string [].
        box: int64 [4], top, left, height and width in the upright image, after a JPEG was made smaller.
        way, turn: of its header, int32 [].
        number: the place in RATIOS of what a JPEG is made smaller by, int32 [].
    """

    def cut(pixels: Tensor) -> Tensor:
        return tf.slice(pixels, tf.concat([box[:2], [0]], 0), tf.concat([box[2:], [-1]], 0))

    def whole() -> Tensor:
        return cut(upright(decoded(kind, payload, way, number), turn))

    if not kind.is_color:
        return tf.ensure_shape(whole(), [None, None, kind.channels])
    is_upright_jpeg = tf.logical_and(way == JPEG, turn == 1)
    pixels = tf.switch_case(
        tf.where(is_upright_jpeg, number, len(RATIOS)),
        [*(lambda ratio=ratio: _window_of_jpeg(payload, box, ratio) for ratio in RATIOS), whole],
    )
    return tf.ensure_shape(pixels, [None, None, 3])


def decoded(kind: Companion, payload: Tensor, way: Tensor, number: Tensor) -> Tensor:
    """A file decoded as a whole, as it lies: of the kind's dtype [H, W, channels]; for arguments see `window`."""

    def deep() -> Tensor:
        return tf.io.decode_png(payload, channels=1, dtype=tf.uint16)

    if not kind.is_color:
        gray = tf.cond(way == DEEP, deep, lambda: tf.cast(tf.io.decode_png(payload, channels=1), tf.uint16))
        return kind.in_graph(gray)

    def over_white() -> Tensor:
        pixels = tf.cast(tf.io.decode_image(payload, channels=4, expand_animations=False), tf.int32)
        return tf.gather(OVER_WHITE, 256 * pixels[..., 3:] + pixels[..., :3])

    branches = {
        PLAIN: lambda: tf.io.decode_image(payload, channels=3, expand_animations=False),
        ALPHA: over_white,
        DEEP: lambda: tf.tile(tf.gather(DEEP_TO_BYTE, tf.cast(deep(), tf.int32)), [1, 1, 3]),
    }
    branches |= {JPEG + i: lambda ratio=ratio: _jpeg(payload, ratio) for i, ratio in enumerate(RATIOS)}
    pixels = tf.switch_case(tf.where(way == JPEG, JPEG + number, way), branches)
    return tf.ensure_shape(pixels, [None, None, 3])


def upright(pixels: Tensor, turn: Tensor) -> Tensor:
    """An image [H, W, C], turned as its EXIF orientation says: int32 [], 1 .. 8."""

    def is_one_of(*turns: int) -> Tensor:
        return tf.reduce_any(turn == tf.constant(turns))

    def turned() -> Tensor:
        found = tf.cond(turn >= 5, lambda: tf.transpose(pixels, [1, 0, 2]), lambda: pixels)
        found = tf.cond(is_one_of(2, 3, 6, 7), lambda: found[:, ::-1], lambda: found)
        return tf.cond(is_one_of(3, 4, 7, 8), lambda: found[::-1], lambda: found)

    return tf.cond(turn == 1, lambda: pixels, turned)


def stored_map(kind: Companion, payload: Tensor, size: Tensor) -> Tensor:
    """A companion that has no colors as `encoded` stored it: of the kind's dtype [H, W, channels], size int64 [2]."""
    values = tf.io.decode_raw(tf.io.decode_compressed(payload, "ZLIB"), tf.as_dtype(kind.dtype))
    return tf.reshape(values, tf.concat([size, [kind.channels]], axis=0))


def encoded(kind: Companion, values: np.ndarray, payload: bytes | None) -> bytes:
    """An image or a companion as `decoded` and `stored_map` read it without loss.

    Args:
        kind: the companion, or `companions.IMAGE`.
        values: of the kind's dtype, [H, W, channels].
        payload: the file it was decoded from, which is kept if TensorFlow decodes it to the same pixels.
    """
    if not kind.is_color:
        return zlib.compress(np.ascontiguousarray(values).tobytes(), 6)
    if payload is not None:
        try:
            found = decoded(kind, tf.constant(payload), way_of(tf.constant(payload)), tf.constant(0)).numpy()
        except (tf.errors.OpError, ValueError):
            pass
        else:
            if found.shape == values.shape and np.array_equal(found, values):
                return payload
    return tf.io.encode_png(values).numpy()


def _jpeg(payload: Tensor, ratio: int) -> Tensor:
    return tf.io.decode_jpeg(payload, channels=3, ratio=ratio, dct_method="INTEGER_ACCURATE")


def _window_of_jpeg(payload: Tensor, box: Tensor, ratio: int) -> Tensor:
    """A window of a JPEG, of which little else is decoded."""
    shape = (tf.image.extract_jpeg_shape(payload)[:2] + ratio - 1) // ratio
    inner = tf.cast(box, tf.int32)
    first = tf.maximum(inner[:2] - MARGIN, 0)
    last = tf.minimum(inner[:2] + inner[2:] + MARGIN, shape)
    part = tf.io.decode_and_crop_jpeg(
        payload, tf.concat([first, last - first], 0), channels=3, ratio=ratio, dct_method="INTEGER_ACCURATE"
    )
    return tf.slice(part, tf.concat([inner[:2] - first, [0]], 0), tf.concat([inner[2:], [3]], 0))
