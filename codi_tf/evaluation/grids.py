"""Grids of images: results of methods and numbers of steps for the same inputs and noise, and sampling processes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from codi_tf.io.images import grid

SMALLEST = 128  # pixels: smaller images are shown enlarged

Series = dict[str, dict[int, np.ndarray]]  # label of a series -> number of evaluations -> images [N, H, W, 3]


def comparison(
    series: Series, conditions: np.ndarray, images: np.ndarray, results: Mapping[str, np.ndarray] | None = None
) -> np.ndarray:
    """A grid with a row for each input and series, and a column for each number of steps, condition and original.

    Args:
        series: label -> {steps: images}, float32 [N, H, W, 3] in [-1, 1].
        conditions: float32 [N, H, W, C] in [-1, 1], of which the first three channels are shown.
        images: the originals, float32 [N, H, W, 3] in [-1, 1].
        results: label -> images of no number of steps, float32 [N, H, W, 3] in [-1, 1]: columns before the original.

    Returns:
        An image, float32 [H', W', 3] in [0, 1].
    """
    steps = sorted({count for made in series.values() for count in made})
    blank = np.ones(images.shape[1:], np.float32)
    rows = [  # [N][series][steps]
        [[made[count][i] if count in made else blank for count in steps] for made in series.values()]
        for i in range(len(images))
    ]
    titles, shown = [name_of_steps(count) for count in steps], conditions[..., :3]
    results = results or {}
    ends = [[*(found[i] for found in results.values()), x] for i, x in enumerate(images)]
    end_titles = [*results, "original"]
    if len(series) == 1:
        framed = [[c, *row, *end] for c, (row,), end in zip(shown, rows, ends, strict=True)]
        return _grid(framed, ["condition", *titles, *end_titles])
    blocks = []
    for c, (first, *others), end in zip(shown, rows, ends, strict=True):
        framed = [[*first, c, *end], *([*row, blank, *[blank] * len(end)] for row in others)]
        named = [*titles, "condition", *end_titles] if not blocks else [""] * len(framed[0])
        blocks.append(_grid(framed, named, list(series)))
    return np.concatenate(blocks)


def processes(predictions: dict[int, np.ndarray], condition: np.ndarray, image: np.ndarray) -> np.ndarray:
    """A triangle of images: a row for each number of steps, with x_hat after each step, condition and original.

    Args:
        predictions: steps -> x_hat as images, float32 [steps, H, W, 3] in [-1, 1].
        condition: float32 [H, W, C] in [-1, 1], of which the first three channels are shown.
        image: the original, float32 [H, W, 3] in [-1, 1].

    Returns:
        An image, float32 [H', W', 3] in [0, 1].
    """
    longest, blank = max(predictions), np.ones_like(image)
    rows = [[*process, *[blank] * (longest - len(process) + 2)] for process in predictions.values()]
    rows[0][-2:] = condition[..., :3], image
    titles = [*(f"after {i}" for i in range(1, longest + 1)), "condition", "original"]
    return _grid(rows, titles, [name_of_steps(count) for count in predictions])


def name_of_steps(count: int) -> str:
    """1 step, 2 steps."""
    return f"{count} step{'' if count == 1 else 's'}"


def _grid(rows: list[list[np.ndarray]], titles: list[str], row_labels: list[str] | None = None) -> np.ndarray:
    """Images in [-1, 1] as `io.images.grid` shows them."""
    zoom = -(-SMALLEST // rows[0][0].shape[1])
    return grid([[(np.asarray(p) + 1) / 2 for p in row] for row in rows], titles, row_labels=row_labels, zoom=zoom)
