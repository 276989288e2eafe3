"""Strips: the first images of a sample side by side in one PNG, from which grids are made."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from codi_tf.io.images import read_image, to_uint8, write_png

IMAGES = 12  # in a strip


def write_strip(path: Path, images: np.ndarray) -> None:
    """Write the first images of [N, H, W, 3] in [-1, 1]."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shown = np.clip((np.asarray(images[:IMAGES], np.float32) + 1) / 2, 0, 1)
    write_png(path, to_uint8(np.concatenate(list(shown), axis=1)))


def read_strip(path: Path) -> np.ndarray:
    """Read the images of a strip, float32 [IMAGES, H, W, 3] in [0, 1]; they are square."""
    strip = read_image(path)
    return np.stack(np.split(strip, strip.shape[1] // strip.shape[0], axis=1))
