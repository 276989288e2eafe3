"""What the metrics by CLIP share: the option that names the model, and the model itself."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from codi_tf.evaluation.metric import Metric, Option

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
        return np.asarray(self.clip.texts(different.tolist()))[places]


def shared_clip(argument: str) -> Embedder:
    """The model in a folder, one for all metrics of an evaluation.

    Raises:
        UserError: see `perception.clip.load_clip`.
    """
    folder = Path(argument)
    return _clip(folder, tuple(sorted((path.name, path.stat().st_mtime_ns) for path in folder.iterdir())))


@functools.lru_cache(maxsize=1)
def _clip(folder: Path, changed: tuple) -> Embedder:
    """`changed`: when the files of the folder were; the model of a folder that has changed is loaded again."""
    from codi_tf.evaluation.perception.clip import load_clip

    return load_clip(folder)
