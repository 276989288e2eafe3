"""The Inception Score, and the same figure by a reader of scenes."""

from __future__ import annotations

import numpy as np

from codi_tf.evaluation import METRICS, numerics
from codi_tf.evaluation.inception import INCEPTION, of_keras, shared_inception
from codi_tf.evaluation.metric import LEVEL, Column, Extractor, Metric
from codi_tf.evaluation.scenes import SceneMetric

FEW_IMAGES = "few images lower it: compare equal counts only"


class Score(Metric):
    """Base class: exp(E KL(p(y | x) || p(y))) of the logits that `measure` gives, see `numerics.inception_score`."""

    per_image = False

    def aggregate(self, values: np.ndarray, reference: np.ndarray | None) -> float:
        return numerics.inception_score(values)

    def interval(self, values: np.ndarray, reference: np.ndarray | None) -> tuple[float, float]:
        return numerics.set_interval(numerics.inception_score, values, level=LEVEL)


@METRICS.register("inception_score")
class InceptionScore(Score):
    """The Inception Score (Salimans et al. 2016), of the whole set: the published one is the mean over ten parts of it.

    The logits are W f for the features f of FID's network, without the classifier's bias, as in the original program.

    Args:
        extractor: images float32 [B, H, W, 3] in [-1, 1] -> features f [B, D].
        classifier: W, [C, D].
    """

    column = Column(
        "IS", "{:.4g}", "higher", f"Inception Score, by the original Inception weights; {FEW_IMAGES}", place=52
    )
    option = INCEPTION

    def __init__(self, extractor: Extractor, classifier: np.ndarray):
        self.extractor, self.classifier = extractor, classifier

    @classmethod
    def load(cls, argument: str | None, image_size: int) -> InceptionScore | None:
        if argument is None or of_keras(argument):
            return None
        from codi_tf.evaluation.perception.inception import load_classifier

        classifier = load_classifier(argument)
        return None if classifier is None else cls(shared_inception(argument), classifier)

    def measure(self, made, originals, reference) -> np.ndarray:
        return made.features(self.extractor) @ self.classifier.T


@METRICS.register("scene_score")
class SceneScore(SceneMetric, Score):
    """The same figure of the reader's answer to which class a scene has, see `scenes.classes`."""

    column = Column(
        "IS-scenes",
        "{:.3g}",
        "higher",
        "Inception Score by the reader of scenes, of color and shape of the leftmost object, at most 32; "
        f"not that of Inception; {FEW_IMAGES}",
        69,
    )

    def measure(self, made, originals, reference) -> np.ndarray:
        return self.eye.seen(made).classes
