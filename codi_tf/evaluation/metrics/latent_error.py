"""The latent error."""

from __future__ import annotations

import numpy as np

from codi_tf.evaluation import METRICS
from codi_tf.evaluation.metric import Column, Metric


@METRICS.register("latent_error")
class LatentError(Metric):
    """The mean squared error to the originals' latents."""

    column = Column("latent error", "{:.4f}", "lower", "mean squared error to the originals' latents", place=80)

    def measure(self, made, originals, reference) -> np.ndarray:
        return np.mean(np.square(np.float64(made.latents) - originals.latents), axis=(1, 2, 3))
