"""The CLIP directional similarity of edits."""

from __future__ import annotations

import numpy as np

from codi_tf.core.errors import UserError
from codi_tf.evaluation import METRICS, numerics
from codi_tf.evaluation.clip import CLIP, ClipMetric
from codi_tf.evaluation.metric import Column, Originals
from codi_tf.evaluation.samplers import in_batches
from codi_tf.evaluation.scenes import CAPTION

BEFORE, CAPTION_BEFORE = "source", "source_caption"  # keys of `Originals.truth`: the image before the edit, its caption


@METRICS.register("clip_direction")
class ClipDirection(ClipMetric):
    """Whether images change as captions do: cos(E(y) - E(y_0), T(c) - T(c_0)) (Gal et al. 2022, Eq. 3).

    E and T are CLIP's embeddings, of unit length, of the image y and the caption c after the edit, and of y_0 and c_0
    before it. It is 0 where nothing changes. InstructPix2Pix was measured by it (Brooks et al. 2023, section 4.1).
    """

    column = Column(
        "CLIP direction",
        "{:.3f}",
        "higher",
        "cosine similarity of the change of the image and the change of its caption",
        place=41,
    )
    needs_instructions = True
    truth = (BEFORE, CAPTION_BEFORE, CAPTION)
    needs_truth = True

    def reference(self, originals: Originals) -> np.ndarray:
        """E(y_0) and T(c) - T(c_0) of each image, [N, 2 D]. Raises UserError where a caption is empty."""
        truth = originals.truth
        after, before = (truth[key].tolist() for key in (CAPTION, CAPTION_BEFORE))
        if missing := sum(not one.strip() or not other.strip() for one, other in zip(after, before, strict=True)):
            raise UserError(
                f"{CLIP.flag}: {missing} of {len(after)} edits have no caption before or after; complete them, or "
                "remove all"
            )
        change = self.texts(after) - self.texts(before)
        return np.concatenate([in_batches(self.clip.images, originals.batch)(truth[BEFORE]), change], axis=1)

    def measure(self, made, originals, reference: np.ndarray) -> np.ndarray:
        before, change = np.split(reference, 2, axis=1)
        return numerics.cosine(made.features(self.clip.images) - before, change)
