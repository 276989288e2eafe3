"""The files of results: figures as small JSON, strips of images, and what is read from them. Needs no TensorFlow."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from codi_tf.core.errors import UserError
from codi_tf.io.files import whole_file
from codi_tf.io.images import read_image, to_uint8
from studies.common.intervals import Spread


def sample_name(sampler: str, steps: int, guidance: float | None = None) -> str:
    """The name of a sample: ddim-4, or ddim-4-guidance-1.5."""
    return f"{sampler}-{steps}" + ("" if guidance is None else f"-guidance-{guidance}")


def read_json(path: Path) -> Any:
    """The content of a JSON file; None if there is none, or a damaged one."""
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None


def read_result(path: Path) -> dict | None:
    """The content of a file of results; None if there is none. Raises UserError for a damaged one."""
    content = read_json(path)
    if content is None and path.exists():
        raise UserError(f"{path}: is no JSON; get it back from the repository, or delete it and train again")
    return content


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file, whole or not at all: indented, with lists of numbers on one line."""
    text = json.dumps(content, indent=1)
    text = re.sub(r"\[[-\d.e,+\s]*\]", lambda match: re.sub(r"\s+", " ", match[0]), text)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as partial:
        partial.write_text(text + "\n", "utf-8")


def write_strip(path: Path, images: np.ndarray, count: int) -> None:
    """Write the first images of [N, H, W, 3] in [-1, 1] side by side."""
    shown = to_uint8(np.clip((np.asarray(images[:count], np.float32) + 1) / 2, 0, 1))
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as partial:
        Image.fromarray(np.concatenate(list(shown), axis=1)).save(partial, format="JPEG", quality=90)


def read_strip(path: Path) -> np.ndarray:
    """Read the images of a strip, float32 [N, H, W, 3] in [0, 1]; they are square."""
    strip = read_image(path)
    return np.stack(np.split(strip, strip.shape[1] // strip.shape[0], axis=1))


def spread_of(figures: Mapping[int, dict], measure: str) -> Spread | None:
    """The spread of a measure over seeds and images; None if it has no figures.

    Args:
        figures: seed -> figures, see `measures.figures_of`.
        measure: the name of a metric.
    """
    found = {seed: of_seed[measure] for seed, of_seed in figures.items() if measure in of_seed}
    if not found:
        return None
    whole, left_out = zip(*found.values(), strict=True)
    return Spread(tuple(found), np.array(whole), np.array(left_out).T)


def row_of(spreads: Mapping[str, Spread | None]) -> dict:
    """Means over the seeds and "NAME_interval": a row for `codi_tf.evaluation.tables`."""
    row = {}
    for measure, spread in spreads.items():
        if spread is not None:
            low, high = spread.interval()
            row[measure] = spread.mean()
            row[f"{measure}_interval"] = (max(low, 0.0), high)  # none of the measures is ever negative
    return row


def row_of_figures(figures: Mapping[int, dict], measures: Iterable[str]) -> dict:
    """`row_of` the spreads of some measures."""
    return row_of({measure: spread_of(figures, measure) for measure in measures})
