"""The sizes of windows of images, in memory and on disk. NumPy and Python only.

A size, (height, width), comes before a crop's `image_size`: one number for a square, or (height, width).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

from codi_tf.core.errors import UserError

Size: TypeAlias = int | tuple[int, int]

MAX_ZOOM_OUT = 2.5  # a crop of S pixels shows a window of S to 2.5 S pixels of the image


def sides(image_size: Size) -> tuple[int, int]:
    """(height, width) of a crop."""
    return (image_size, image_size) if isinstance(image_size, int) else image_size


def square(image_size: Size, what: str) -> int:
    """The side of a crop. Raises UserError for a rectangle, which `what` cannot give."""
    height, width = sides(image_size)
    if height != width:
        raise UserError(f"image_size is {height}x{width}: {what} are square; name one number")
    return height


def fits(size: Sequence[int], image_size: Size) -> bool:
    """Whether an image is at least as large as a crop."""
    return all(have >= wanted for have, wanted in zip(size, sides(image_size), strict=True))


def largest_side(image_size: Size) -> int:
    """The longer side of the largest image that windows are drawn from."""
    return max(800, round(1.5 * MAX_ZOOM_OUT * max(sides(image_size))))


def shrink_factor(height: int, width: int, image_size: Size) -> float:
    """The factor by which an image is shrunk first; windows of a larger image would show only texture."""
    return max(1.0, max(height, width) / largest_side(image_size))


def shrunk_side(side: int, factor: float, smallest: int = 1) -> int:
    """A side of an image that is made smaller by the factor, at least `smallest`."""
    return max(smallest, round(side / factor))


def max_log_zoom(size: Sequence[float], image_size: Size) -> float:
    """log of the largest zoom. A window is exp(u max_log_zoom) times as large as the crop, u uniform in [0, 1).

    Args:
        size: of the image, made smaller by `shrink_factor`.
        image_size: of the crop that the window becomes.
    """
    return math.log(min(MAX_ZOOM_OUT, *(have / wanted for have, wanted in zip(size, sides(image_size), strict=True))))


def window_of(height: float, size: tuple[int, int], image_size: Size) -> tuple[int, int]:
    """A window about as high as `height`, of the crop's shape, at least as large as it and within the image."""
    tall, wide = sides(image_size)
    high = min(max(round(height), tall), size[0], size[1] * tall // wide)
    return high, min(max(round(high * wide / tall), wide), size[1])
