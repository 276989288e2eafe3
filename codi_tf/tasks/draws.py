"""Random numbers in a range, from uniform numbers in [0, 1)."""

from __future__ import annotations

from codi_tf.core.lazy import tensorflow as tf
from codi_tf.core.tensors import Tensor


def between(bounds: tuple, u: Tensor) -> Tensor:
    """low + (high - low) u, float32 of the shape of u, which is in [0, 1)."""
    low, high = bounds
    return low + (high - low) * u


def whole_between(bounds: tuple, u: Tensor) -> Tensor:
    """A whole number from low to high, both included, with equal probability; u in [0, 1); int32."""
    low, high = bounds
    return low + tf.minimum(tf.cast(u * tf.cast(high - low + 1, tf.float32), tf.int32), high - low)
