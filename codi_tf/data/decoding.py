"""Decoding windows of image files, with as little work as possible."""

from __future__ import annotations

import io
import math

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from codi_tf.core.errors import UserError
from codi_tf.data.records import Unreadable
from codi_tf.data.unreadable import too_small
from codi_tf.data.windows import max_log_zoom, shrink_factor, shrunk_side
from codi_tf.io import depth_files, images
from codi_tf.io.image_files import FORMATS, is_too_large, open_image

_ROTATED = (5, 6, 7, 8)  # EXIF orientations that exchange height and width


class EncodedImage:
    """An image file in memory, of which only the header has been read.

    Attributes:
        size: (height, width), upright.

    Raises:
        Unreadable: not an image.
    """

    def __init__(self, payload: bytes):
        try:
            self._image = open_image(io.BytesIO(payload))
            width, height = self._image.size
            rotated = self._image.getexif().get(ExifTags.Base.Orientation) in _ROTATED
        except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error, ...
            raise Unreadable(_reason(error)) from None
        self.size = (width, height) if rotated else (height, width)

    def shrunk(self, factor: float) -> Image.Image:
        """The whole image, upright; a JPEG is made smaller by 2, 4 or 8, at most the factor, while it is decoded."""
        image = self._image
        try:
            if factor >= 2:  # only JPEG's decoder can
                image.draft(image.mode, (math.ceil(image.width / factor), math.ceil(image.height / factor)))
            ImageOps.exif_transpose(image, in_place=True)
            image.load()
        except Exception as error:
            raise Unreadable(_reason(error)) from None
        return image


def window_side(u: float, size: tuple[int, int], image_size: int) -> int:
    """The side of a window in pixels of an image, drawn by u in [0, 1), distributed as in `in_memory.Photos`.

    Raises:
        Unreadable: the image is smaller than image_size.
    """
    if min(size) < image_size:
        raise Unreadable(too_small(size, image_size))
    factor = shrink_factor(*size, image_size)
    zoom = math.exp(u * max_log_zoom(shrunk_side(min(size), factor, image_size), image_size))
    return min(max(round(image_size * zoom * factor), image_size), *size)


def place(u: float, room: int) -> int:
    """A whole number from 0 to room, with equal probability; u in [0, 1)."""
    return min(int(u * (room + 1)), room)


def pixels(image: Image.Image) -> np.ndarray:
    """An image of any mode as uint8 RGB [H, W, 3], as `images.read_image` converts it.

    Raises:
        Unreadable: values of unknown range.
    """
    if image.mode in ("F", "I") or image.mode.startswith("I;16"):
        values, largest = np.asarray(image).astype(np.float32), 1 if image.mode == "F" else 65535
        if not (values.min() >= 0 and values.max() <= largest):  # so written, NaN fails, too
            raise Unreadable(f"mode {image.mode} with values {values.min()} to {values.max()}, not 0 to {largest}")
        return np.repeat(images.to_uint8(values / largest)[..., None], 3, axis=-1)
    if image.has_transparency_data:
        rgba = np.asarray(image.convert("RGBA"), np.float32) / 255
        return images.to_uint8(1.0 - rgba[..., 3:] * (1.0 - rgba[..., :3]))  # over white
    return np.asarray(image.convert("RGB"))


def nearness(image: Image.Image) -> np.ndarray:
    """A grayscale disparity map as float32 [H, W, 1]: larger is nearer; holes are filled.

    Raises:
        Unreadable: in color, constant or without a known pixel.
    """
    values = np.asarray(image)
    if values.ndim != 2 or image.mode == "P":
        raise Unreadable(f"the depth map is of mode {image.mode}, not grayscale")
    near = depth_files.nearness(values, "disparity")
    try:
        return depth_files.checked_nearness("the depth map", near, fill=True)[..., None]
    except UserError as error:
        raise Unreadable(str(error)) from None


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):  # its message names an object in memory
        return f"not an image of {', '.join(FORMATS)}"
    if is_too_large(error):
        return f"more than {Image.MAX_IMAGE_PIXELS:,} pixels"
    return f"truncated or damaged ({' '.join(str(error).split())})"
