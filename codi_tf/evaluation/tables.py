"""The tables of a report: columns, and rows of `measuring.evaluate` as Markdown."""

from __future__ import annotations

from collections.abc import Iterable

from codi_tf.core.markdown import plain
from codi_tf.evaluation import METRICS
from codi_tf.evaluation.metric import Column

NOTHING = 1e-9  # smaller figures are rounding errors of 0

ROWS = {
    "bicubic": "the condition itself",
    "condition": "the condition itself",
    "autoencoder": "the originals through the autoencoder, about the best that these latents allow",
    "original": "the originals themselves",
}


def column(name: str) -> Column:
    """The column of a metric; a metric that is not registered gets a column with its name."""
    return METRICS[name].column if name in METRICS else Column(name, note="a measure of the caller")


def in_order(names: Iterable[str]) -> list[str]:
    """Names of metrics in the order of their columns; columns with equal places stay in the given order."""
    return sorted(names, key=lambda name: column(name).place)


def columns_of(rows: Iterable[dict]) -> list[str]:
    """The metrics that rows have, in the order of their columns."""
    return in_order(dict.fromkeys(key for row in rows for key in row if not key.endswith("_interval")))


def markdown_table(rows: dict[str, dict]) -> str:
    """The rows that `evaluate` returns as a Markdown table: figures with their intervals."""
    names = columns_of(rows.values())
    lines = [["", *(column(name).title for name in names)], ["---", *("---:" for _ in names)]]
    lines += [[plain(label), *(_cell(row, name) for name in names)] for label, row in rows.items()]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def text_table(rows: dict[str, dict], width: int = 100) -> str:
    """The same for a terminal: figures without intervals, aligned; several tables where one would be wider."""
    left = max(map(len, rows))
    tables: list[list[str]] = []
    for name in columns_of(rows.values()):
        title, figures = column(name).title, [_cell({name: row.get(name)}, name) for row in rows.values()]
        own = max(map(len, (title, *figures)))
        if not tables or len(tables[-1][0]) + 2 + own > width:
            tables.append([text.ljust(left) for text in ("", *rows)])
        tables[-1] = [f"{line}  {text:>{own}}" for line, text in zip(tables[-1], (title, *figures), strict=True)]
    return "\n".join("".join(f"{line}\n" for line in lines) for lines in tables)


def legend(rows: dict[str, dict]) -> str:
    """The legend of columns and rows, as a Markdown list."""
    lines = [
        f"- **{column(name).title}** ({_direction(column(name).better)}): {column(name).note}."
        for name in columns_of(rows.values())
    ]
    lines += [f"- *{label}*: {what}." for label, what in ROWS.items() if label in rows]
    return "\n".join(lines)


def _direction(better: str) -> str:
    return f"{better} is better" if better in ("higher", "lower") else better or "-"


def _cell(row: dict, name: str) -> str:
    value, interval = row.get(name), row.get(f"{name}_interval")
    if value is None:
        return "-"
    figure = _figure(name, value)
    if interval is None:
        return figure
    low, high = (_figure(name, bound) for bound in interval)
    return figure if low == high else f"{figure} [{low}, {high}]"


def _figure(name: str, value: float) -> str:
    return column(name).format.format(value if abs(value) > NOTHING else 0.0)
