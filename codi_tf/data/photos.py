"""Photos in memory: those that two packages carry, and a folder's."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import numpy as np

from codi_tf import images
from codi_tf.data.splits import check_split, is_heldout
from codi_tf.errors import UserError
from codi_tf.images import EXTENSIONS

# Photos that come inside the packages scikit-image and scikit-learn, split by photo: nothing has to be downloaded.
PHOTOS = {
    "train": (
        "skimage/data/chelsea.png",
        "sklearn/datasets/images/china.jpg",
        "sklearn/datasets/images/flower.jpg",
        "skimage/data/motorcycle_left.png",
        "skimage/data/motorcycle_right.png",
        "skimage/data/rocket.jpg",
        "skimage/data/hubble_deep_field.jpg",
        "skimage/data/retina.jpg",
        "skimage/data/ihc.png",
        "skimage/data/brick.png",
        "skimage/data/grass.png",
        "skimage/data/moon.png",
        "skimage/data/coins.png",
    ),
    "heldout": (
        "skimage/data/astronaut.png",
        "skimage/data/coffee.png",
        "skimage/data/camera.png",
        "skimage/data/gravel.png",
    ),
}
DISTRIBUTIONS = {"skimage": "scikit-image", "sklearn": "scikit-learn"}  # import name -> name for pip


def load_photos(split: str) -> dict[str, np.ndarray]:
    """The embedded photos of a split, "train" (13) or "heldout" (4): name -> uint8 RGB [H, W, 3].

    Raises:
        UserError: an unknown split, or a package that holds the photos is missing.
    """
    check_split(split)
    return {Path(name).stem: _read(package_file(name)) for name in PHOTOS[split]}


def load_folder(
    path: str | os.PathLike[str], split: str | None = None, *, heldout_fraction: float = 0.1
) -> dict[str, np.ndarray]:
    """The images in a folder, sorted by file name: file name -> uint8 RGB [H, W, 3].

    Args:
        path: the folder; folders in it and files without an image's extension are left out.
        split: "train", "heldout" or None for all. A hash of the file name decides: adding files moves none.
        heldout_fraction: the share of "heldout", in [0, 1].

    Raises:
        UserError: the folder is missing or has no image (of the split), or an image cannot be decoded.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise UserError(f"no such folder of images: {folder}")
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in EXTENSIONS and file.is_file())
    if not files:
        raise UserError(f"no image in folder {folder}; expected files ending in {', '.join(EXTENSIONS)}")
    if split is not None:
        check_split(split)
        found = len(files)
        files = [file for file in files if is_heldout(file.name, heldout_fraction) == (split == "heldout")]
        if not files:
            raise UserError(
                f"none of the {found} images in folder {folder} falls in split {split!r} with "
                f"heldout_fraction {heldout_fraction}; add images or change the fraction"
            )
    return {file.name: _read(file) for file in files}


def _read(path: Path) -> np.ndarray:
    return images.to_uint8(images.read_image(path))


def package_file(name: str) -> Path:
    package, _, inside = name.partition("/")
    spec = importlib.util.find_spec(package)  # finds the folder without importing the package
    if spec is None or not spec.submodule_search_locations:
        distribution = DISTRIBUTIONS[package]
        raise UserError(f"the embedded photos need the package {distribution}: pip install {distribution}")
    return Path(spec.submodule_search_locations[0]) / inside
