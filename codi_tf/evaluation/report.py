"""Writing a report: report.md with a table, curves and images, and the figures in metrics.json and metrics.npz."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from codi_tf.core.markdown import plain
from codi_tf.evaluation.curves import write_curves
from codi_tf.evaluation.grids import Series, comparison, processes
from codi_tf.evaluation.measuring import Measured
from codi_tf.evaluation.metric import LEVEL
from codi_tf.evaluation.samplers import BATCH
from codi_tf.evaluation.tables import columns_of, legend, markdown_table
from codi_tf.io.folders import Kind
from codi_tf.io.images import write_png

FILES = ("metrics.json", "metrics.npz", "report.md", "curves.png", "grid.png")
LEVELS = ("autoencoder", "bicubic", "condition")  # rows that the curves show as horizontal lines


def is_report_file(name: str) -> bool:
    """Whether a report has a file of that name."""
    return name in FILES or re.fullmatch(r"process-\d+\.png", name) is not None


def _of_report(folder: Path):
    return is_report_file if any((folder / name).is_file() for name in FILES) else None


REPORTS = Kind("report", _of_report)


def write_figures(
    folder: Path,
    measured: dict[str, Measured],
    series: dict[str, dict[int, str]],
    settings: dict,
    *,
    families: dict[str, str] | None = None,
    results: Sequence[str] = (),
) -> dict[str, dict]:
    """Write metrics.json (settings, means, intervals), metrics.npz (values of every image) and curves.png.

    metrics.npz holds the names of the rows, "rows" [R], and each metric of single images by its name, [R, N].

    Args:
        folder: the report's.
        measured: name of a row -> what was measured.
        series: label of a curve -> {number of evaluations: name of a row}.
        settings: anything that JSON can hold.
        families: of the curves, see `curves.write_curves`.
        results: names of rows that belong to no number of evaluations: horizontal lines of the curves.

    Returns:
        The rows: means and intervals.
    """
    rows = {name: one.row() for name, one in measured.items()}
    _write(folder / "metrics.json", json.dumps({"settings": settings, "rows": rows}, indent=2) + "\n")
    names = next(iter(measured.values())).per_image()
    values = {name: np.stack([one.values[name] for one in measured.values()]) for name in names}
    arrays: dict[str, Any] = {"rows": np.array(list(measured)), **values}
    np.savez_compressed(folder / "metrics.npz", **arrays)
    points = {label: {steps: rows[name] for steps, name in names.items()} for label, names in series.items()}
    levels = {name: rows[name] for name in LEVELS if name in rows}
    write_curves(folder / "curves.png", points, levels, families=families, results={n: rows[n] for n in results})
    return rows


def write_images(
    folder: Path,
    series: Series,
    predictions: dict[str, dict[int, np.ndarray]],
    conditions: np.ndarray,
    images: np.ndarray,
    *,
    results: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Write grid.png and process-1.png, process-2.png, ...: see `grids.comparison` and `grids.processes`.

    Args:
        folder: the report's.
        series: label -> {number of steps: images of the shown inputs [N, H, W, 3]}.
        predictions: label -> {number of steps: x_hat of the first input after each of them}.
        conditions, images: the shown inputs and their originals.
        results: label -> other images of the shown inputs, see `grids.comparison`.
    """
    write_png(folder / "grid.png", comparison(series, conditions, images, results))
    for number, of_label in enumerate(predictions.values(), start=1):
        write_png(folder / f"process-{number}.png", processes(of_label, conditions[0], images[0]))


def write_page(folder: Path, about: str, rows: dict[str, dict], labels: list[str], longest: int) -> None:
    """Write report.md.

    Args:
        folder: the report's.
        about: what was measured, Markdown.
        rows: means and intervals.
        labels: of the series, in the order of their process images.
        longest: the most evaluations that these show.
    """
    levels = " and ".join(name for name in LEVELS if name in rows)
    captions = "\n\n".join(
        f"{label}:\n\n![{label}](process-{i}.png)" for i, label in enumerate(map(plain, labels), start=1)
    )
    _write(
        folder / "report.md",
        f"""# Evaluation

{about}

{markdown_table(rows)}
In brackets: {100 * LEVEL:g} % bootstrap intervals over the images, which are the same in every row. They measure the
uncertainty for crops of these images, not for other images.

{legend(rows)}

## Quality against network evaluations

Lines: the figures; bands: the intervals above; gray: {levels}; other horizontal lines: folders of images.

![{", ".join(columns_of(rows.values()))} against network evaluations](curves.png)

## The same inputs and the same noise

The inputs with the most contrast among the first {BATCH}.

![Images of every series at every number of steps](grid.png)

## Sampling step by step

x_hat, decoded, after every network evaluation, for samplers of 1 to {longest} steps.

{captions}
""",
    )


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
