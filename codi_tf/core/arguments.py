"""Checks of arguments: whole numbers and prompts."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

from codi_tf.core.errors import UserError


def whole_number(name: str, value: Any, low: int, high: int) -> int:
    """A whole number of any type, from low to high, as an int. Raises UserError that calls the value `name`."""
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None or not low <= number <= high:
        raise UserError(f"{name} is {value!r}: it must be a whole number from {low} to {high}")
    return number


def as_prompts(prompts: str | Sequence[str]) -> list[str]:
    """One prompt or several, as a list. Raises UserError for no prompt, or one that is not a str."""
    several: list[Any] = [prompts] if isinstance(prompts, str) or not hasattr(prompts, "__iter__") else list(prompts)
    if not several:
        raise UserError("the list of prompts is empty: give at least one")
    for prompt in several:
        if not isinstance(prompt, str):
            raise UserError(f"a prompt is {prompt!r}: it must be text, a str")
    return several
