"""Writing an image in the format that its name asks for. NumPy and Pillow only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from codi_tf.core.errors import UserError
from codi_tf.io.files import check_file, whole_file
from codi_tf.io.images import to_uint8

FORMATS = {  # suffix -> Pillow's name
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".jfif": "JPEG",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".bmp": "BMP",
    ".jp2": "JPEG2000",
    ".avif": "AVIF",
    ".ppm": "PPM",
    ".tga": "TGA",
}
OPTIONS: dict[str, dict[str, Any]] = {  # lossy formats lose little, and no color resolution
    "JPEG": {"quality": 95, "subsampling": "4:4:4"},
    "WEBP": {"quality": 95},
    "AVIF": {"quality": 95, "subsampling": "4:4:4"},
}
LONGEST = {"JPEG": 65_500, "WEBP": 16_383, "AVIF": 65_535, "TGA": 65_535}  # pixels of a side


def check_image_file(path: Path, size: tuple[int, int] | None = None) -> None:
    """Check, before any work, that an image can be written here.

    Args:
        path: of the file.
        size: (height, width) of the image, if it is known.

    Raises:
        UserError: see `files.check_file`; a suffix of no known format; a format that holds no image of that size.
    """
    check_file(path)
    form = _format(path)
    longest = LONGEST.get(form)
    if size is not None and longest is not None and max(size) > longest:
        raise UserError(f"{path}: {form} takes at most {longest:,} pixels a side, not {max(size):,}; use .png")


def write_image(path: Path, image: np.ndarray) -> None:
    """Write an image, float in [0, 1] or uint8 RGB [H, W, 3], in the format of the file's suffix.

    Creates a missing folder. The file appears whole or not at all.

    Raises:
        UserError: see `check_image_file`; the file cannot be written.
    """
    check_image_file(path, image.shape[:2])
    form = _format(path)
    image_file = Image.fromarray(to_uint8(image))
    with whole_file(path) as partial:
        image_file.save(partial, format=form, **OPTIONS.get(form, {}))


def is_written(path: Path) -> bool:
    """Whether images are written in the format of the file's suffix."""
    return path.suffix.lower() in _known()


def _format(path: Path) -> str:
    known, suffix = _known(), path.suffix.lower()
    if suffix not in known:
        what = f"images are not written as {suffix}" if suffix else "the name has no extension"
        raise UserError(f"{path}: {what}; use a name that ends in {', '.join(known)}")
    return known[suffix]


def _known() -> dict[str, str]:
    Image.init()
    return {suffix: form for suffix, form in FORMATS.items() if form in Image.SAVE}  # some are left out of a Pillow
