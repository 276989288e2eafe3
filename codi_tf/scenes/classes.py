"""Classes of scenes, for models that are conditioned on labels."""

from __future__ import annotations

from codi_tf.core.tensors import Tensor
from codi_tf.scenes.world import COLORS, FLOORS, LIGHTS, SHAPES, Scene

OBJECT, PLACE = "object", "place"  # what a class is of: color and shape of the leftmost object, or floor and light


def class_names(of: str = OBJECT) -> tuple[str, ...]:
    """The names of the classes: 32 of objects ("red sphere", ...) or 12 of places ("wooden at noon", ...).

    Args:
        of: OBJECT or PLACE.
    """
    if of == PLACE:
        return tuple(f"{floor} at {light}" for floor in FLOORS for light in LIGHTS)
    return tuple(f"{color} {shape}" for color in COLORS for shape in SHAPES)


def class_of(scene: Scene, of: str = OBJECT) -> Tensor:
    """The class of a scene, int32 [], an index into `class_names(of)`.

    Args:
        scene: the scene.
        of: OBJECT for color and shape of the leftmost object, PLACE for floor and light.
    """
    if of == PLACE:
        return scene.floor * len(LIGHTS) + scene.light
    return scene.color[0] * len(SHAPES) + scene.shape[0]
