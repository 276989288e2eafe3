"""The share of a caption's statements that a reader of scenes finds in the image: of all, and by group."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from codi_tf.evaluation import METRICS
from codi_tf.evaluation.metric import Column
from codi_tf.evaluation.scenes import CAPTION, SceneMetric, true_statements
from codi_tf.scenes.statements import GROUPS, share_right


def _column(title: str, what: str, place: int) -> Column:
    return Column(
        title, "{:.3f}", "higher", f"share of the caption's statements {what} that the reader sees in the image", place
    )


@METRICS.register("scene_accuracy")
class SceneAccuracy(SceneMetric):
    """The share of the caption's statements that are right, see `scenes.statements.agreement`.

    In the row of the originals, it is 1 minus the reader's own error.
    """

    column = _column("statements", "on count, attributes, floor and light", 61)
    truth = (CAPTION,)
    groups: ClassVar[tuple[str, ...]] = GROUPS

    def measure(self, made, originals, reference) -> np.ndarray:
        pairs = zip(true_statements(originals), self.eye.seen(made).statements, strict=True)
        return np.array([share_right(stated, seen, *self.groups) for stated, seen in pairs])


@METRICS.register("scene_count")
class SceneCount(SceneAccuracy):
    """Whether as many objects are seen as the caption names."""

    column = _column("count", "on the number of objects", 62)
    groups = ("count",)


@METRICS.register("scene_attributes")
class SceneAttributes(SceneAccuracy):
    """The share of the objects' sizes, materials, colors and shapes that are right."""

    column = _column("attributes", "on the objects' size, material, color and shape", 63)
    groups = ("attributes",)


@METRICS.register("scene_floor")
class SceneFloor(SceneAccuracy):
    """Whether the caption's floor is seen."""

    column = _column("floor", "on the floor", 64)
    groups = ("floor",)


@METRICS.register("scene_light")
class SceneLight(SceneAccuracy):
    """Whether the caption's light is seen."""

    column = _column("light", "on the light", 65)
    groups = ("light",)
