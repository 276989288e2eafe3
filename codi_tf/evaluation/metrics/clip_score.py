"""The CLIP score."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from codi_tf.evaluation import METRICS
from codi_tf.evaluation.metric import Column, Metric, Option
from codi_tf.evaluation.samplers import in_batches


@METRICS.register("clip_score")
class ClipScore(Metric):
    """The cosine similarity of image and prompt in CLIP's embedding (Hessel et al. 2021).

    Args:
        score: (images float32 [B, H, W, 3] in [-1, 1], prompts) -> [B].
    """

    column = Column("CLIP score", "{:.3f}", "higher", "cosine similarity of the image and the prompt", place=40)
    option = Option(
        "--clip",
        "folder of a CLIP model; measures how well images fit --prompt or --prompts",
        "name that of a CLIP model",
        folder=True,
    )
    needs_prompts = True

    def __init__(self, score: Callable):
        self.score = score

    @classmethod
    def load(cls, argument: str | None, image_size: int) -> ClipScore | None:
        if argument is None:
            return None
        from codi_tf.evaluation.perception.clip import load_clip

        return cls(load_clip(argument))

    def measure(self, made, originals, reference) -> np.ndarray:
        def score(images, prompts):
            return self.score(images, [prompt.decode("utf-8") for prompt in prompts.numpy()])

        return in_batches(score, made.batch)(made.images, np.array(originals.prompts, object))
