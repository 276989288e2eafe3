"""PSNR."""

from __future__ import annotations

import numpy as np

from codi_tf.evaluation import METRICS, numerics
from codi_tf.evaluation.metric import Column, Metric


@METRICS.register("psnr")
class Psnr(Metric):
    """The peak signal-to-noise ratio to the originals, see `numerics.psnr`."""

    column = Column("PSNR, dB", "{:.2f}", "higher", "peak signal-to-noise ratio to the originals", place=10)

    def measure(self, made, originals, reference) -> np.ndarray:
        return numerics.psnr(made.unit, originals.unit)
