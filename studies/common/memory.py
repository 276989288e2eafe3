"""Giving back what models held, in processes that make many."""

from __future__ import annotations

import contextlib
import ctypes
import gc

import keras
from tensorflow.python.framework.ops import gradient_registry


def give_memory_back() -> None:
    """Return what models held to the system.

    TensorFlow never forgets a custom gradient that it met in a graph, such as that of silu, and with it the whole
    graph.
    """
    for name in [name for name in gradient_registry.list() if name.startswith("CustomGradient-")]:
        del gradient_registry._registry[name]
    keras.utils.clear_session()
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # the C library of Linux alone keeps it otherwise
        ctypes.CDLL(None).malloc_trim(0)
