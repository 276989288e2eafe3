"""Unreadable records: warnings that name them, and an error if there are too many."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from codi_tf.core.errors import UserError
from codi_tf.core.showing import printable
from codi_tf.data.records import Damage, Unreadable
from codi_tf.data.windows import Size

JUDGED = 400  # records: as long as fewer were read, the share is one of this many
SHOWN = 3  # unreadable records in a message
TOO_SMALL = "smaller than image_size"

Value = TypeVar("Value")


class Tally:
    """The unreadable ones among the records of a source, counted from many threads.

    Args:
        name: number -> the name of a record.
        total: the number of records.
        most: the largest share of unreadable records, see `too_many`.

    Attributes:
        tried: how many records were read, unreadable ones among them.
        known: the records that were known to be unreadable before they were read.
    """

    def __init__(self, name: Callable[[int], str], total: int, most: float):
        self.name, self.total, self.most = name, total, most
        self.tried, self.known = 0, frozenset[int]()
        self._lock, self._bad = threading.Lock(), dict[int, str]()

    @property
    def lines(self) -> list[str]:
        """One line for each unreadable record in the order of reading: its name and the reason."""
        with self._lock:
            return [f"{self.name(record)}: {reason}" for record, reason in self._bad.items()]

    def count(self, record: int | None = None, reason: str = "") -> None:
        """Count a record that was read; if it was unreadable, remember it. Raises UserError for too many of these."""
        with self._lock:
            self.tried += 1
            if record is None:
                return
            self._bad.setdefault(record, reason)
            bad, read = len(self._bad), min(self.tried, self.total)
        if too_many(bad, read, self.total, self.most):
            raise refusal(self.lines, read, self.most)

    def know(self, bad: Mapping[int, str]) -> None:
        """Remember what is unreadable of all records, before any is read. Raises UserError for too many of these."""
        with self._lock:
            self._bad |= bad
            self.known = self.known.union(bad)
            bad_ones = len(self._bad)
        if bad and too_many(bad_ones, self.total, self.total, self.most):
            raise refusal(self.lines, self.total, self.most)
        if len(self.known) == self.total:
            raise UserError(f"none of the {self.total} records can be read: {first_of(self.lines)}")


def too_many(bad: int, read: int, total: int, max_unreadable: float) -> bool:
    """Whether bad records exceed a share of those read, counted as at least 400, or as all if there are fewer."""
    return bad > max_unreadable * max(read, min(JUDGED, total))


def too_small(size: tuple[int, int], image_size: Size) -> str:
    """The reason why an image of (height, width) gives no crop of this size."""
    wanted = image_size if isinstance(image_size, int) else f"{image_size[0]}x{image_size[1]}"
    return f"it is {size[0]}x{size[1]}, {TOO_SMALL} {wanted}"


def refusal(lines: Sequence[str], read: int, max_unreadable: float) -> UserError:
    """The error for too many unreadable records, of which `lines` has one line each; see `too_many`."""
    smaller = "choose a smaller image_size, or " if any(TOO_SMALL in line for line in lines) else ""
    return UserError(
        f"{len(lines)} of {read} records are unreadable, more than max_unreadable {max_unreadable:g} allows: "
        f"{first_of(lines)}; {smaller}repair or remove them"
    )


def first_of(lines: Sequence[str]) -> str:
    """The first three lines in one that is printable, and the number of others."""
    return "; ".join(map(printable, lines[:SHOWN])) + (f" and {len(lines) - SHOWN} more" if len(lines) > SHOWN else "")


def read_all(
    names: Sequence[str], read: Callable[[int], Value], max_unreadable: float
) -> tuple[dict[int, Value], list[str]]:
    """Number -> record, of all readable records, and a line for each of the others, which are named in a warning.

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
    check_unreadable(bad, len(names), max_unreadable)
    return found, bad


def check_unreadable(lines: Sequence[str], total: int, max_unreadable: float) -> None:
    """Name the unreadable ones of all records in a warning; `lines` has one line for each.

    Raises:
        UserError: more than the share max_unreadable is unreadable, see `too_many`, or all.
    """
    if lines and (len(lines) == total or too_many(len(lines), total, total, max_unreadable)):
        raise refusal(lines, total, max_unreadable)
    if lines:
        warnings.warn(f"{len(lines)} of {total} records are unreadable and left out: {first_of(lines)}", stacklevel=4)


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
