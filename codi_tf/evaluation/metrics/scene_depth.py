"""The error of the depth that a reader of scenes sees in the image."""

from __future__ import annotations

import numpy as np

from codi_tf.evaluation import METRICS, numerics
from codi_tf.evaluation.metric import Column
from codi_tf.evaluation.scenes import DEPTH, SceneMetric


@METRICS.register("scene_depth")
class SceneDepth(SceneMetric):
    """The root mean square error of the nearness that is read to the true one, that of a depth condition.

    Each image's read nearness is scaled and shifted to fit best (Ranftl et al. 2020, section 5), since depth maps in
    files have any unit. In the row of the originals, it is the reader's own error. If the source has no depth, the true
    nearness is what the reader sees in the originals.
    """

    column = Column(
        "depth error",
        "{:.4f}",
        "lower",
        "root mean square error of the nearness that the reader sees, at the best scale and shift; the true one has a "
        "range of 1",
        68,
    )
    truth = (DEPTH,)

    def reference(self, originals) -> np.ndarray:
        if DEPTH in originals.truth:
            return np.asarray(originals.truth[DEPTH])[..., 0]
        return self.eye.seen(originals).nearness

    def measure(self, made, originals, reference: np.ndarray) -> np.ndarray:
        return numerics.aligned_error(self.eye.seen(made).nearness, reference)
