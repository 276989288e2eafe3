"""Plots of one measure against another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from codi_tf.evaluation.curves import COLORS, DPI, HEIGHT, STROKES, WIDTH

Point = tuple[float, float, str]  # across, up, and what is written beside it


def write_lines(
    path: Path,
    series: Mapping[str, Sequence[Point]],
    across: str,
    up: str,
    *,
    families: Mapping[str, str] | None = None,
    logarithmic: bool = False,
) -> None:
    """Write a PNG with a line of labelled points for each series.

    Args:
        path: of the file; its folder is made.
        series: label -> points.
        across, up: titles of the axes.
        families: label -> family; one family, one color. None: every series is its own.
        logarithmic: whether the axes are.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import StrMethodFormatter

    family_of = {label: label for label in series} if families is None else families
    names = list(dict.fromkeys(family_of[label] for label in series))
    colors = {name: COLORS[i % len(COLORS)] for i, name in enumerate(names)}
    drawn = dict.fromkeys(names, 0)
    figure = Figure(figsize=(2.2 * WIDTH, 1.7 * HEIGHT), dpi=DPI, layout="constrained")
    plot = figure.subplots()
    for label, points in series.items():
        family = family_of[label]
        line, marker = STROKES[drawn[family] % len(STROKES)]
        drawn[family] += 1
        look = {"color": colors[family], "linestyle": line, "marker": marker, "markersize": 4, "linewidth": 1.2}
        plot.plot([x for x, _, _ in points], [y for _, y, _ in points], label=label, **look)
        for x, y, text in points:
            plot.annotate(text, (x, y), (3, 3), textcoords="offset points", fontsize=7, color=look["color"])
    if logarithmic:
        plot.set_xscale("log")
        plot.set_yscale("log")
        for axis in (plot.xaxis, plot.yaxis):
            axis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axis.set_minor_formatter(StrMethodFormatter("{x:g}"))
    plot.set_xlabel(across, fontsize=9)
    plot.set_ylabel(up, fontsize=9)
    plot.tick_params(labelsize=9, which="both")
    plot.grid(alpha=0.25, linewidth=0.6, which="both")
    plot.spines[["top", "right"]].set_visible(False)
    plot.legend(frameon=False, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Software": None})
