"""`Mixed`: several sources as one, in turn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import tensorflow as tf

from codi_tf.core.tensors import Tensor
from codi_tf.data.pipeline import REPLACED
from codi_tf.data.scenes import ENDLESS
from codi_tf.data.windows import Size

if TYPE_CHECKING:
    from codi_tf.data.pipeline import Source


class Mixed:
    """Sources that take turns: example i is example i // n of source i mod n; a `pipeline.Source`.

    Args:
        sources: n sources, at least two. The examples have the keys that all of them provide,
            and "replaced" if one of them does.
    """

    def __init__(self, sources: Sequence[Source]):
        self.sources: tuple[Any, ...] = tuple(sources)
        others = self.sources[1:]
        common = [key for key in self.sources[0].provides if all(key in other.provides for other in others)]
        counts = [REPLACED] if any(REPLACED in source.provides for source in self.sources) else []
        self.provides = tuple(dict.fromkeys((*common, *counts)))
        self.names = tuple(name for source in self.sources for name in source.names)

    def __len__(self) -> int:
        return min(sum(map(len, self.sources)), ENDLESS)

    @property
    def plain_prompts(self) -> bool:
        """Whether all prompts are plain, see `tokens_in_graph`."""
        return all(getattr(source, "plain_prompts", False) for source in self.sources)

    @property
    def missing_prompts(self) -> int:
        """The number of images that are known to have no prompt."""
        return sum(source.missing_prompts for source in self.sources)

    def in_python(self) -> Mixed:
        """The same source, of sources that Python reads where it can, see `Stream.in_python`."""
        return Mixed([source.in_python() if hasattr(source, "in_python") else source for source in self.sources])

    def look_at(self, first: int, count: int) -> int:
        """Find out which records were replaced in some examples, see `Stream.look_at`."""
        found, turns = 0, len(self.sources)
        for number, source in enumerate(self.sources):
            if hasattr(source, "look_at"):
                begin, end = ((place - number + turns - 1) // turns for place in (first, first + count))
                found += source.look_at(begin, end - begin)
        return found

    def drawer(
        self, *, image_size: Size, augment: bool, recolor: bool, prompts: bool = True
    ) -> Callable[[Tensor, Tensor], dict[str, Tensor]]:
        """(index int64 [], seed int32 [2]) -> an example, see `pipeline.Source`."""
        options = {"image_size": image_size, "augment": augment, "recolor": recolor, "prompts": prompts}
        draws = [source.drawer(**options) for source in self.sources]
        wanted = {"image", *self.provides} - ({"prompt"} if not prompts else set())

        def draw(index: Tensor, seed: Tensor) -> dict[str, Tensor]:
            turn, count = index // len(draws), len(draws)

            def of(draw: Callable) -> dict[str, Tensor]:
                found = {REPLACED: tf.constant(0), **draw(turn, seed)}
                return {key: value for key, value in found.items() if key in wanted}

            branches = [lambda draw=draw: of(draw) for draw in draws]
            return tf.switch_case(tf.cast(index % count, tf.int32), branches)

        return draw
