"""The share of edits that are made as asked."""

from __future__ import annotations

import numpy as np

from codi_tf.evaluation import METRICS
from codi_tf.evaluation.metric import Column
from codi_tf.evaluation.scenes import CAPTION, SceneMetric, true_statements
from codi_tf.scenes.statements import share_right


@METRICS.register("edit_success")
class EditSuccess(SceneMetric):
    """Whether the change that was asked for is seen, and all else is as before.

    That is the case if all statements on the scene after the edit are right.
    """

    column = Column(
        "edits made", "{:.3f}", "higher", "share of edits after which the reader sees what was asked, and only that", 66
    )
    truth = (CAPTION,)
    needs_instructions = True

    def measure(self, made, originals, reference) -> np.ndarray:
        pairs = zip(true_statements(originals), self.eye.seen(made).statements, strict=True)
        return np.array([float(share_right(stated, seen) == 1.0) for stated, seen in pairs])
