"""The Frechet distance in the features of a reader of scenes."""

from __future__ import annotations

from codi_tf.evaluation import METRICS
from codi_tf.evaluation.metric import Column, FrechetDistance
from codi_tf.evaluation.scenes import READER, shared_eye


@METRICS.register("frechet_scenes")
class FrechetScenes(FrechetDistance):
    """The Frechet distance to the originals in the features from which the reader knows count, floor and light."""

    column = Column(
        "FD-scenes",
        "{:.3g}",
        "lower",
        "Frechet distance to the originals in the features of the reader of scenes; not FID: compare equal counts only",
        69,
    )
    option = READER

    @classmethod
    def load(cls, argument: str | None, image_size: int) -> FrechetScenes | None:
        return None if argument is None else cls(shared_eye(argument, image_size).reader.features)
