"""What a source leaves out: counted and named in one warning, when the source is opened."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from codi_tf.core.showing import printable

NAMED = 5  # names in a message
FILES = "files that are neither images nor companions of one"


class LeftOut(NamedTuple):
    """Files that are neither records nor parts of one.

    Attributes:
        endings: extension -> how many, the most frequent first when there are many.
        names: the first of them.
    """

    endings: Counter[str] = Counter()
    names: tuple[str, ...] = ()

    @classmethod
    def of(cls, names: Iterable[str]) -> LeftOut:
        """Count the names, and keep the first."""
        names = list(names)
        return cls(Counter(_ending(name) for name in names), tuple(names[:NAMED]))

    @property
    def kinds(self) -> str:
        """The most frequent endings with their numbers, such as "7 .heic, 3 .mov"."""
        return ", ".join(f"{number} {ending}" for ending, number in self.endings.most_common(NAMED))

    def joined(self, other: LeftOut) -> LeftOut:
        """Both together."""
        return LeftOut(self.endings + other.endings, (*self.names, *other.names)[:NAMED])


def warn_of_left_out(what: str, left_out: LeftOut | Sequence[str]) -> None:
    """Warn in one line with the number of items, their endings if these differ, and the first five names.

    Without items there is no warning.
    """
    if not isinstance(left_out, LeftOut):
        left_out = LeftOut.of(left_out)
    count = left_out.endings.total()
    if count:
        names = ", ".join(left_out.names) + (", ..." if count > len(left_out.names) else "")
        kinds = f"{left_out.kinds}: " if len(left_out.endings) > 1 and count > NAMED else ""
        warnings.warn(printable(f"{what} are left out: {count} ({kinds}{names})"), stacklevel=3)


def _ending(name: str) -> str:
    return os.path.splitext(name)[1].lower() or "without ending"
