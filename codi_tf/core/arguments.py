"""Checks of arguments: whole numbers and prompts."""

from __future__ import annotations

import operator
from collections.abc import Sequence

from codi_tf.core.errors import UserError


def whole_number(name: str, value: object, low: int, high: int) -> int:
    """Check a whole number of any type and return it as an int.

    Args:
        name: what the error message calls the value.
        value: the number.
        low, high: its range, both ends included.

    Raises:
        UserError: no whole number, or out of range.
    """
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None or not low <= number <= high:
        raise UserError(f"{name} is {value!r}: it must be a whole number from {low} to {high}")
    return number


def as_prompts(prompts: str | Sequence[str]) -> list[str]:
    """Return one prompt or several as a list. Raises UserError for an empty list, or a prompt that is not a str."""
    several = [prompts] if isinstance(prompts, str) or not hasattr(prompts, "__iter__") else list(prompts)
    if not several:
        raise UserError("the list of prompts is empty: give at least one")
    for prompt in several:
        if not isinstance(prompt, str):
            raise UserError(f"a prompt is {prompt!r}: it must be text, a str")
    return several
