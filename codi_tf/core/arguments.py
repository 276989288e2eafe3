"""Checks of arguments: numbers, paths and prompts. Those that parse text are types for `add_argument`."""

from __future__ import annotations

import argparse
import math
import operator
import re
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, TypeVar

from codi_tf.core.errors import UserError
from codi_tf.core.limits import MAX_CONDITION_SCALE, MAX_SEED
from codi_tf.core.paths import as_path

LONGEST = 40  # characters of a value in a message
LARGEST = 3.4e38  # of float32
T = TypeVar("T")


def integer(low: int, high: int) -> Callable[[str], int]:
    """A parser of whole numbers from low to high."""

    def whole(text: str) -> int:
        number = int(text) if re.fullmatch(r"[+-]?[0-9]{1,20}", text) else None
        if number is None or not low <= number <= high:
            raise argparse.ArgumentTypeError(f"is {_short(text)}: it must be a whole number from {low} to {high}")
        return number

    return whole


def finite_number(low: float = -math.inf, high: float = math.inf, *, above: bool = False) -> Callable[[str], float]:
    """A parser of finite numbers from low to high; with `above`, low itself is refused."""
    if -math.inf < low and high < math.inf and not above:
        wanted = f"it must be a number from {low:g} to {high:g}"
    else:
        limits = [f"{'above' if above else 'at least'} {low:g}"] * (low > -math.inf)
        limits += [f"at most {high:g}"] * (high < math.inf)
        wanted = f"it must be a number {' and '.join(limits)}" if limits else "it must be a finite number"

    def number(text: str) -> float:
        try:
            value = math.nan if "_" in text else float(text)
        except ValueError:
            value = math.nan
        if not abs(value) <= LARGEST or not low <= value <= high or (above and value == low):
            raise argparse.ArgumentTypeError(f"is {_short(text)}: {wanted}")
        return value

    return number


seed_number = integer(0, MAX_SEED)


def one_of(names: Collection[str]) -> Callable[[str], str]:
    """A parser of one of these names, whose message lists them."""

    def name(text: str) -> str:
        if text not in names:
            raise argparse.ArgumentTypeError(f"is {_short(text)}: choose from {', '.join(names)}")
        return text

    return name


def several(parse: Callable[[str], T]) -> Callable[[str], list[T]]:
    """A parser of values with commas between them, each once; `parse` is that of one."""

    def values(text: str) -> list[T]:
        found = [parse(part.strip()) for part in text.split(",")]
        if len(set(found)) < len(found):
            raise argparse.ArgumentTypeError(f"is {_short(text)}: give each value once")
        return found

    return values


def path_argument(text: str) -> Path:
    """A parser of paths. Refuses the empty one, which Python takes for the current folder, and a ~ of the shell."""
    if not text.strip():
        raise argparse.ArgumentTypeError(f"is {text!r}: name a file or a folder")
    if text.startswith("~"):
        raise argparse.ArgumentTypeError(f"is {text}: your shell has not replaced the ~; write the whole path, or ./~")
    return as_path(text)


def scaled_path(text: str) -> tuple[Path, float]:
    """A parser of PATH or PATH:SCALE, SCALE a finite number; 1 where there is none. A path that exists is a path."""
    path, colon, scale = text.rpartition(":")
    if not colon or "/" in scale or as_path(text).exists():
        return path_argument(text), 1.0
    return path_argument(path), finite_number()(scale)


def add_loras(parser: argparse._ActionsContainer) -> None:
    """Add --lora, a list of (path, scale)."""
    parser.add_argument(
        "--lora",
        type=scaled_path,
        action="append",
        default=[],
        metavar="PATH[:SCALE]",
        help="a LoRA to merge into the base, and how strongly (default: 1); may be given several times",
    )


def add_fidelity(parser: argparse._ActionsContainer, note: str = "", *, default: float | None = 0.0) -> None:
    """Add --fidelity; `note` says of what it is. A `default` of None tells whether the option was given."""
    said = "0, the last step's image, to 1, the first step's, smooth and closest to the condition"
    parser.add_argument(
        "--fidelity", type=finite_number(0, 1), default=default, help=f"{said}{note and f'; {note}'} (default: 0)"
    )


def add_condition_scale(
    parser: argparse._ActionsContainer, note: str = "", *, default: float | None = 1.0, above: bool = False
) -> None:
    """Add --condition-scale, above 0 with `above`. `note` and `default` are as in `add_fidelity`."""
    said = f"how many times the condition counts, {'above 0, at most' if above else '0, not at all, to'}"
    parser.add_argument(
        "--condition-scale",
        type=finite_number(0, MAX_CONDITION_SCALE, above=above),
        default=default,
        help=f"{said} {MAX_CONDITION_SCALE}{note and f'; {note}'} (default: 1)",
    )


def flag(name: str) -> str:
    """The flag of an option: --text-guidance for text_guidance."""
    return "--" + name.replace("_", "-")


def text_argument(text: str) -> str:
    """A parser of names; the empty one is refused."""
    if not text.strip():
        raise argparse.ArgumentTypeError(f"is {text!r}: give a name")
    return text


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def whole_number(name: str, value: Any, low: int, high: int) -> int:
    """A whole number of any type, from low to high, as an int. Raises UserError that calls the value `name`."""
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None or not low <= number <= high:
        raise UserError(f"{name} is {value!r}: it must be a whole number from {low} to {high}")
    return number


def prompts_for(count: int, prompts: str | Sequence[str]) -> list[str]:
    """One prompt, or one for each of `count` images. Raises UserError for another number, and see `as_prompts`."""
    prompts = as_prompts(prompts)
    if len(prompts) not in (1, count):
        raise UserError(f"{len(prompts)} prompts for {count} images: give one, or one per image")
    return prompts


def as_prompts(prompts: str | Sequence[str]) -> list[str]:
    """One prompt or several, as a list. Raises UserError for no prompt, or one that is not a str."""
    several: list[Any] = [prompts] if isinstance(prompts, str) or not hasattr(prompts, "__iter__") else list(prompts)
    if not several:
        raise UserError("the list of prompts is empty: give at least one")
    for prompt in several:
        if not isinstance(prompt, str):
            raise UserError(f"a prompt is {prompt!r}: it must be text, a str")
    return several
