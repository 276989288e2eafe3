"""Improved precision and recall, in the features of Inception or of a reader of scenes."""

from __future__ import annotations

import numpy as np

from codi_tf.evaluation import METRICS, numerics
from codi_tf.evaluation.inception import INCEPTION, shared_inception
from codi_tf.evaluation.metric import Column, Extractor, Metric, Originals
from codi_tf.evaluation.scenes import READER, shared_eye


def _column(title: str, what: str, whose: str, place: int) -> Column:
    note = f"{what}, in the features of {whose}; depends on the number of images: compare equal counts only"
    return Column(title, "{:.3f}", "higher", note, place)


FOUND = "share of images among the originals, within the distance of an original to its third neighbor"
COVERED = "share of originals among the images, within the distance of an image to its third neighbor"


@METRICS.register("precision")
class Precision(Metric):
    """The share of images in the manifold of the originals (Kynkaanniemi et al. 2019, Eq. 2), see `numerics.inside`.

    The interval is a bootstrap over the images, for the manifold as it is. Published figures have the features of
    VGG-16 (the paper) or, as here, of Inception.

    Args:
        extractor: images float32 [B, H, W, 3] in [-1, 1] -> features [B, D].
    """

    column = _column("precision", FOUND, "Inception", 53)
    option = INCEPTION

    def __init__(self, extractor: Extractor):
        self.extractor = extractor

    @classmethod
    def load(cls, argument: str | None, image_size: int) -> Precision | None:
        return None if argument is None else cls(shared_inception(argument))

    def reference(self, originals: Originals) -> np.ndarray:
        return originals.features(self.extractor)

    def measure(self, made, originals, reference: np.ndarray) -> np.ndarray:
        return numerics.inside(made.features(self.extractor), reference)


@METRICS.register("recall")
class Recall(Precision):
    """The share of originals in the manifold of the images."""

    column = _column("recall", COVERED, "Inception", 54)

    def measure(self, made, originals, reference: np.ndarray) -> np.ndarray:
        return numerics.inside(reference, made.features(self.extractor))


@METRICS.register("scene_precision")
class ScenePrecision(Precision):
    """Precision in the features from which the reader knows count, floor and light."""

    column = _column("precision-scenes", FOUND, "the reader of scenes", 69)
    option = READER

    @classmethod
    def load(cls, argument: str | None, image_size: int) -> ScenePrecision | None:
        return None if argument is None else cls(shared_eye(argument, image_size).reader.features)


@METRICS.register("scene_recall")
class SceneRecall(Recall, ScenePrecision):
    """Recall in the features from which the reader knows count, floor and light."""

    column = _column("recall-scenes", COVERED, "the reader of scenes", 69)
