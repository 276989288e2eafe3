"""Floors, sky and lights: colors as functions of position and direction. All colors are linear RGB."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from codi_tf.core.lazy import tensorflow as tf
from codi_tf.core.tensors import Tensor
from codi_tf.scenes.vectors import Vector, mixed
from codi_tf.scenes.world import FLOORS, LIGHTS


class Light(NamedTuple):
    """A light. Each field is a triple of numbers, or a `Vector` of float32 [].

    Attributes:
        toward: the direction to the sun, of any length.
        sun, ambient: the color of sunlight, and of the light that comes from everywhere.
        zenith, horizon: the sky's color above, and at the horizon.
    """

    toward: Any
    sun: Any
    ambient: Any
    zenith: Any
    horizon: Any


LIGHT = {
    "noon": Light((0.48, 0.72, -0.50), (1.35, 1.28, 1.12), (0.30, 0.36, 0.46), (0.10, 0.28, 0.72), (0.62, 0.78, 0.92)),
    "sunset": Light(
        (-0.84, 0.38, 0.02), (1.90, 1.02, 0.50), (0.32, 0.25, 0.36), (0.10, 0.08, 0.26), (0.96, 0.34, 0.10)
    ),
    "night": Light(
        (0.62, 0.58, -0.20), (0.72, 0.80, 1.00), (0.13, 0.16, 0.26), (0.003, 0.006, 0.024), (0.03, 0.05, 0.13)
    ),
}


class Floor(NamedTuple):
    """A floor: two colors in a pattern, darkened by two octaves of noise, each with its own frequencies.

    Attributes:
        color, other: of the even and the odd fields of a checkerboard of the given `check` width; 0: no checkerboard.
        plank: width of the planks, 0 for none; each has its own shade, and its own grain.
        coarse, fine: (frequency along x, along z, amount) of the noise.
    """

    color: tuple[float, float, float]
    other: tuple[float, float, float]
    check: float
    plank: float
    coarse: tuple[float, float, float]
    fine: tuple[float, float, float]


FLOOR_LOOK = {
    "wooden": Floor((0.44, 0.20, 0.075), (0.44, 0.20, 0.075), 0.0, 0.40, (0.9, 9.0, 0.55), (2.5, 26.0, 0.35)),
    "tiled": Floor((0.74, 0.72, 0.68), (0.055, 0.07, 0.085), 0.62, 0.0, (1.6, 1.6, 0.16), (7.0, 7.0, 0.10)),
    "sandy": Floor((0.70, 0.50, 0.25), (0.70, 0.50, 0.25), 0.0, 0.0, (2.0, 5.0, 0.40), (14.0, 14.0, 0.40)),
    "grassy": Floor((0.12, 0.32, 0.045), (0.12, 0.32, 0.045), 0.0, 0.0, (3.0, 3.0, 0.60), (19.0, 11.0, 1.30)),
}
LATTICE = 128  # side of the table of random numbers that noise is made of; it repeats
_NUMBERS = np.random.RandomState(0).uniform(size=LATTICE * LATTICE).astype("float32")
# for each cell of the table, what noise is made of there: value, slopes and twist
_CELLS = [
    _NUMBERS,
    np.roll(_NUMBERS, -1) - _NUMBERS,
    np.roll(_NUMBERS, -LATTICE) - _NUMBERS,
    _NUMBERS - np.roll(_NUMBERS, -1) - np.roll(_NUMBERS, -LATTICE) + np.roll(_NUMBERS, -LATTICE - 1),
]


def light_of(index: Tensor) -> Light:
    """The light of an index into LIGHTS, int32 []. Its fields are vectors of float32 []."""
    table = np.array([LIGHT[name] for name in LIGHTS], "float32")  # [lights, fields, 3]
    return Light(*(Vector(*tf.unstack(field)) for field in tf.unstack(tf.gather(tf.constant(table), index))))


def sky(light: Light, direction: Vector) -> Vector:
    """The sky's color in unit directions [R]: float32 [R] each."""
    return mixed(light.horizon, light.zenith, tf.sqrt(tf.clip_by_value(direction.y * 1.6, 0.0, 1.0)))


def floor_color(index: Tensor, offset: Tensor, x: Tensor, z: Tensor, distance: Tensor) -> Vector:
    """The floor's color at points [R]: float32 [R] each.

    Args:
        index: int32 [], into FLOORS.
        offset: float32 [2], of the pattern.
        x, z: float32 [R], the points.
        distance: float32 [R], of the points from the eye; noise that is too fine for a pixel there fades.
    """
    looks = [FLOOR_LOOK[name] for name in FLOORS]

    def entry(values) -> Tensor:
        return tf.gather(tf.constant(np.array(values, "float32")), index)

    x, z = x + offset[0], z + offset[1]
    plank, check = entry([look.plank for look in looks]), entry([look.check for look in looks])
    row = tf.where(plank > 0, tf.floor(z / tf.maximum(plank, 1e-3)), tf.zeros_like(z))
    tone = tf.ones_like(x)
    for kind in ("coarse", "fine"):
        across, along, amount = tf.unstack(entry([getattr(look, kind) for look in looks]))
        fade = tf.clip_by_value(64.0 / (distance * tf.maximum(across, along)) - 0.35, 0.0, 1.0)
        tone += amount * fade * (_noise(x * across + 7.0 * row, z * along) - 0.5)
    shade = _number(tf.cast(row, tf.int32) * 7919) - 0.5
    tone *= 1.0 + tf.where(plank > 0, 0.5, 0.0) * shade
    within = tf.abs(z / tf.maximum(plank, 1e-3) - row - 0.5)  # 0 in a plank's middle, 0.5 at its edge
    gap = tf.where((plank > 0) & (within > 0.46), 0.35, 1.0)
    size = tf.maximum(check, 1e-3)
    odd = tf.where(check > 0, tf.math.floormod(tf.floor(x / size) + tf.floor(z / size), 2.0), tf.zeros_like(x))
    even, other = (Vector(*tf.unstack(entry([getattr(look, name) for look in looks]))) for name in ("color", "other"))
    tone *= gap
    return Vector(*(color * tone for color in mixed(even, other, odd)))


def _number(index: Tensor) -> Tensor:
    """A random number in [0, 1) for each index, int32 of any size."""
    return tf.gather(tf.constant(_NUMBERS), tf.bitwise.bitwise_and(index, LATTICE * LATTICE - 1))


def _noise(x: Tensor, z: Tensor) -> Tensor:
    """Value noise: random numbers of [0, 1) at whole coordinates, smooth between them."""
    left, near = tf.floor(x), tf.floor(z)
    u, v = x - left, z - near
    u, v = u * u * (3 - 2 * u), v * v * (3 - 2 * v)
    cell = tf.bitwise.bitwise_and(tf.cast(near * LATTICE + left, tf.int32), LATTICE * LATTICE - 1)
    value, across, along, twist = (tf.gather(tf.constant(table), cell) for table in _CELLS)
    return value + across * u + (along + twist * u) * v
