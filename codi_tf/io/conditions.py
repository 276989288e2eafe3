"""Reading a user's condition from files into an array. NumPy and Pillow only.

A task declares the kind of file that it takes (`Task.condition_file`), and the manifest of an exported package repeats
it. Commands and packages therefore need no list of tasks.
"""

from __future__ import annotations

import os
from typing import Literal, get_args

import numpy as np

from codi_tf.core.errors import UserError
from codi_tf.io.depth_files import as_gray_image, read_nearness
from codi_tf.io.images import read_image, read_image_and_mask

Path = str | os.PathLike[str]
ConditionFile = Literal["image", "masked_image", "disparity", "depth"]
KINDS = get_args(ConditionFile)


def read_condition(path: Path, kind: str, mask: Path | None = None) -> np.ndarray:
    """Read a condition in the form that `CoDi.generate` takes.

    Args:
        path: the file.
        kind: "image"; "masked_image", an image whose mask is in a second file; "disparity" or "depth", a depth map.
        mask: the second file: white where the image is unknown.

    Returns:
        float32 [H, W, 3] in [0, 1]; for a masked image [H, W, 4], whose mask is 1 where the image is unknown.

    Raises:
        UserError: a file cannot be read; an unknown kind; a mask is missing, or given for a kind without one.
    """
    if kind not in KINDS:
        raise UserError(f"unknown kind of condition file {kind!r}; known are {', '.join(KINDS)}")
    if kind == "masked_image":
        if mask is None:
            raise UserError(f"{path}: a mask is missing, an image that is white where this one is to be filled")
        return read_image_and_mask(path, mask)
    if mask is not None:
        raise UserError(f"{mask}: a condition of kind {kind} has no mask; leave it out")
    if kind == "image":
        return read_image(path)
    return as_gray_image(read_nearness(path, kind))
