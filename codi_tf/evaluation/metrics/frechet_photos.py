"""FD-photos."""

from __future__ import annotations

import warnings

import numpy as np

from codi_tf.core.paths import as_path
from codi_tf.evaluation import METRICS
from codi_tf.evaluation.metric import Column, Extractor, FrechetDistance, Option
from codi_tf.evaluation.samplers import in_batches


@METRICS.register("frechet_photos")
class FrechetPhotos(FrechetDistance):
    """The Frechet distance in the features of a small network, to the autoencoder's reconstructions of the originals.

    The distance to the originals themselves would reward over-sharpening. The user needs no weights: the network is
    trained if it is missing.

    Args:
        extractor: see `features.FeatureNetwork.features`.
    """

    column = Column(
        "FD-photos",
        "{:.3g}",
        "lower",
        "Frechet distance to the autoencoder's reconstructions of the originals in the features of a small network "
        "that tells the embedded photos apart; not FID: compare within this table only",
        place=60,
    )
    option = Option(
        "--features", "folder of FD-photos' network; trained and saved there if it is missing", folder=True, made=True
    )

    def __init__(self, extractor: Extractor):
        import tensorflow as tf

        super().__init__(tf.function(extractor))

    @classmethod
    def load(cls, argument: str | None, image_size: int) -> FrechetPhotos | None:
        from codi_tf.data.photos import missing_packages
        from codi_tf.evaluation.features import load_or_train

        if argument is None and (missing := missing_packages()):
            warnings.warn(
                f"FD-photos is left out: its network is trained on photos of {' and '.join(missing)}, which are not "
                "installed; --features names the folder of a trained one",
                stacklevel=2,
            )
            return None
        return cls(load_or_train(None if argument is None else as_path(argument), image_size).features)

    def reference(self, originals) -> np.ndarray:
        return in_batches(self.extractor, originals.batch)(originals.reconstructions)
