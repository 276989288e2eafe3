"""The sizes of square windows of images, in memory and on disk. NumPy and Python only."""

from __future__ import annotations

import math

MAX_ZOOM_OUT = 2.5  # a crop of S pixels shows a window of S to 2.5 S pixels of the image


def shrink_factor(height: int, width: int, image_size: int) -> float:
    """The factor by which an image is shrunk first; windows of a larger image would show only texture."""
    return max(1.0, max(height, width) / max(800, round(1.5 * MAX_ZOOM_OUT * image_size)))


def shrunk_side(side: int, factor: float, smallest: int = 1) -> int:
    """A side of an image that is made smaller by the factor, at least `smallest`."""
    return max(smallest, round(side / factor))


def max_log_zoom(shorter_side: int, image_size: int) -> float:
    """log of the largest zoom. A window's side is image_size exp(u max_log_zoom), u uniform in [0, 1).

    Args:
        shorter_side: of the image, made smaller by `shrink_factor`.
        image_size: side of the crop that the window becomes.
    """
    return math.log(min(MAX_ZOOM_OUT, shorter_side / image_size))
