"""Curves of quality against network evaluations: a small plot for each metric, a line for each series of rows."""

from __future__ import annotations

import math
from pathlib import Path

from codi_tf.evaluation.tables import NOTHING, column, columns_of

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")  # Okabe and Ito's
STROKES = (("-", "o"), ("--", "s"), (":", "^"), ("-.", "D"), ((0, (5, 1, 1, 1, 1, 1)), "v"))
LEVEL_STROKES = ((0, (5, 2)), (0, (1, 1.5)))
LEVEL_COLOR = "0.45"
RESULT_STROKE = (0, (8, 2, 1, 2))
ACROSS = 3  # plots side by side
WIDTH, HEIGHT, LEGEND_LINE = 3.7, 2.7, 0.22  # inches: a plot's, a line's
LETTERS = 13  # of the legend, in an inch
DPI = 150
STEEP = 8.0  # metrics that are best at 0 and span a larger factor get a logarithmic axis

Series = dict[str, dict[int, dict]]  # label -> number of evaluations -> row


def write_curves(
    path: Path,
    series: Series,
    levels: dict[str, dict],
    *,
    families: dict[str, str] | None = None,
    results: dict[str, dict] | None = None,
) -> None:
    """Write a PNG: every metric against the number of network evaluations, with a band for its interval.

    The numbers of evaluations are on a logarithmic axis.

    Args:
        path: of the file.
        series: label -> {number of evaluations: row}, rows as of `measuring.evaluate`.
        levels: label -> row without evaluations, as "autoencoder": at most two horizontal lines, not at 0.
        families: label -> name; the series of one family share a color and differ in their strokes. None: every
            series has another color, as long as the colors last.
        results: label -> row without evaluations, of a folder of images: horizontal lines in further colors.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine
    from matplotlib.lines import Line2D

    names = columns_of(row for rows in series.values() for row in rows.values())
    across = min(ACROSS, len(names))
    down = math.ceil(len(names) / across)
    looks = _looks(list(series), families)
    lines = _lines(levels, results or {}, len({look["color"] for look in looks.values()}))
    entries = [Line2D([], [], label=_plain(label), **look) for label, look in looks.items()]
    entries += [Line2D([], [], label=_plain(label), **look) for label, (_, look) in lines.items()]
    longest = max(len(str(entry.get_label())) for entry in entries) + 6
    per_line = max(1, min(len(entries), int(across * WIDTH * LETTERS / longest)))
    footer = LEGEND_LINE * math.ceil(len(entries) / per_line) + 0.1
    height = down * HEIGHT + footer
    layout = ConstrainedLayoutEngine(rect=(0, footer / height, 1, 1 - footer / height), w_pad=0.08, h_pad=0.08)
    figure = Figure(figsize=(across * WIDTH, height), dpi=DPI, layout=layout)
    plots = figure.subplots(down, across, squeeze=False).ravel()
    for plot, name in zip(plots, names, strict=False):
        _draw(plot, name, series, lines, looks)
    for plot in plots[len(names) :]:
        plot.set_axis_off()
    figure.legend(handles=entries, loc="lower center", ncols=per_line, frameon=False, fontsize=9)
    figure.savefig(path, metadata={"Software": None})


def _plain(label: str) -> str:
    """A label that matplotlib shows as it is: no formula, and not left out of the legend for its first letter."""
    return f" {label}".replace("$", r"\$") if label.startswith("_") else label.replace("$", r"\$")


def _lines(levels: dict[str, dict], results: dict[str, dict], colors: int) -> dict[str, tuple[dict, dict]]:
    """label -> row and look of a horizontal line; the series have the first `colors` colors."""
    lines = {
        label: (row, {"color": LEVEL_COLOR, "linestyle": stroke, "linewidth": 1.2})
        for (label, row), stroke in zip(levels.items(), LEVEL_STROKES, strict=False)
    }
    for i, (label, row) in enumerate(results.items(), start=colors):
        lines[label] = (row, {"color": COLORS[i % len(COLORS)], "linestyle": RESULT_STROKE, "linewidth": 1.6})
    return lines


def _draw(plot, name: str, series: Series, lines: dict[str, tuple[dict, dict]], looks: dict[str, dict]) -> None:
    """One metric of all series."""
    points = {
        label: {steps: rows[steps] for steps in sorted(rows) if rows[steps].get(name) is not None}
        for label, rows in series.items()
    }
    # A level of 0 is trivial: it is the reference's distance to itself.
    heights = {label: row[name] for label, (row, _) in lines.items() if (row.get(name) or 0.0) > NOTHING}
    values = [
        value for rows in points.values() for row in rows.values() for value in (row[name], *_interval(row, name))
    ]
    values += heights.values()
    better = column(name).better
    sign = {"higher": "\N{UPWARDS ARROW}", "lower": "\N{DOWNWARDS ARROW}"}.get(better, f"({better})" if better else "")
    plot.set_title(f"{column(name).title} {sign}", fontsize=10, loc="left")
    if better == "lower":
        _log_axis_where_steep(plot, values)
    for label, rows in points.items():
        _draw_line(plot, rows, name, looks[label])
    for label, height in heights.items():
        plot.axhline(height, zorder=1, **lines[label][1])
    ticks = sorted({steps for rows in points.values() for steps in rows})
    plot.set_xscale("log", base=2)
    plot.set_xticks(ticks, [str(tick) for tick in ticks])
    plot.minorticks_off()
    if len(ticks) == 1:  # an axis of one point would have no width
        plot.set_xlim(ticks[0] / 2, ticks[0] * 2)
    plot.set_xlabel("network evaluations", fontsize=9)
    plot.tick_params(labelsize=9)
    plot.grid(alpha=0.25, linewidth=0.6)
    plot.spines[["top", "right"]].set_visible(False)


def _draw_line(plot, rows: dict[int, dict], name: str, look: dict) -> None:
    """One series of one metric; its interval is a band, or a bar where it has one point."""
    if not rows:
        return
    steps, means = list(rows), [row[name] for row in rows.values()]
    low, high = zip(*(_interval(row, name) for row in rows.values()), strict=True)
    plot.plot(steps, means, **look)
    if len(steps) > 1:
        plot.fill_between(steps, low, high, color=look["color"], alpha=0.13, linewidth=0)
    else:
        plot.vlines(steps, low, high, color=look["color"], linewidth=1)


def _log_axis_where_steep(plot, values: list[float]) -> None:
    """A logarithmic axis for values above 0 that differ by more than STEEP; 0 itself is then out of sight."""
    from matplotlib.ticker import LogLocator, StrMethodFormatter

    positive = [value for value in values if value > NOTHING]
    if not positive or max(positive) <= STEEP * min(positive):
        return
    plot.set_yscale("log")
    plot.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    plot.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    plot.set_ylim(min(positive) / 1.2, max(positive) * 1.2)


def _interval(row: dict, name: str) -> tuple[float, float]:
    return row.get(f"{name}_interval") or (row[name], row[name])


def _looks(labels: list[str], families: dict[str, str] | None) -> dict[str, dict]:
    """label -> color and stroke of its line, all different as long as strokes and colors last."""
    if families is None:
        places = [(i % len(COLORS), i // len(COLORS)) for i in range(len(labels))]
    else:
        members = [families[label] for label in labels]
        order = list(dict.fromkeys(members))
        places = [(order.index(family), members[:i].count(family)) for i, family in enumerate(members)]
    looks = {}
    for label, (color, stroke) in zip(labels, places, strict=True):
        line, marker = STROKES[stroke % len(STROKES)]
        looks[label] = {"color": COLORS[color % len(COLORS)], "linestyle": line, "marker": marker}
        looks[label] |= {"markersize": 4, "linewidth": 1.6}
    return looks
