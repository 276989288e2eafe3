"""The random numbers of one update: functions of (seed, step, purpose), however the batch is divided."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from codi_tf.core.seeds import fold


@dataclass(frozen=True)
class Draws:
    """The random numbers of one update, for one part of the global batch.

    What differs between examples is drawn for the whole batch, and a part takes its own rows. So the numbers, and the
    result of training, do not depend on the number of replicas or micro-batches.

    Attributes:
        seed: of the run, int or int [].
        step: the number of the update, int or int [].
        part: the number of this part, from 0; int or int32 [].
        parts: the number of equal parts of the batch.
        validation: in an evaluation, the number of examples before this batch, int or int []: draws depend on that, not
            on the update, and differ from those of training. None in training.
    """

    seed: Any
    step: Any
    part: Any = 0
    parts: int = 1
    validation: Any = None

    def noise(self, like):
        """Standard normal noise, float32 of the shape of `like`, [B, ...]."""
        like = tf.convert_to_tensor(like)
        return self._own(like.shape, tf.shape(like), self._normal)

    def times(self, like, *, low: int, high: int, shared: bool):
        """Times uniform in low .. high - 1: int32 [], one for the whole global batch, if shared, else [B]."""
        seed = self._seed("t")
        if shared:
            return tf.random.stateless_uniform((), seed, low, high, tf.int32)
        return self._rows(like, lambda shape: tf.random.stateless_uniform(shape, seed, low, high, tf.int32))

    def uniform(self, like, purpose: str):
        """Uniform in [0, 1), float32 [B], B the length of `like`; each purpose has numbers of its own."""
        return self._rows(like, lambda shape: tf.random.stateless_uniform(shape, self._seed(purpose)))

    def shared(self, count: int, purpose: str):
        """Uniform in [0, 1), float32 [count], the same for all parts of the batch."""
        return tf.random.stateless_uniform((count,), self._seed(purpose))

    def _normal(self, shape):
        return tf.random.stateless_normal(shape, self._seed("noise"))

    def _rows(self, like, draw: Callable):
        like = tf.convert_to_tensor(like)
        return self._own(like.shape[:1], tf.shape(like)[:1], draw)

    def _own(self, static: tf.TensorShape, dynamic, draw: Callable):
        """The rows of this part, out of those that `draw` makes for the whole batch."""
        shape: Any = static.as_list() if static.is_fully_defined() else tf.unstack(dynamic)
        if self.parts == 1:
            return draw(shape)
        count, *others = shape
        return tf.slice(draw([self.parts * count, *others]), [self.part * count] + [0] * len(others), shape)

    def _seed(self, purpose: str) -> Any:
        if self.validation is not None:
            return fold(self.seed, self.validation, 0, f"validation: {purpose}")
        return fold(self.seed, self.step, 0, purpose)
