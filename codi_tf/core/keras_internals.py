"""Every use of Keras' private interface.

setup.cfg allows only the minor versions of Keras that were tested, and `tests/test_keras_internals.py` fails when one
of these names changes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras


def set_initializer(variable: keras.Variable, initializer: Callable) -> None:
    """Replace the initializer of a variable that was created in a `keras.StatelessScope` and has no value yet."""
    _private(variable, "_initializer")
    variable._initializer = initializer


def set_formats(policy: keras.DTypePolicy, *, compute: str, weights: str, name: str) -> None:
    """Give a dtype policy a pair of formats that Keras has no name for."""
    for key, value in {"_compute_dtype": compute, "_variable_dtype": weights, "_name": name}.items():
        _private(policy, key)
        setattr(policy, key, value)


def layers_of(network: keras.Model) -> list[keras.layers.Layer]:
    """All layers below a network, at any depth."""
    return list(_private(network, "_flatten_layers")(include_self=False, recursive=True))


def trainable_variables_of(optimizer: keras.optimizers.Optimizer) -> list[keras.Variable]:
    """The variables that a built optimizer updates."""
    return _private(optimizer, "_trainable_variables")


def with_gradients(
    optimizer: keras.optimizers.Optimizer, gradients: Sequence, variables: Sequence[keras.Variable]
) -> tuple[list, list[keras.Variable]]:
    """Return (gradients, variables) without the pairs whose gradient is None; warn about these, as Keras does."""
    return _private(optimizer, "_filter_empty_gradients")(gradients, variables)


def has_weight_decay(optimizer: keras.optimizers.Optimizer, variable: keras.Variable) -> bool:
    """Whether an optimizer's weight decay applies to a variable; see `Optimizer.exclude_from_weight_decay`."""
    return _private(optimizer, "_use_weight_decay")(variable)


def moments_of(optimizer: keras.optimizers.Adam, variable: keras.Variable) -> tuple[keras.Variable, keras.Variable]:
    """Adam's moving averages of a variable's gradient and of its square."""
    return momentum_of(optimizer, variable), _private(optimizer, "_velocities")[index_of(optimizer, variable)]


def momentum_of(optimizer: keras.optimizers.Optimizer, variable: keras.Variable) -> keras.Variable:
    """Adam's and Lion's moving average of a variable's gradient."""
    return _private(optimizer, "_momentums")[index_of(optimizer, variable)]


def index_of(optimizer: keras.optimizers.Optimizer, variable: keras.Variable) -> int:
    """The place of a variable among those that a built optimizer updates."""
    return _private(optimizer, "_get_variable_index")(variable)


def _private(owner: object, name: str) -> Any:
    """Return a private attribute. Raises RuntimeError where this version of Keras lacks it."""
    if not hasattr(owner, name):
        title = type(owner).__name__
        raise RuntimeError(f"Keras {keras.__version__} has no {title}.{name}; install the version that setup.cfg names")
    return getattr(owner, name)
