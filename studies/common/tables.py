"""Markdown tables of figures with their intervals."""

from __future__ import annotations

from collections.abc import Iterable

from studies.common.measures import column_of

NOTHING = "-"


def markdown(titles: tuple[str, ...], lines: Iterable[tuple[str, ...]], *, words: int = 1) -> str:
    """A Markdown table with the first `words` columns left-aligned and the others right-aligned; "" without lines."""
    rule = tuple("---" if i < words else "---:" for i in range(len(titles)))
    lines = list(lines)
    return "".join(f"| {' | '.join(line)} |\n" for line in (titles, rule, *lines)) if lines else ""


def cell(row: dict, measure: str) -> str:
    """A figure of a row with its interval."""
    if row.get(measure) is None:
        return NOTHING
    figure = figure_text(measure, row[measure])
    bounds = [figure_text(measure, bound) for bound in row.get(f"{measure}_interval") or ()]
    return figure if set(bounds) <= {figure} else f"{figure} [{', '.join(bounds)}]"


def figure_text(measure: str, value: float) -> str:
    """A figure in the format of its measure."""
    text = column_of(measure).format.format(value)
    return f"{value:.0f}" if "e" in text else text
