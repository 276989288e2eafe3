"""The figures of the study: curves of quality against evaluations and updates, and grids of generated images."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from codi_tf.evaluation.curves import COLORS, DPI, HEIGHT, STROKES, WIDTH, write_curves
from codi_tf.io.images import grid, write_png
from studies.paper.measures import FD
from studies.paper.results import Results, Sample
from studies.paper.strips import read_strip

CURVES = (FD, "sharpness", "latent_error")
INPUTS = 6  # rows of a grid of images
ZOOM = 2


def curves(
    path: Path, results: Results, task: str, rows: dict[str, str], *, families: dict[str, str] | None = None
) -> bool:
    """Write the curves of rows with DDIM over their numbers of evaluations; return False if no row has two points.

    Args:
        path: of the PNG.
        results: the results on disk.
        task: one of `plan.TASKS`.
        rows: label -> name of a row.
        families: of the labels, see `evaluation.curves.write_curves`.
    """
    series = {}
    for label, row in rows.items():
        samples = (
            sample for sample in results.of_row(task, row) if (sample.sampler, sample.guidance) == ("ddim", None)
        )
        points = {sample.steps: sample.row_of_figures(CURVES) for sample in samples}
        if len(points) > 1:
            series[label] = points
    if not series:
        return False
    references = results.references.get(task)
    levels = (
        {} if references is None else {name: _chosen(references.rows[name]) for name in ("condition", "autoencoder")}
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_curves(path, series, levels, families=families)
    return True


def budget_curves(path: Path, series: dict[str, dict[int, Sample]]) -> bool:
    """Write FD-photos against updates, from `tables.budgets`; return False if no series has two points."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import StrMethodFormatter

    series = {label: samples for label, samples in series.items() if len(samples) > 1}
    if not series:
        return False
    figure = Figure(figsize=(1.8 * WIDTH, 1.2 * HEIGHT), dpi=DPI, layout="constrained")
    plot = figure.subplots()
    for (label, samples), color, (line, marker) in zip(series.items(), COLORS, STROKES, strict=False):
        counts, rows = list(samples), [sample.row_of_figures((FD,)) for sample in samples.values()]
        means = [row[FD] for row in rows]
        low, high = zip(*(row.get(f"{FD}_interval", (row[FD], row[FD])) for row in rows), strict=True)
        plot.plot(counts, means, color=color, linestyle=line, marker=marker, markersize=4, linewidth=1.6, label=label)
        plot.fill_between(counts, low, high, color=color, alpha=0.13, linewidth=0)
    ticks = sorted({count for samples in series.values() for count in samples})
    plot.set_xscale("log", base=2)
    plot.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    plot.minorticks_off()
    plot.set_ylim(bottom=0)
    plot.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    plot.set_title("FD-photos \N{DOWNWARDS ARROW}", fontsize=10, loc="left")
    plot.set_xlabel("updates", fontsize=9)
    plot.tick_params(labelsize=9)
    plot.grid(alpha=0.25, linewidth=0.6)
    plot.spines[["top", "right"]].set_visible(False)
    plot.legend(frameon=False, fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Software": None})
    return True


def tradeoff(path: Path, series: dict[str, list[Sample]], families: dict[str, str]) -> bool:
    """Write FD-photos against the latent error, a line for each series; return False if there is none.

    Looking like photos and being close to the original are two goals (Blau and Michaeli 2018): a method is better if
    its line is below and to the left of the others, wherever it ends.

    Args:
        path: of the PNG.
        series: label -> samples in the order of their evaluations, which label the points.
        families: label -> family; one family, one color.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import StrMethodFormatter

    series = {label: samples for label, samples in series.items() if samples}
    if not series:
        return False
    colors = dict(zip(dict.fromkeys(families[label] for label in series), COLORS, strict=False))
    drawn = dict.fromkeys(colors, 0)
    figure = Figure(figsize=(2.2 * WIDTH, 1.7 * HEIGHT), dpi=DPI, layout="constrained")
    plot = figure.subplots()
    for label, samples in series.items():
        family = families[label]
        line, marker = STROKES[drawn[family] % len(STROKES)]
        drawn[family] += 1
        look = {"color": colors[family], "linestyle": line, "marker": marker, "markersize": 4, "linewidth": 1.2}
        points = [(sample.mean("latent_error"), sample.mean(FD)) for sample in samples]
        plot.plot(*zip(*points, strict=True), label=label, **look)
        for sample, point in zip(samples, points, strict=True):
            plot.annotate(str(sample.steps), point, (3, 3), textcoords="offset points", fontsize=7, color=look["color"])
    plot.set_xscale("log")
    plot.set_yscale("log")
    for axis in (plot.xaxis, plot.yaxis):
        axis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axis.set_minor_formatter(StrMethodFormatter("{x:g}"))
    plot.set_xlabel("latent error (how far from this photo)", fontsize=9)
    plot.set_ylabel("FD-photos (how far from photos)", fontsize=9)
    plot.tick_params(labelsize=9, which="both")
    plot.grid(alpha=0.25, linewidth=0.6, which="both")
    plot.spines[["top", "right"]].set_visible(False)
    plot.legend(frameon=False, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Software": None})
    return True


def image_grid(path: Path, results: Results, task: str, samples: dict[str, tuple[str, str]]) -> bool:
    """Write a grid of the samples' images with condition, autoencoder and original; return False without samples.

    Args:
        path: of the PNG.
        results: the results on disk.
        task: one of `plan.TASKS`.
        samples: title -> (name of a row, name of a sample).
    """
    references = results.references.get(task)
    found = {title: results.samples.get((task, *sample)) for title, sample in samples.items()}
    found = {title: sample for title, sample in found.items() if sample is not None and sample.strip is not None}
    if references is None or not found:
        return False
    columns = {"condition": references.images["condition"]}
    columns |= {title: read_strip(sample.strip) for title, sample in found.items()}
    columns |= {name: references.images[name] for name in ("autoencoder", "original")}
    places = np.argsort(-references.images["original"].std(axis=(1, 2, 3)), kind="stable")[:INPUTS]
    rows = [[images[place] for images in columns.values()] for place in sorted(places)]
    write_png(path, grid(rows, list(columns), zoom=ZOOM))
    return True


def _chosen(row: dict) -> dict:
    return {measure: row[measure] for measure in CURVES}
