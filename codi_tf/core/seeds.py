"""Stateless seeds: every random draw is a function of (seed, step, replica, purpose) alone."""

from __future__ import annotations

import zlib

import tensorflow as tf


def fold(seed, step, replica, purpose: str):
    """A seed int32 [2] for the `tf.random.stateless_*` functions.

    Args:
        seed: int, the run's seed.
        step: int or integer tensor, the update (or the index of an example).
        replica: int or integer tensor; 0 for draws that are the same on all replicas.
        purpose: what is drawn; draws with different purposes are independent.
    """
    folded = tf.stack([tf.cast(seed, tf.int32), tf.constant(zlib.crc32(purpose.encode()) & 0x7FFFFFFF, tf.int32)])
    for part in (step, replica):
        folded = tf.random.fold_in(folded, tf.cast(part, tf.int32))
    return folded
