"""Dtype policies: the number format that networks compute in, and the format of their weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import cast

import keras

from codi_tf.core.formats import FloatFormat, check_format
from codi_tf.core.keras_internals import set_formats


def make_policy(compute: str = "float32", weights: str = "float32") -> keras.DTypePolicy:
    """A dtype policy for any pair of `codi_tf.core.formats.FORMATS`.

    Args:
        compute: the format of activations.
        weights: the format of variables. Half precision is only for weights that are not trained.

    Raises:
        UserError: an unknown format.
    """
    check_format("compute", compute)
    check_format("weights", weights)
    if compute == weights:
        return keras.DTypePolicy(compute)
    if weights == "float32":
        return keras.DTypePolicy(f"mixed_{compute}")
    return _Pair(compute, weights)


class _Pair(keras.DTypePolicy):
    """A pair of formats that Keras has no policy for, such as float32 arithmetic on weights in half precision."""

    def __init__(self, compute: str, weights: str):
        super().__init__(compute)
        set_formats(self, compute=compute, weights=weights, name=f"{compute}_on_{weights}")

    def get_config(self):
        return {"compute": self.compute_dtype, "weights": self.variable_dtype}


def current_compute() -> FloatFormat:
    """The format that networks compute in which are made now: that of the current policy."""
    return cast(FloatFormat, keras.config.dtype_policy().compute_dtype)


@contextlib.contextmanager
def built_in(policy: keras.DTypePolicy) -> Iterator[None]:
    """Give the policy to all layers that are made in this block."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
