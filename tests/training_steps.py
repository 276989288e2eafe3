"""A compiled tiny CoDi and its batches, for tests of training."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf
from conftest import make_model
from tiny import tiny_base

GAMMA = 0.9


def random(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def latents(count=2):
    """A batch that was encoded beforehand."""
    return {name: tf.constant(random(i, count, 4, 4, 4)) for i, name in enumerate(("latent", "condition_latent"))}


def values(variables):
    return [variable.numpy() for variable in variables]


def compiled(*, learning_rate=1e-3, weight_decay=0.0, **options):
    """A compiled tiny CoDi; equal arguments give equal models."""
    model = make_model(tiny_base(), ema_decay=GAMMA, **options)
    model.compile(keras.optimizers.AdamW(learning_rate, weight_decay=weight_decay))
    return model
