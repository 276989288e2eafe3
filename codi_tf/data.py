"""Photos -> deterministic, resumable tf.data: example i is a function of (seed, i) only."""

from __future__ import annotations

import hashlib
import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf

from codi_tf import images
from codi_tf.errors import UserError

if TYPE_CHECKING:
    from codi_tf.tasks import Task

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
EXTENSIONS = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")

MAX_ZOOM_OUT = 2.5  # a crop of S pixels shows a window of S to 2.5 S pixels of the photo
PYRAMID = (1.0, 1.5, 2.25)  # every photo is kept at these shrinkings: what remains per example is at most 1.5


def load_photos(split: str) -> dict[str, np.ndarray]:
    """The embedded photos of a split, "train" (13) or "heldout" (4): name -> uint8 RGB [H, W, 3].

    Raises:
        UserError: an unknown split, or a package that holds the photos is missing.
    """
    _check_split(split)
    return {Path(name).stem: _read(_package_file(name)) for name in PHOTOS[split]}


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
        _check_split(split)
        found = len(files)
        files = [file for file in files if _is_heldout(file.name, heldout_fraction) == (split == "heldout")]
        if not files:
            raise UserError(
                f"none of the {found} images in folder {folder} falls in split {split!r} with "
                f"heldout_fraction {heldout_fraction}; add images or change the fraction"
            )
    return {file.name: _read(file) for file in files}


def crops(
    photos: dict[str, np.ndarray],
    *,
    image_size: int,
    seed: int,
    start: int = 0,
    augment: bool = True,
    recolour: bool = False,
) -> tf.data.Dataset:
    """Infinite dataset of examples start, start + 1, ...; example i is a function of (photos, seed, i) only.

    An example is a square window of a photo, shrunk to image_size. The photo is drawn in proportion to the square root
    of its area, the window's side log-uniformly between image_size and 2.5 image_size (or the photo's shorter side),
    its place uniformly.

    Args:
        photos: name -> uint8 [H, W, 3], each side at least image_size.
        image_size: S.
        seed: any whole number of 64 bits.
        start: the first example.
        augment: mirror an example with probability 1/2.
        recolour: give every example other colours, see `recoloured`.

    Returns:
        {"image": float32 [S, S, 3] in [-1, 1], "index": int64 [], the example's number i}.

    Raises:
        UserError: no photo, or a photo smaller than the crop.
    """
    options = {"image_size": image_size, "augment": augment, "recolour": recolour}
    return _examples(photos, None, seed=seed, start=start, **options)


def batches(
    photos: dict[str, np.ndarray],
    task: Task | None,
    *,
    image_size: int,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    augment: bool = True,
    recolour: bool = False,
    num_threads: int = 0,
) -> tf.data.Dataset:
    """Infinite dataset of batches start_step, start_step + 1, ...; batch k holds the examples k B .. k B + B - 1.

    Args:
        photos, image_size, seed, augment, recolour: see `crops`.
        task: makes the condition of each example, with a seed of its own from (seed, i); None: no condition.
        batch_size: B.
        start_step: the first batch: a resumed training asks for the batch after its last.
        num_threads: size of the dataset's own pool of threads, 0 for one per core; the values do not depend on it.

    Returns:
        {"image": float32 [B, S, S, 3] in [-1, 1], "condition": float32 [B, S, S, task.condition_channels]}.

    Raises:
        UserError: no photo, or a photo smaller than the crop.
    """
    options = {"image_size": image_size, "augment": augment, "recolour": recolour}
    dataset = _examples(photos, task, seed=seed, start=start_step * batch_size, **options)
    dataset = dataset.map(_without_index).batch(batch_size, drop_remainder=True).prefetch(2)
    options = tf.data.Options()
    options.threading.private_threadpool_size = num_threads
    options.threading.max_intra_op_parallelism = 1  # examples are small: parallel across, not within
    return dataset.with_options(options)


def evaluation_set(
    photos: dict[str, np.ndarray], task: Task | None, *, image_size: int, count: int, seed: int
) -> dict[str, np.ndarray]:
    """The first `count` examples, not mirrored, in NumPy arrays: {"image", "condition"} float32 [count, S, S, .].

    Images have 3 channels, conditions `task.condition_channels`; without a task there are none.
    """
    dataset = _examples(photos, task, image_size=image_size, seed=seed, start=0, augment=False, recolour=False)
    return next(dataset.map(_without_index).batch(count).as_numpy_iterator())


def _examples(
    photos: dict[str, np.ndarray],
    task: Task | None,
    *,
    image_size: int,
    seed: int,
    start: int,
    augment: bool,
    recolour: bool,
) -> tf.data.Dataset:
    draw_crop = _cropper(photos, image_size=image_size, augment=augment, recolour=recolour)

    @tf.autograph.experimental.do_not_convert  # it would rewrap a UserError
    def example(index: tf.Tensor) -> dict[str, tf.Tensor]:
        seeds = tf.random.stateless_uniform([2, 2], [seed, index], minval=None, maxval=None, dtype=tf.int32)
        image = draw_crop(seeds[0])
        features = {"image": image, "index": index}
        if task is not None:
            features["condition"] = task.degrade(image, seeds[1])
        return features

    indices = tf.data.Dataset.range(start, np.iinfo(np.int64).max)
    return indices.map(example, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)


def _without_index(features: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    return {name: value for name, value in features.items() if name != "index"}


def _cropper(
    photos: dict[str, np.ndarray], *, image_size: int, augment: bool, recolour: bool
) -> Callable[[tf.Tensor], tf.Tensor]:
    """crop(seed int32 [2]) -> float32 [S, S, 3] in [-1, 1]."""
    if not photos:
        raise UserError("no photos to take crops from")
    for name, photo in photos.items():
        if min(photo.shape[:2]) < image_size:
            height, width = photo.shape[:2]
            raise UserError(
                f"photo {name} is {height}x{width}, smaller than image_size {image_size}; "
                "choose a smaller image_size or leave the photo out"
            )
    largest = max(800, round(1.5 * MAX_ZOOM_OUT * image_size))  # beyond this side, windows would be mere texture
    shrunk = [_shrink(photo, max(1.0, max(photo.shape[:2]) / largest), image_size) for photo in photos.values()]
    atlas, places = _atlas([[_shrink(photo, factor) for factor in PYRAMID] for photo in shrunk])
    sides = np.array([photo.shape[:2] for photo in shrunk], np.float64)  # [N, 2]
    weights = np.sqrt(sides.prod(axis=1))
    with tf.device("CPU:0"):  # tf.data reads them there
        atlas = tf.constant(atlas)
        places = tf.constant(places)
        cumulative = tf.constant(np.cumsum(weights / weights.sum())[:-1], tf.float32)  # [N - 1]
        max_log_zoom = tf.constant(np.log(np.minimum(MAX_ZOOM_OUT, sides.min(axis=1) / image_size)), tf.float32)
        factors = tf.constant(PYRAMID, tf.float32)

    def crop(seed: tf.Tensor) -> tf.Tensor:
        u = tf.unstack(tf.random.stateless_uniform([5], seed))
        photo = tf.searchsorted(cumulative, u[0:1], side="right")[0]
        zoom = tf.exp(u[1] * max_log_zoom[photo])  # window side / image_size, in the photo
        level = tf.reduce_sum(tf.cast(factors[1:] <= zoom, tf.int32))
        top, height, width = tf.unstack(places[photo, level])
        side = tf.cast(tf.round(image_size * zoom / factors[level]), tf.int32)
        side = tf.clip_by_value(side, image_size, tf.minimum(height, width))
        y, x = _place(u[2], height - side), _place(u[3], width - side)
        window = tf.slice(atlas, [top + y, x, 0], [side, side, 3])  # uint8 [side, side, 3]
        image = tf.image.resize(window, [image_size, image_size], "area") / 127.5 - 1
        if augment:
            image = tf.where(u[4] < 0.5, image[:, ::-1], image)
        image = tf.clip_by_value(image, -1.0, 1.0)  # the resize may round beyond by one bit
        return recoloured(image, tf.random.fold_in(seed, 1)) if recolour else image

    return crop


def recoloured(image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """The same picture in other colours: channels permuted, each with a gamma of its own, exp(U(-0.5, 0.5)).

    Where there are few photos, this keeps a model from learning their colours by heart.

    Args:
        image: float32 [H, W, 3] in [-1, 1].
        seed: int32 [2].
    """
    order = tf.argsort(tf.random.stateless_uniform([3], seed))
    gamma = tf.exp(tf.random.stateless_uniform([3], tf.random.fold_in(seed, 1), -0.5, 0.5))
    return 2 * ((tf.gather(image, order, axis=-1) + 1) / 2) ** gamma - 1


def _place(u: tf.Tensor, room: tf.Tensor) -> tf.Tensor:
    """One of 0 .. room, each equally likely; u in [0, 1)."""
    return tf.minimum(tf.cast(u * tf.cast(room + 1, tf.float32), tf.int32), room)


def _atlas(pyramids: list[list[np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """All levels of all photos below one another, padded at the right: a crop is then one slice of one tensor.

    Returns:
        atlas uint8 [sum of heights, largest width, 3], places int32 [photos, levels, 3] of (top, height, width).
    """
    levels = [level for pyramid in pyramids for level in pyramid]
    heights = [level.shape[0] for level in levels]
    tops = np.cumsum([0, *heights[:-1]])
    atlas = np.zeros((sum(heights), max(level.shape[1] for level in levels), 3), np.uint8)
    for top, level in zip(tops, levels, strict=True):
        atlas[top : top + level.shape[0], : level.shape[1]] = level
    places = np.array([(top, *level.shape[:2]) for top, level in zip(tops, levels, strict=True)], np.int32)
    return atlas, places.reshape(len(pyramids), -1, 3)


def _shrink(photo: np.ndarray, factor: float, smallest: int = 1) -> np.ndarray:
    """Uint8 [H, W, 3] made smaller by the factor, no side below `smallest`."""
    if factor == 1:
        return photo
    height, width = (max(smallest, round(side / factor)) for side in photo.shape[:2])
    return images.to_uint8(images.resize(photo / np.float32(255), height, width))


def _read(path: Path) -> np.ndarray:
    return images.to_uint8(images.read_image(path))


def _package_file(name: str) -> Path:
    package, _, inside = name.partition("/")
    spec = importlib.util.find_spec(package)  # finds the folder without importing the package
    if spec is None or not spec.submodule_search_locations:
        distribution = DISTRIBUTIONS[package]
        raise UserError(f"the embedded photos need the package {distribution}: pip install {distribution}")
    return Path(spec.submodule_search_locations[0]) / inside


def _check_split(split: str) -> None:
    if split not in PHOTOS:
        raise UserError(f"unknown split {split!r}; valid splits: {', '.join(PHOTOS)}")


def _is_heldout(file_name: str, fraction: float) -> bool:
    digest = hashlib.sha256(file_name.encode()).digest()
    return int.from_bytes(digest[:8], "big") < fraction * 2**64
