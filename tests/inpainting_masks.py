"""Many masks of the inpainting task, and their statistics."""

from __future__ import annotations

import numpy as np
import tensorflow as tf
from scipy import stats

from codi_tf.tasks.inpainting import Inpainting

S = 64
KINDS = ("free_form", "box", "half")


def only(kind, **options):
    """A task that draws one kind of mask."""
    return Inpainting(**dict.fromkeys(KINDS, 0) | {kind: 1} | options)


def masks(task, count, height=S, width=S):
    """Masks [count, H, W] under seeds (5, 0), (5, 1), ..."""
    draw = tf.function(lambda seed: task.mask(height, width, seed), autograph=False)
    return np.stack([draw(tf.constant([5, i], tf.int32))[..., 0] for i in range(count)])


def is_box(mask):
    rows, columns = mask.any(axis=1), mask.any(axis=0)
    return np.array_equal(mask > 0, np.outer(rows, columns)) and all(
        np.diff(np.flatnonzero(side)).max(initial=1) == 1 for side in (rows, columns)
    )


def is_half(mask):
    return is_box(mask) and sorted((mask.any(axis=1).mean(), mask.any(axis=0).mean())) == [0.5, 1.0]


def assert_uniform(values, low, high):
    """Kolmogorov-Smirnov, at a level of 1e-4."""
    assert stats.kstest(values, stats.uniform(low, high - low).cdf).pvalue > 1e-4
