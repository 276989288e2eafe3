"""Unreadable records: warnings that name them, and an error if there are too many."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import TypeVar

from codi_tf.core.errors import UserError
from codi_tf.data.records import Damage, Unreadable

JUDGED = 400  # records: a share of fewer records is taken of so many
SHOWN = 3  # unreadable records in a message
NAMED = 5  # names in a message

Value = TypeVar("Value")


def too_many(bad: int, read: int, total: int, max_unreadable: float) -> bool:
    """Whether bad records exceed a share of those read, counted as at least 400, or as all if there are fewer."""
    return bad > max_unreadable * max(read, min(JUDGED, total))


def refusal(lines: Sequence[str], read: int, max_unreadable: float) -> UserError:
    """The error for too many unreadable records, of which `lines` has one line each; see `too_many`."""
    return UserError(
        f"{len(lines)} of {read} records are unreadable, more than max_unreadable {max_unreadable:g} allows: "
        f"{first_of(lines)}; repair or remove them"
    )


def first_of(lines: Sequence[str]) -> str:
    """The first three lines in one, and the number of others."""
    return "; ".join(lines[:SHOWN]) + (f" and {len(lines) - SHOWN} more" if len(lines) > SHOWN else "")


def read_all(names: Sequence[str], read: Callable[[int], Value], max_unreadable: float) -> dict[int, Value]:
    """Number -> record, of all readable records; the others are named in a warning.

    Args:
        names: of the records, for messages.
        read: number -> record; raises Unreadable, or a UserError that names the file itself.
        max_unreadable: the largest share of unreadable records, see `too_many`.

    Raises:
        UserError: more are unreadable, or all.
    """
    found, bad = {}, []
    for number, name in enumerate(names):
        try:
            found[number] = read(number)
        except Unreadable as reason:
            bad.append(f"{name}: {reason}")
        except UserError as error:
            bad.append(str(error))
    if bad and not found or too_many(len(bad), len(names), len(names), max_unreadable):
        raise refusal(bad, len(names), max_unreadable)
    if bad:
        warnings.warn(f"{len(bad)} of {len(names)} records are unreadable and left out: {first_of(bad)}", stacklevel=3)
    return found


def warn_of_damage(damaged: Sequence[Damage], shards: int, max_unreadable: float) -> None:
    """Name damaged shards in a warning. The number of lost records is not known.

    Args:
        damaged: `Records.damaged`.
        shards: the number of all shards.
        max_unreadable: the largest share of damaged shards, in [0, 1].

    Raises:
        UserError: more are damaged, or all.
    """
    if not damaged:
        return
    named = first_of([f"{shard.path}: {shard.reason}, after {shard.intact} records" for shard in damaged])
    counted = f"{len(damaged)} of {shards} shards are damaged"
    if len(damaged) == shards or len(damaged) > max_unreadable * shards:
        allowed = "none is intact" if len(damaged) == shards else f"more than max_unreadable {max_unreadable:g} allows"
        raise UserError(f"{counted}, {allowed}: {named}; the number of lost records is unknown: copy them again")
    warnings.warn(f"{counted} and read up to there: {named}; the number of lost records is unknown", stacklevel=3)


def warn_of_left_out(what: str, names: Sequence[str]) -> None:
    """Warn in one line with the number of items that are left out and the first five names; nothing for none."""
    if names:
        more = ", ..." if len(names) > NAMED else ""
        warnings.warn(f"{what} are left out: {len(names)} ({', '.join(names[:NAMED])}{more})", stacklevel=3)
