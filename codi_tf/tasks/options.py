"""Checks of tasks' options: the error is one line with the task, the option and its value."""

from __future__ import annotations

import math
from typing import Any

from codi_tf.core.errors import UserError
from codi_tf.core.showing import shown


def checked_range(task: str, name: str, value: Any, low: float, high: float, *, whole: bool = False) -> tuple:
    """The option as (lowest, highest), numbers within low .. high; whole numbers if `whole`.

    Raises:
        UserError: anything else.
    """
    well_formed = isinstance(value, tuple | list) and len(value) == 2 and all(is_number(v) for v in value)
    if not (well_formed and low <= value[0] <= value[1] <= high):
        limits = f"from {low} on" if high == math.inf else f"from {low} to {high}"
        raise UserError(f"{task}: {name} must be [low, high] with numbers {limits}, not {shown(value)}")
    if whole and not all(is_whole(v) for v in value):
        raise UserError(f"{task}: {name} must be two whole numbers, not {shown(tuple(value))}")
    return tuple(value)


def is_number(value: object) -> bool:
    """Whether the value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def is_whole(value: object) -> bool:
    """Whether the value is a whole number."""
    return isinstance(value, int) and not isinstance(value, bool)
