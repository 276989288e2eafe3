"""Sharpness."""

from __future__ import annotations

import numpy as np

from codi_tf.evaluation import METRICS, numerics
from codi_tf.evaluation.metric import LEVEL, Column, Metric


@METRICS.register("sharpness")
class Sharpness(Metric):
    """The mean gradient energy over that of the originals, see `numerics.sharpness`."""

    column = Column("sharpness", "{:.2f}", "1 is best", "gradient energy, 1 is the originals'", place=70)

    def reference(self, originals) -> np.ndarray:
        return numerics.sharpness(originals.unit)

    def measure(self, made, originals, reference) -> np.ndarray:
        return numerics.sharpness(made.unit) / reference.mean()

    def interval(self, values, reference) -> tuple[float, float]:
        """The interval of a ratio of means (delta method): the same images are drawn in both."""
        varying = values - float(np.mean(values)) * (reference / reference.mean() - 1.0)
        return numerics.mean_interval(varying, level=LEVEL)
