"""Decoding windows of image files, with as little work as possible."""

from __future__ import annotations

import io
import math

from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from codi_tf.data.records import Unreadable
from codi_tf.data.unreadable import too_small
from codi_tf.data.windows import Size, fits, max_log_zoom, shrink_factor, shrunk_side, sides, window_of
from codi_tf.io.image_files import FORMATS, is_too_large, open_image

ROTATED = (5, 6, 7, 8)  # EXIF orientations that exchange height and width


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
            rotated = self._image.getexif().get(ExifTags.Base.Orientation) in ROTATED
        except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error, ...
            raise Unreadable(reason_of(error)) from None
        self.size = (width, height) if rotated else (height, width)

    def shrunk(self, factor: float) -> Image.Image:
        """The whole image, upright; a JPEG is made smaller by 2, 4 or 8, at most the factor, while it is decoded.

        Raises:
            Unreadable: a truncated or damaged file.
        """
        image = self._image
        try:
            if factor >= 2:  # only JPEG's decoder can
                image.draft(image.mode, (math.ceil(image.width / factor), math.ceil(image.height / factor)))
            ImageOps.exif_transpose(image, in_place=True)
            image.load()
        except Exception as error:
            raise Unreadable(reason_of(error)) from None
        return image


def window_size(u: float, size: tuple[int, int], image_size: Size) -> tuple[int, int]:
    """A window in pixels of an image, (height, width), drawn by u in [0, 1), distributed as in `in_memory.Photos`.

    Raises:
        Unreadable: the image is smaller than image_size.
    """
    if not fits(size, image_size):
        raise Unreadable(too_small(size, image_size))
    factor, wanted = shrink_factor(*size, image_size), sides(image_size)
    shrunk = [shrunk_side(have, factor, least) for have, least in zip(size, wanted, strict=True)]
    zoom = math.exp(u * max_log_zoom(shrunk, image_size))
    return window_of(wanted[0] * zoom * factor, size, image_size)


def place(u: float, room: int) -> int:
    """A whole number from 0 to room, with equal probability; u in [0, 1)."""
    return min(int(u * (room + 1)), room)


def reason_of(error: Exception) -> str:
    """Why a file is no image, or a damaged one, in one line."""
    if isinstance(error, OSError) and error.strerror:  # of the file system, not of a decoder
        return error.strerror
    if isinstance(error, UnidentifiedImageError):  # its message names an object in memory
        return f"not an image of {', '.join(FORMATS)}"
    if is_too_large(error):
        return f"more than {Image.MAX_IMAGE_PIXELS:,} pixels"
    return f"truncated or damaged ({' '.join(str(error).split())})"
