"""SSIM."""

from __future__ import annotations

import numpy as np

from codi_tf.evaluation import METRICS, numerics
from codi_tf.evaluation.metric import Column, Metric


@METRICS.register("ssim")
class Ssim(Metric):
    """The structural similarity to the originals, see `numerics.ssim`."""

    column = Column(
        "SSIM", "{:.3f}", "higher", "structural similarity to the originals (11 x 11 Gaussian windows)", place=20
    )

    def measure(self, made, originals, reference) -> np.ndarray:
        return numerics.ssim(made.unit, originals.unit)
