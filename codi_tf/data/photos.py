"""The photos that come with scikit-image and scikit-learn."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np

from codi_tf.core.errors import UserError
from codi_tf.data.splits import check_split
from codi_tf.io import images

EMBEDDED = "photos"  # the name of the source
# Installed with the packages, so nothing has to be downloaded.
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
    return {Path(name).stem: images.to_uint8(images.read_image(package_file(name))) for name in PHOTOS[split]}


def embedded_photos(split: str | None) -> dict[str, np.ndarray]:
    """`load_photos` of a split, or of all splits for None. Raises UserError as it does."""
    return {name: photo for one in ([split] if split else PHOTOS) for name, photo in load_photos(one).items()}


def package_file(name: str) -> Path:
    """The path of a package's file, "PACKAGE/PATH". Raises UserError where the package is not installed."""
    package, _, inside = name.partition("/")
    spec = importlib.util.find_spec(package)  # finds the folder without importing the package
    if spec is None or not spec.submodule_search_locations:
        distribution = DISTRIBUTIONS[package]
        raise UserError(f"the embedded photos need the package {distribution}: pip install {distribution}")
    return Path(spec.submodule_search_locations[0]) / inside
