"""FD-photos."""

from __future__ import annotations

import numpy as np

from codi_tf.core.paths import as_path
from codi_tf.evaluation import METRICS
from codi_tf.evaluation.metric import Column, Extractor, FrechetDistance, Option
from codi_tf.evaluation.samplers import in_batches
from codi_tf.io.starter import shipped_model


def _shipped() -> str | None:
    """The network that comes with codi_tf: with one for all, figures of different reports can be compared."""
    base = shipped_model("photos-base")
    return None if base is None else str(base / "features")


@METRICS.register("frechet_photos")
class FrechetPhotos(FrechetDistance):
    """The Frechet distance in the features of a small network, to the autoencoder's reconstructions of the originals.

    The distance to the originals themselves would reward over-sharpening. The user needs no weights: one such network
    comes with codi_tf, and another is trained where its folder is missing.

    Args:
        extractor: see `features.FeatureNetwork.features`.
    """

    column = Column(
        "FD-photos",
        "{:.3g}",
        "lower",
        "Frechet distance to the autoencoder's reconstructions of the originals in the features of a small network "
        "that tells the embedded photos apart; not FID: compare images of one size and network only",
        place=60,
    )
    option = Option(
        "--features",
        "folder of FD-photos' network; trained and saved there if it is missing (default: one that comes with codi_tf)",
        folder=True,
        made=True,
        default=_shipped,
    )

    def __init__(self, extractor: Extractor):
        import tensorflow as tf

        super().__init__(tf.function(extractor))

    @classmethod
    def load(cls, argument: str | None, image_size: int) -> FrechetPhotos | None:
        from codi_tf.evaluation.features import load_or_train

        return None if argument is None else cls(load_or_train(as_path(argument), image_size).features)

    def reference(self, originals) -> np.ndarray:
        return in_batches(self.extractor, originals.batch)(originals.reconstructions)
