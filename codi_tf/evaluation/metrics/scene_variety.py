"""The distance between what generated images and true ones show how often."""

from __future__ import annotations

import numpy as np

from codi_tf.evaluation import METRICS, numerics
from codi_tf.evaluation.metric import LEVEL, Column
from codi_tf.evaluation.scenes import CAPTION, SceneMetric, true_statements
from codi_tf.scenes.statements import columns_of_shares, occurrences


@METRICS.register("scene_variety")
class SceneVariety(SceneMetric):
    """The total variation distance between the shares of floors, lights, colors and shapes, the mean of the four.

    The shares are those that the reader sees in the images, and those of the captions. 0 is the same variety; blending
    and collapse raise it. In the row of the originals, it is the reader's own error.
    """

    column = Column(
        "variety lost",
        "{:.3f}",
        "lower",
        "distance between the shares of floors, lights, colors and shapes that the reader sees, and the true ones",
        67,
    )
    truth = (CAPTION,)
    per_image = False

    def reference(self, originals) -> np.ndarray:
        return _table(true_statements(originals))

    def measure(self, made, originals, reference) -> np.ndarray:
        return _table(self.eye.seen(made).statements)

    def aggregate(self, values: np.ndarray, reference: np.ndarray) -> float:
        return variety_distance(values, reference)

    def interval(self, values: np.ndarray, reference: np.ndarray) -> tuple[float, float]:
        return numerics.set_interval(variety_distance, values, reference, level=LEVEL)


def _table(statements) -> np.ndarray:
    return np.array([occurrences(one) for one in statements], np.float64)


def variety_distance(a: np.ndarray, b: np.ndarray) -> float:
    """sum |p - q| / 2 of the shares p and q of each kind of statement, the mean over the kinds; in [0, 1].

    Args:
        a, b: how often each value is stated of each image, [N, values], see `statements.occurrences`.
    """
    totals = [one.sum(axis=0) for one in (a, b)]
    return float(np.mean([_total_variation(*(total[part] for total in totals)) for part in columns_of_shares()]))


def _total_variation(p: np.ndarray, q: np.ndarray) -> float:
    p, q = (one / max(one.sum(), 1.0) for one in (p, q))
    return float(np.abs(p - q).sum() / 2)
