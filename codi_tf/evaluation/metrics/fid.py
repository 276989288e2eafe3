"""FID, in the features of the original Inception network or of Keras' InceptionV3."""

from __future__ import annotations

from pathlib import Path

from codi_tf.evaluation import METRICS
from codi_tf.evaluation.metric import Column, FrechetDistance, Option

KERAS = "keras"  # of --inception: Keras' InceptionV3 with weights that Keras downloads, or those of keras:FILE
FEW_IMAGES = "few images raise it: compare equal counts only"


class Inception(Option):
    """--inception FILE, keras or keras:FILE."""

    def path(self, argument: str) -> Path | None:
        return None if argument == KERAS else Path(argument.removeprefix(f"{KERAS}:"))


INCEPTION = Inception(
    "--inception",
    "weights of the original FID network; or keras, or keras:FILE",
    f"name FID's weights, or {KERAS}",
)


def of_keras(argument: str) -> bool:
    """Whether --inception names Keras' network."""
    return argument == KERAS or argument.startswith(f"{KERAS}:")


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
        return None if argument is None or of_keras(argument) else cls(_features(argument))


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
        return cls(_features(argument)) if argument is not None and of_keras(argument) else None


def _features(argument: str):
    from codi_tf.evaluation.perception.inception import load_inception

    return load_inception(argument)
