"""The figures of the study: curves of quality against evaluations, a trade-off, and grids of generated images."""

from __future__ import annotations

from pathlib import Path

from codi_tf.evaluation.curves import write_curves
from codi_tf.io.images import grid, write_png
from studies.common.measures import column_of
from studies.common.plots import write_lines
from studies.common.results import read_strip
from studies.paper.claims import Side
from studies.paper.plan import world_of
from studies.paper.results import Results, strip_of
from studies.paper.tables import is_plain

INPUTS = 6  # rows of a grid of images, at most
SMALL = 128  # images with a smaller side are shown enlarged twice


def curves(
    path: Path, results: Results, task: str, rows: dict[str, str], *, families: dict[str, str] | None = None
) -> bool:
    """Write the curves of rows with DDIM over their numbers of evaluations; return False if no row has two points.

    Args:
        path: of the PNG.
        results: all results.
        task: one of `plan.TASKS`.
        rows: label -> name of a row.
        families: of the labels, see `evaluation.curves.write_curves`.
    """
    measures, series = world_of(task).measures, {}
    for label, row in rows.items():
        points = {one.steps: one.row_of_figures(measures) for one in results.of_row(task, row) if is_plain(one)}
        points = {steps: figures for steps, figures in points.items() if figures}
        if len(points) > 1:
            series[label] = points
    if not series:
        return False
    references = results.references.get(task, {})
    levels = {
        name: {measure: references[name][measure] for measure in measures}
        for name in ("condition", "autoencoder")
        if name in references
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_curves(path, series, levels, families=families)
    return True


def tradeoff(path: Path, results: Results, task: str, rows: dict[str, str], families: dict[str, str]) -> bool:
    """Write the decisive measure against that of fidelity, a line for each row; return False if there is none.

    Looking true and doing what the condition asks are two goals (Blau and Michaeli 2018): a method is better if its
    line is below and to the left of the others, wherever it ends.

    Args:
        path, results, task, rows: see `curves`.
        families: label -> family; one family, one color.
    """
    world = world_of(task)
    across, up = world.also[0], world.measures[0]
    series = {label: [one for one in results.of_row(task, row) if is_plain(one)] for label, row in rows.items()}
    series = {label: found for label, samples in series.items() if (found := [one for one in samples if one.figures])}
    if not series:
        return False
    points = {
        label: [(row[across], row[up], str(one.steps)) for one in samples if (row := one.row_of_figures((across, up)))]
        for label, samples in series.items()
    }
    titles = (
        f"{column_of(across).title} (how far from what the condition asks for)",
        f"{column_of(up).title} (how far from true images)",
    )
    write_lines(path, points, *titles, families=families, logarithmic=True)
    return True


def image_grid(path: Path, results: Results, task: str, samples: dict[str, Side]) -> bool:
    """Write a grid of the samples' images with condition, autoencoder and original; return False without samples.

    Args:
        path: of the PNG.
        results: all results.
        task: one of `plan.TASKS`.
        samples: title -> (name of a row, name of a sample).
    """
    found = {title: results.samples.get((task, *side)) for title, side in samples.items()}
    strips = {title: sample.strip for title, sample in found.items() if sample is not None and sample.strip.is_file()}
    around = {name: strip_of(task, name) for name in ("condition", "autoencoder", "original")}
    if not strips or not all(path.is_file() for path in around.values()):
        return False
    first = {"condition": around.pop("condition")}
    columns = {title: read_strip(strip) for title, strip in (first | strips | around).items()}
    count = min(len(images) for images in columns.values())
    rows = [[images[place] for images in columns.values()] for place in range(min(count, INPUTS))]
    write_png(path, grid(rows, list(columns), zoom=2 if rows[0][0].shape[0] < SMALL else 1))
    return True
