"""The CLIP score."""

from __future__ import annotations

import numpy as np

from codi_tf.evaluation import METRICS, numerics
from codi_tf.evaluation.clip import ClipMetric
from codi_tf.evaluation.metric import Column


@METRICS.register("clip_score")
class ClipScore(ClipMetric):
    """The cosine similarity of image and prompt in CLIP's embedding (Hessel et al. 2021)."""

    column = Column("CLIP score", "{:.3f}", "higher", "cosine similarity of the image and the prompt", place=40)

    def reference(self, originals) -> np.ndarray:
        """The embeddings of the prompts, [N, D]."""
        assert originals.prompts is not None  # asked for only with prompts
        return self.texts(originals.prompts)

    def measure(self, made, originals, reference: np.ndarray) -> np.ndarray:
        return numerics.cosine(made.features(self.clip.images), reference)
