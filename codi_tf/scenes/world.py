"""What scenes are made of, as data: the vocabulary, and the type of a scene. Needs no TensorFlow."""

from __future__ import annotations

from typing import NamedTuple

from codi_tf.core.tensors import Tensor

MOST_OBJECTS = 3
SHAPES = ("sphere", "cube", "cylinder", "cone")
SIZES = ("small", "large")
MATERIALS = ("matte", "shiny")
COLORS = {  # linear RGB
    "red": (0.80, 0.04, 0.04),
    "green": (0.05, 0.50, 0.09),
    "blue": (0.04, 0.13, 0.80),
    "yellow": (0.88, 0.68, 0.03),
    "purple": (0.36, 0.06, 0.60),
    "orange": (0.92, 0.30, 0.02),
    "cyan": (0.04, 0.60, 0.66),
    "white": (0.76, 0.76, 0.76),
}
FLOORS = ("wooden", "tiled", "sandy", "grassy")
LIGHTS = ("noon", "sunset", "night")


class Scene(NamedTuple):
    """One scene. Objects stand on the floor, y = 0, from left to right as the camera sees them.

    Integers but `count` are indices into the tables of this module.

    Attributes:
        count: int32 [], the number of objects, 1 to MOST_OBJECTS; further entries of the objects' tensors are unused.
        shape, color, size, material: int32 [MOST_OBJECTS].
        x, z: float32 [MOST_OBJECTS], where the objects stand; z grows away from the camera.
        turn: float32 [MOST_OBJECTS], the angle about the vertical, in radians.
        floor, light: int32 [].
        yaw: float32 [], the camera's angle around the scene, in radians.
        height: float32 [], of the camera above the floor.
        distance: float32 [], of the camera from the scene's middle, along the floor.
        offset: float32 [2], of the floor's pattern.
    """

    count: Tensor
    shape: Tensor
    color: Tensor
    size: Tensor
    material: Tensor
    x: Tensor
    z: Tensor
    turn: Tensor
    floor: Tensor
    light: Tensor
    yaw: Tensor
    height: Tensor
    distance: Tensor
    offset: Tensor
