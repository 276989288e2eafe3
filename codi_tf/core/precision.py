"""Number formats of networks: of the computation and of the weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import keras

from codi_tf.core.errors import UserError

FORMATS = ("float32", "bfloat16", "float16")


def make_policy(compute: str = "float32", weights: str = "float32") -> keras.DTypePolicy:
    """A dtype policy of any pair of formats: Keras' own where there is one.

    Args:
        compute: the format of activations.
        weights: the format of variables. Half precision is only for weights that are not trained.

    Raises:
        UserError: for an unknown format.
    """
    for name, value in (("compute", compute), ("weights", weights)):
        if value not in FORMATS:
            raise UserError(f"{name} is {value!r}: use one of {', '.join(FORMATS)}")
    if compute == weights:
        return keras.DTypePolicy(compute)
    if weights == "float32":
        return keras.DTypePolicy(f"mixed_{compute}")
    return _Pair(compute, weights)


class _Pair(keras.DTypePolicy):
    """A pair that Keras has no policy for, such as float32 computation with float16 weights."""

    def __init__(self, compute: str, weights: str):
        super().__init__(compute)
        self._compute_dtype, self._variable_dtype = compute, weights
        self._name = f"{compute}_on_{weights}"

    def get_config(self):
        return {"compute": self.compute_dtype, "weights": self.variable_dtype}


@contextlib.contextmanager
def built_in(policy: keras.DTypePolicy) -> Iterator[None]:
    """Layers that are created in this block have the policy."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
