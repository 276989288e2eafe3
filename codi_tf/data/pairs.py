"""Writing and reading pairs for evaluation: crops and their low-resolution versions as 8-bit PNG."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from codi_tf.core.errors import UserError, user_errors
from codi_tf.core.limits import MAX_EXAMPLES, MAX_SIDE
from codi_tf.core.paths import as_path
from codi_tf.data.pipeline import Source, low_resolution_pairs
from codi_tf.io import bundle_files
from codi_tf.io.folders import check_folder, whole_folder
from codi_tf.io.images import read_image, resize, write_png
from codi_tf.io.json_files import read_json
from codi_tf.io.schema import Record, Whole, check

PAIRS = bundle_files.PAIRS_FILE
SCHEMA = Record({"size": Whole(1, MAX_SIDE), "scale": Whole(1, MAX_SIDE), "count": Whole(0, MAX_EXAMPLES)})


def write_pairs(
    folder: Path,
    source: Source | dict[str, np.ndarray],
    task,
    *,
    count: int,
    size: int,
    seed: int,
    about: dict,
    report: Callable[[int], None],
) -> None:
    """Write `count` pairs into a new folder, whole or not at all: gt/00000.png, lq/00000.png, ..., pairs.json.

    Args:
        folder: a new one.
        source: a `data.Source`, or images: name -> uint8 [H, W, 3].
        task: one with `has_low_resolution`.
        count: the number of pairs.
        size: side of the crops; a multiple of the task's scale.
        seed: of crops and degradations; pair i is a function of (source, task, size, seed, i).
        about: further entries of pairs.json.
        report: called with the number of pairs written.

    Raises:
        UserError: the folder is in use; images smaller than the crops; a size that the scale does not divide.
    """
    check_folder(folder, bundle_files.PAIRS, replace=False)
    pairs = low_resolution_pairs(source, task, image_size=size, seed=seed).take(count)
    with whole_folder(folder, bundle_files.PAIRS, replace=False) as partial, user_errors():
        for i, (image, low) in enumerate(pairs.as_numpy_iterator()):
            write_png(partial / "gt" / f"{i:05}.png", (image + 1) / 2)
            write_png(partial / "lq" / f"{i:05}.png", low)
            report(i + 1)
        settings = {"count": count, "size": size, "scale": task.scale, "seed": seed, **about}
        (partial / PAIRS).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def read_pairs(folder: str | Path, count: int, *, scale: int | None = None) -> dict[str, np.ndarray]:
    """The first `count` pairs of a folder: {"image", "condition"} float32 [count, S, S, 3] in [-1, 1].

    The condition is the low-resolution version, enlarged bicubically. All are held in memory: 3,000 pairs of 512 pixels
    take 19 GB.

    Args:
        folder: from `write_pairs`.
        count: number of pairs.
        scale: required of the pairs; None: any.

    Raises:
        UserError: fewer pairs, another scale, a missing image, or an image whose size differs from pairs.json.
    """
    folder = as_path(folder)
    about = read_json(folder / PAIRS)
    check(about, SCHEMA, folder / PAIRS, "make the pairs again")
    size, found, there = (about[key] for key in ("size", "scale", "count"))
    if scale not in (None, found):
        raise UserError(f"{folder} has pairs of scale {found}, not {scale}; make others with codi pairs")
    if count > there:
        raise UserError(f"{folder} has {there} pairs, not {count}; ask for fewer")
    pairs = {"image": [], "condition": []}
    for i in range(count):
        for key, part, side in (("image", "gt", size), ("condition", "lq", size // found)):
            path = folder / part / f"{i:05}.png"
            image = read_image(path)
            if image.shape != (side, side, 3):
                raise UserError(f"{path}: {image.shape[1]}x{image.shape[0]}, not {side}x{side}; make the pairs again")
            pairs[key].append(2 * resize(image, size, size) - 1)
    return {key: np.stack(images).astype(np.float32) for key, images in pairs.items()}
