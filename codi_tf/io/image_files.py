"""Opening image files: which formats are read, and what is refused before a pixel is decoded."""

from __future__ import annotations

import os
import threading
import warnings
from typing import IO

from PIL import Image

from codi_tf.core.paths import as_path, is_remote
from codi_tf.io.plain_files import check_plain

# The formats that Pillow itself decodes. For others it starts programs: Ghostscript for PostScript, whatever the
# file's name. A JPEG of several images (MPO) is opened as JPEG.
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
EXTENSIONS = (  # of the names of these files
    *(".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg"),
    *(".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"),
)
_LOCK = threading.Lock()  # `warnings.catch_warnings` belongs to the whole process


def open_image(file: str | os.PathLike[str] | IO[bytes]) -> Image.Image:
    """Open an image of `FORMATS`, and read its header only. All image files are opened here.

    Raises:
        OSError: the file cannot be read, or is no regular file.
        PIL.UnidentifiedImageError: not an image of these formats.
        PIL.Image.DecompressionBombError, PIL.Image.DecompressionBombWarning: more than `PIL.Image.MAX_IMAGE_PIXELS`.
        Exception: of a decoder, on a damaged header.
    """
    if isinstance(file, str | os.PathLike):
        check_plain(file)
        file = as_path(file).open("rb") if is_remote(file) else file
    with _LOCK, warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        Image.init()
        return Image.open(file, formats=[name for name in FORMATS if name in Image.OPEN])


def is_too_large(error: Exception) -> bool:
    """Whether `open_image` raised this because of the number of pixels."""
    return isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning)
