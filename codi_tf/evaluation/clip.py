"""What the metrics by CLIP share: the option that names the model, and the model itself."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from codi_tf.core.paths import as_path
from codi_tf.evaluation.metric import Metric, Option
from codi_tf.evaluation.samplers import BATCH
from codi_tf.evaluation.sharing import changed

if TYPE_CHECKING:
    from codi_tf.evaluation.perception.clip import Embedder

CLIP = Option(
    "--clip",
    "folder of a CLIP model; measures how well images fit --prompt or --prompts, and edits their captions",
    "name that of a CLIP model",
    folder=True,
)


class ClipMetric(Metric):
    """Base class of the metrics by CLIP.

    Args:
        clip: the model.
    """

    option = CLIP
    needs_prompts = True

    def __init__(self, clip: Embedder):
        self.clip = clip

    @classmethod
    def load(cls, argument: str | None, image_size: int) -> Metric | None:
        return None if argument is None else cls(shared_clip(argument))

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """The embeddings of texts, float32 [N, D], of unit length; each different text is embedded once."""
        different, places = np.unique(np.array(texts, str), return_inverse=True)
        parts = [different[i : i + BATCH].tolist() for i in range(0, len(different), BATCH)]
        return np.concatenate([np.asarray(self.clip.texts(part)) for part in parts])[places]


def shared_clip(argument: str) -> Embedder:
    """The model in a folder, one for all metrics of an evaluation.

    Raises:
        UserError: see `perception.clip.load_clip`.
    """
    folder = as_path(argument)
    return _clip(folder, changed(folder))


@functools.lru_cache(maxsize=1)
def _clip(folder: Path, when: tuple) -> Embedder:
    """The model of a folder whose files are of that time."""
    from codi_tf.evaluation.perception.clip import load_clip

    return load_clip(folder)
