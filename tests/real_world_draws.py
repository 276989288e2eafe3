"""Many draws of the Real-ESRGAN degradation, and their statistics."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats


def draws(function, count, *, seed=5):
    """Function(seed) under seeds (5, 0), (5, 1), ..., as NumPy arrays of any shapes."""
    graph = tf.function(function, autograph=False)
    return [graph(tf.constant([seed, i], tf.int32)).numpy() for i in range(count)]


def assert_uniform(values, low, high):
    """Kolmogorov-Smirnov, at a level of 1e-4."""
    assert stats.kstest(values, stats.uniform(low, high - low).cdf).pvalue > 1e-4


def assert_share(found, probability):
    """A mean of yes and no, within four standard deviations."""
    assert np.mean(found) == pytest.approx(probability, abs=4 * math.sqrt(probability * (1 - probability) / len(found)))
