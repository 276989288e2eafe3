"""Images that another method made, in a folder: matched by name to the inputs, and measured as a model's are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from codi_tf.core.errors import UserError
from codi_tf.evaluation.samplers import Sampler
from codi_tf.io.depth_files import photo_files
from codi_tf.io.images import read_image


def read_results(folder: Path, names: Sequence[str], height: int, width: int) -> np.ndarray:
    """The images of these names, float32 [N, H, W, 3] in [-1, 1]. Others in the folder are not looked at.

    Args:
        folder: of NAME.png, or of other extensions, in subfolders as the names have them.
        names: NAME of each original.
        height, width: of the originals.

    Raises:
        UserError: a missing image, one of another size, or one that cannot be read.
    """
    files = photo_files(folder)
    missing = [name for name in names if name not in files]
    if missing:
        raise UserError(
            f"{folder} is no bundle, and as a folder of results it lacks images of {len(missing)} of {len(names)} "
            f"inputs: {missing[0]}, for one; name each image as its input"
        )
    images = []
    for name in names:
        image = read_image(files[name])
        if image.shape[:2] != (height, width):
            sizes = f"{image.shape[1]}x{image.shape[0]}, but its original is {width}x{height}"
            raise UserError(f"{files[name]}: {sizes}; a result has the size of its original")
        images.append(2 * image - 1)
    return np.stack(images).astype(np.float32)


def sampler_of(images: np.ndarray, encode: Callable[[np.ndarray], np.ndarray]) -> Sampler:
    """A sampler that gives these images [N, H, W, 3] for N conditions, and their latents by `Evaluator.encode`."""
    return lambda conditions: (images, encode(images))
