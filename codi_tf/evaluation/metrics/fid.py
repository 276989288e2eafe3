"""FID, in the features of the original Inception network or of Keras' InceptionV3."""

from __future__ import annotations

from codi_tf.evaluation import METRICS
from codi_tf.evaluation.inception import FEW_IMAGES, INCEPTION, of_keras, shared_inception
from codi_tf.evaluation.metric import Column, FrechetDistance


@METRICS.register("fid")
class Fid(FrechetDistance):
    """FID in the features of the original Inception network, as published (Heusel et al. 2017)."""

    column = Column(
        "FID",
        "{:.4g}",
        "lower",
        f"Frechet distance to the originals in the features of the original Inception weights; {FEW_IMAGES}",
        place=50,
    )
    option = INCEPTION

    @classmethod
    def load(cls, argument: str | None, image_size: int) -> Fid | None:
        return None if argument is None or of_keras(argument) else cls(shared_inception(argument))


@METRICS.register("fid_keras")
class FidKeras(FrechetDistance):
    """FID in the features of Keras' InceptionV3."""

    column = Column(
        "FID (Keras)",
        "{:.4g}",
        "lower",
        "Frechet distance to the originals in the features of Keras' InceptionV3, not comparable with published FID; "
        f"{FEW_IMAGES}",
        place=51,
    )
    option = INCEPTION

    @classmethod
    def load(cls, argument: str | None, image_size: int) -> FidKeras | None:
        return cls(shared_inception(argument)) if argument is not None and of_keras(argument) else None
