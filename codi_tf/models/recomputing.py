"""Gradient checkpointing: parts of a network whose activations the backward pass computes again."""

from __future__ import annotations

import contextvars
from collections.abc import Callable

import keras
import tensorflow as tf


def run_stage(run: Callable, *args, recompute: bool, separate: bool = False):
    """run(*args), a stage of a network.

    Args:
        run: the stage, a function of tensors.
        recompute: whether the backward pass computes the stage's activations again, in place of storing them.
        separate: whether the stage is a function of its own inside a graph even where it is not recomputed.
    """
    if (recompute or separate) and not tf.executing_eagerly():
        # A function of its own. Without it TensorFlow merges the recomputation with the first computation and keeps
        # the results, and it casts the weights of all stages at once, because the casts depend on nothing.
        run = tf.function(run, autograph=False, experimental_attributes={"_noinline": True})
    if not recompute:
        return run(*args)
    context = contextvars.copy_context()  # what is applied to the network now is not where the backward pass runs
    return keras.remat(lambda *args: context.copy().run(run, *args))(*args)
