"""Arguments that the studies' commands share."""

from __future__ import annotations

from collections.abc import Iterable

from codi_tf.core.command_line import ArgumentParser
from codi_tf.core.errors import UserError


def study_parser(study: str, description: str | None, seeds: Iterable[int]) -> ArgumentParser:
    """A parser of what all studies take: plan, train or report, and the rows and seeds that these are about."""
    parser = ArgumentParser(prog=f"python -m studies.{study}", description=description)
    parser.add_argument("what", choices=("plan", "train", "report"))
    parser.add_argument("--rows", type=names, help=f"rows by their names in studies/{study}/plan.py (default: all)")
    parser.add_argument("--seeds", type=numbers, default=tuple(seeds), help="with commas between them")
    return parser


def names(text: str) -> tuple[str, ...]:
    """Names with commas between them."""
    return tuple(text.split(","))


def numbers(text: str) -> tuple[int, ...]:
    """Whole numbers with commas between them."""
    return tuple(int(part) for part in text.split(","))


def check_names(flag: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Raises UserError for a name that is not known."""
    known = dict.fromkeys(known)
    for name in given:
        if name not in known:
            raise UserError(f"{flag} has {name}: use names of {', '.join(known)}")
