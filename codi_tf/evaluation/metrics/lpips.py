"""LPIPS."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from codi_tf.evaluation import METRICS
from codi_tf.evaluation.metric import Column, Metric, Option
from codi_tf.evaluation.samplers import in_batches


@METRICS.register("lpips")
class Lpips(Metric):
    """The learned perceptual distance to the originals (Zhang et al. 2018).

    Args:
        distance: (images, originals) float32 [B, H, W, 3] in [-1, 1] -> [B].
    """

    column = Column("LPIPS", "{:.3f}", "lower", "learned perceptual distance to the originals", place=30)
    option = Option("--lpips", "weights of LPIPS", "name the weights of LPIPS")

    def __init__(self, distance: Callable):
        self.distance = distance

    @classmethod
    def load(cls, argument: str | None, image_size: int) -> Lpips | None:
        if argument is None:
            return None
        from codi_tf.evaluation.perception.lpips import load_lpips

        return cls(load_lpips(argument).distance)

    def measure(self, made, originals, reference) -> np.ndarray:
        return in_batches(self.distance, made.batch)(made.images, originals.images)
