"""Arguments that the studies' commands share."""

from __future__ import annotations

from collections.abc import Iterable

from codi_tf.core.errors import UserError


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
