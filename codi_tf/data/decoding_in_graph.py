"""Windows of image files in operations of TensorFlow: those that `decoding` cuts in Python, pixel by pixel.

The formats are those of `tf.io.decode_image`: JPEG, PNG, WebP, GIF, BMP.
"""

from __future__ import annotations

import zlib

import numpy as np
import tensorflow as tf

from codi_tf.core.tensors import Tensor
from codi_tf.data.windows import MAX_ZOOM_OUT, Size, largest_side, sides
from codi_tf.io.companions import Companion

RATIOS = (1, 2, 4, 8)  # by which a JPEG is made smaller while it is decoded
_JPEG = b"\xff\xd8\xff"  # how the files begin


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


def decoded(kind: Companion, payload: Tensor, size: Tensor, factor: Tensor | None) -> Tensor:
    """What `encoded` stored, of the kind's dtype [H, W, channels].

    Args:
        kind: the companion, or `companions.IMAGE`.
        payload: string [].
        size: int64 [2], (height, width).
        factor: float64 []: a JPEG is made smaller by 2, 4 or 8, at most this, while it is decoded; None: nothing is.
    """
    if not kind.is_color:
        values = tf.io.decode_raw(tf.io.decode_compressed(payload, "ZLIB"), tf.as_dtype(kind.dtype))
        return tf.reshape(values, tf.concat([size, [kind.channels]], axis=0))
    is_jpeg = tf.strings.substr(payload, 0, len(_JPEG)) == _JPEG
    ratio = 0 if factor is None else _ratio(factor, size)
    branches = [lambda: tf.io.decode_image(payload, channels=3, expand_animations=False)]
    branches += [
        lambda ratio=ratio: tf.io.decode_jpeg(payload, channels=3, ratio=ratio, dct_method="INTEGER_ACCURATE")
        for ratio in RATIOS[: 1 if factor is None else None]
    ]
    pixels = tf.switch_case(tf.where(is_jpeg, 1 + ratio, 0), branches)
    return tf.ensure_shape(pixels, [None, None, 3])


def encoded(kind: Companion, values: np.ndarray, payload: bytes | None) -> bytes:
    """An image or a companion as `decoded` reads it without loss.

    Args:
        kind: the companion, or `companions.IMAGE`.
        values: of the kind's dtype, [H, W, channels].
        payload: the file it was decoded from, which is kept if TensorFlow decodes it to the same pixels.
    """
    if not kind.is_color:
        return zlib.compress(np.ascontiguousarray(values).tobytes(), 6)
    if payload is not None:
        try:
            found = decoded(kind, tf.constant(payload), tf.constant(values.shape[:2], tf.int64), None).numpy()
        except (tf.errors.OpError, ValueError):
            pass
        else:
            if found.shape == values.shape and np.array_equal(found, values):
                return payload
    return tf.io.encode_png(values).numpy()


def _ratio(factor: Tensor, size: Tensor) -> Tensor:
    """The place in RATIOS that Pillow's decoder takes for a size smaller by the factor, int32 []."""
    wanted = tf.cast(tf.math.ceil(tf.cast(size, tf.float64) / factor), tf.int64)
    scale = tf.reduce_min(size // wanted)
    place = tf.reduce_sum(tf.cast(scale >= tf.constant(RATIOS[1:], tf.int64), tf.int32))
    return tf.where(factor >= 2, place, 0)
