"""What of some data cannot be used: counted, named, and refused where it is too much."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import TypeVar

from codi_tf.core.errors import UserError
from codi_tf.data.records import Damage, Unreadable

JUDGED = 400  # records: of fewer, a share says little
SHOWN = 3  # so many unreadable records in a message
NAMED = 5  # so many names in a message

Value = TypeVar("Value")


def too_many(bad: int, read: int, total: int, max_unreadable: float) -> bool:
    """Whether bad records are more than a share of those that were read, 400 of them at least or all that there are."""
    return bad > max_unreadable * max(read, min(JUDGED, total))


def refusal(lines: Sequence[str], read: int, max_unreadable: float) -> UserError:
    """The error of too many unreadable records, each with a line of its own; see `too_many`."""
    return UserError(
        f"{len(lines)} of {read} records are unreadable, more than max_unreadable {max_unreadable:g} allows: "
        f"{first_of(lines)}; repair or remove them"
    )


def first_of(lines: Sequence[str]) -> str:
    """The first three lines in one, and how many more there are."""
    return "; ".join(lines[:SHOWN]) + (f" and {len(lines) - SHOWN} more" if len(lines) > SHOWN else "")


def read_all(names: Sequence[str], read: Callable[[int], Value], max_unreadable: float) -> dict[int, Value]:
    """Number -> record, of all that can be read; the others are named in a warning.

    Args:
        names: how messages call the records.
        read: number -> record; raises Unreadable, or a UserError that names the file itself.
        max_unreadable: the share of unreadable ones that is allowed, see `too_many`.

    Raises:
        UserError: more of them are unreadable, or all.
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
    """Names shards that are not whole in a warning. How much is lost behind the damage, nobody knows.

    Args:
        damaged: `Records.damaged`.
        shards: how many there are, the damaged ones included.
        max_unreadable: the share of damaged ones that is allowed, in [0, 1].

    Raises:
        UserError: more of them are damaged, or all.
    """
    if not damaged:
        return
    named = first_of([f"{shard.path}: {shard.reason}, after {shard.kept} records" for shard in damaged])
    counted = f"{len(damaged)} of {shards} shards are damaged"
    if len(damaged) == shards or len(damaged) > max_unreadable * shards:
        allowed = "none is whole" if len(damaged) == shards else f"more than max_unreadable {max_unreadable:g} allows"
        raise UserError(f"{counted}, {allowed}: {named}; how many are lost is not known: copy them again")
    warnings.warn(f"{counted} and read up to there: {named}; how many are lost is not known", stacklevel=3)


def warn_of_left_out(what: str, names: Sequence[str]) -> None:
    """One line that counts what is left out and names the first five; nothing for none."""
    if names:
        more = ", ..." if len(names) > NAMED else ""
        warnings.warn(f"{what} are left out: {len(names)} ({', '.join(names[:NAMED])}{more})", stacklevel=3)
