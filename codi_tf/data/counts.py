"""What batches of TensorFlow alone cannot say themselves: damaged records that were replaced, and prompts cut off."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from codi_tf.core.errors import UserError
from codi_tf.data.pipeline import REPLACED
from codi_tf.data.prompts import has_reached_a_power_of_ten
from codi_tf.data.tokens_in_graph import CUT
from codi_tf.data.unreadable import too_many

COUNTED = (REPLACED, CUT)  # keys of batches that are summed, and not trained on
REMEDY = "copy them again, or run codi prepare again"


class Counts:
    """Counts of the examples that were read so far.

    Args:
        sources: what they come from.
    """

    def __init__(self, sources: Sequence[Any]):
        self.given = list(sources)
        self.sources = [part for source in sources for part in getattr(source, "sources", (source,))]
        self.read, self.replaced, self.cut = 0, 0, 0

    def add(self, examples: int, *, first: int = 0, source: int = 0, replaced: float = 0.0, cut: float = 0.0) -> None:
        """Count examples, the damaged records among them that others replaced, and prompts that are cut off.

        Warns of these when there are 1, 10, 100, ... of them. A source that can (`Stream.look_at`) looks at damaged
        records again, and names them itself.

        Args:
            examples: how many there are.
            first: the number of the first one.
            source: the number of their source.
            replaced, cut: how many records were replaced, and prompts cut off.

        Raises:
            UserError: damaged records exceed the share `max_unreadable` of the source, counted as in `stream.Stream`.
        """
        before, self.cut = self.cut, self.cut + int(cut)
        if has_reached_a_power_of_ten(before, self.cut):
            warnings.warn(f"prompts cut off so far, because they are too long: {self.cut}", stacklevel=2)
        if replaced and hasattr(self.given[source], "look_at"):
            replaced = max(0, replaced - self.given[source].look_at(first, examples))
        self.read, self.replaced = self.read + examples, self.replaced + int(replaced)
        if not replaced:
            return
        most = max(one.max_unreadable for one in self.sources if hasattr(one, "max_unreadable"))
        if too_many(self.replaced, self.read, sum(map(len, self.sources)), most):
            raise UserError(f"{self._told()}, more than max_unreadable {most:g} allows; {REMEDY}")

    def warn_of_replaced(self) -> None:
        """Warn if damaged records were replaced."""
        if self.replaced:
            warnings.warn(f"{self._told()}, others replaced them; {REMEDY}", stacklevel=2)

    def _told(self) -> str:
        names = dict.fromkeys(one.name for one in self.sources if hasattr(one, "name"))
        return f"{', '.join(names) or 'data.source'}: {self.replaced} of {self.read} records that were read are damaged"
