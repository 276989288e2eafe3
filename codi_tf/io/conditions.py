"""Reading a user's condition from files into an array. NumPy and Pillow only.

A task declares the kind of file that it takes (`Task.condition_file`), and the manifest of an exported package repeats
it. Commands and packages therefore need no list of tasks.
"""

from __future__ import annotations

import os
import pathlib
from typing import Literal, get_args

import numpy as np

from codi_tf.core.errors import UserError
from codi_tf.core.paths import as_path
from codi_tf.io import depth_files
from codi_tf.io.depth_files import as_gray_image, read_nearness
from codi_tf.io.images import read_image, read_image_and_mask
from codi_tf.io.listing import files_below
from codi_tf.io.naming import field_of

Path = str | os.PathLike[str]
ConditionFile = Literal["image", "masked_image", "disparity", "depth"]
KINDS = get_args(ConditionFile)
MASK = ".mask"  # NAME.mask.png is the mask of NAME.png


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


def condition_files(folder: Path, kind: str) -> dict[str, pathlib.Path]:
    """The conditions in a folder and its subfolders, sorted: NAME, with its subfolder -> file.

    Depth maps are NAME.depth.png, .npy, .tif or .pfm, or if there are none, all images and arrays of numbers.

    Raises:
        UserError: no such folder, it has none, or two of one NAME.
    """
    if kind not in depth_files.KINDS:
        return depth_files.photo_files(folder)
    return depth_files.map_files(folder) or depth_files.photo_files(folder, also=depth_files.MAP_EXTENSIONS)


def marked_masks(folder: Path) -> dict[str, pathlib.Path]:
    """The masks beside the images of a folder: NAME, with its subfolder -> NAME.mask.png.

    Raises:
        UserError: no such folder.
    """
    named = [(*field_of(path), path) for path in files_below(folder)[0]]
    found = [(key, path) for key, field, path in named if field == "image" and key.endswith(MASK)]
    return {os.path.relpath(key.removesuffix(MASK), folder): as_path(path) for key, path in found}


def mask_files(folder: Path) -> dict[str, pathlib.Path]:
    """The masks in a folder of them: NAME, with its subfolder -> NAME.mask.png, or if there is none, NAME.png.

    Raises:
        UserError: no such folder, it has no image, or two of one NAME.
    """
    return marked_masks(folder) or depth_files.photo_files(folder)
