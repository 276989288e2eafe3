"""Stateless seeds: every random draw is a function of (seed, step, replica, purpose) alone."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

from codi_tf.core.lazy import tensorflow as tf
from codi_tf.core.tensors import Tensor


def fold(seed: Tensor, step: Tensor, replica: Tensor, purpose: str) -> Tensor:
    """A seed int32 [2] for the `tf.random.stateless_*` functions.

    Args:
        seed: int, the run's seed.
        step: int or integer tensor, the update (or the index of an example).
        replica: int or integer tensor; 0 for draws that are the same on all replicas.
        purpose: what is drawn; draws with different purposes are independent.
    """
    hashed = tf.constant(zlib.crc32(purpose.encode()) & 0x7FFFFFFF, tf.int32)
    folded = tf.stack([tf.cast(seed, tf.int32), hashed])
    for part in (step, replica):
        folded = fold_in(folded, tf.cast(part, tf.int32))
    return folded


def fold_in(seed: Tensor, number: Tensor) -> Tensor:
    """Another seed int32 [2], from a seed [2] and a whole number, int or int32 []."""
    return tf.random.fold_in(seed, number)


def random_words(shape: Sequence[Tensor], seed: Tensor) -> Tensor:
    """int32 of a shape, all values of 32 bits equally likely, drawn by a seed of two whole numbers."""
    whole_range: dict[str, Tensor] = {"minval": None, "maxval": None}
    return tf.random.stateless_uniform(shape, seed, dtype=tf.int32, **whole_range)
