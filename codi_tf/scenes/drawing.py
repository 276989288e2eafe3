"""Drawing scenes: a scene is a function of a seed."""

from __future__ import annotations

import math

from codi_tf.core.lazy import tensorflow as tf
from codi_tf.core.seeds import fold_in
from codi_tf.core.tensors import Tensor
from codi_tf.scenes.camera import VIEW, camera_at, project
from codi_tf.scenes.solids import radius
from codi_tf.scenes.world import COLORS, FLOORS, LIGHTS, MATERIALS, MOST_OBJECTS, SHAPES, Scene

CANDIDATES = 256  # layouts that are drawn at once, of which the first valid one is taken
COUNTS = (0.3, 0.4, 0.3)  # shares of scenes with one, two and three objects
LARGE = (0.55, 0.6, 0.6)  # shares of large objects in such scenes, before invalid layouts are left out
X, Z = (-1.2, 1.2), (-0.5, 1.7)  # where objects stand
YAW, HEIGHT, OFFSET = (-0.25, 0.25), (1.3, 2.1), (-8.0, 8.0)
APART = 0.10  # least distance of two objects on the floor
SEEN = 0.65  # least distance of two objects in the image, in sums of their half widths
HELD_OUT = (("purple", "cone", "night"), ("cyan", "cube", "sunset"), ("red", "cylinder", "noon"))


def draw_scene(seed: Tensor) -> Scene:
    """The scene of a seed, int32 [2]: the first valid one of CANDIDATES layouts, else one object in the middle."""
    u = tf.random.stateless_uniform([6], seed)
    count = 1 + tf.cast(u[0] >= COUNTS[0], tf.int32) + tf.cast(u[0] >= COUNTS[0] + COUNTS[1], tf.int32)
    yaw, height = _between(YAW, u[1]), _between(HEIGHT, u[2])
    seeds = [fold_in(seed, stream) for stream in range(3)]
    v = tf.random.stateless_uniform([CANDIDATES, 3, MOST_OBJECTS], seeds[0])
    size = tf.cast(v[:, 2] < tf.gather(tf.constant(LARGE), count - 1), tf.int32)
    # Each object has its own part of the width, so that most layouts are valid.
    parts = tf.cast(count, tf.float32)
    x = _between(X, (tf.range(MOST_OBJECTS, dtype=tf.float32) + v[:, 0]) / parts)
    z = _between(Z, v[:, 1])
    valid = is_valid(count, size, x, z, yaw, height)  # [CANDIDATES]
    first = tf.argmax(tf.cast(valid, tf.int32), output_type=tf.int32)
    # A single object that stands in the middle is always valid.
    lonely = tf.logical_not(tf.reduce_any(valid))
    count = tf.where(lonely, 1, count)
    x, z, size = (tf.where(lonely, tf.zeros_like(one[first]), one[first]) for one in (x, z, size))
    place, _ = project(camera_at(yaw, height), x, z)
    order = tf.argsort(tf.where(tf.range(MOST_OBJECTS) < count, place, place + 1e3))
    w = tf.random.stateless_uniform([4, MOST_OBJECTS], seeds[1])
    return Scene(
        count=count,
        shape=_index(w[0], SHAPES),
        color=_index(w[1], COLORS),
        size=tf.gather(size, order),
        material=_index(w[2], MATERIALS),
        x=tf.gather(x, order),
        z=tf.gather(z, order),
        turn=w[3] * (math.pi / 2),
        floor=_index(u[3], FLOORS),
        light=_index(u[4], LIGHTS),
        yaw=yaw,
        height=height,
        offset=_between(OFFSET, tf.random.stateless_uniform([2], seeds[2])),
    )


def without_held_out(scene: Scene) -> Scene:
    """The scene, in which objects of a combination of HELD_OUT (color, shape and light) take the next color."""
    unseen = tf.zeros_like(scene.color, tf.bool)
    for color, shape, light in HELD_OUT:
        same = (scene.color == list(COLORS).index(color)) & (scene.shape == SHAPES.index(shape))
        unseen |= same & (scene.light == LIGHTS.index(light))
    return scene._replace(color=tf.where(unseen, (scene.color + 1) % len(COLORS), scene.color))


def with_held_out(scene: Scene, u: Tensor) -> Scene:
    """The scene, in which the first object and the light are a combination of HELD_OUT, chosen by u, [] in [0, 1)."""
    table = [[list(COLORS).index(c), SHAPES.index(s), LIGHTS.index(light)] for c, s, light in HELD_OUT]
    color, shape, light = tf.unstack(tf.gather(tf.constant(table), _index(u, HELD_OUT)))
    return scene._replace(
        color=tf.concat([color[None], scene.color[1:]], 0),
        shape=tf.concat([shape[None], scene.shape[1:]], 0),
        light=light,
    )


def is_valid(count: Tensor, size: Tensor, x: Tensor, z: Tensor, yaw: Tensor, height: Tensor) -> Tensor:
    """Whether all objects are in the image, none stands in another, and none hides another or changes sides with it.

    Args:
        count: int32 [], the number of objects; further entries are ignored.
        size: int32 [..., MOST_OBJECTS], indices into SIZES.
        x, z: float32 [..., MOST_OBJECTS], where the objects stand.
        yaw, height: float32 [], of the camera.

    Returns:
        bool [...].
    """
    r = radius(size)
    place, along = project(camera_at(yaw, height), x, z)
    wide = r / (along * VIEW)
    counted = tf.range(MOST_OBJECTS) < count
    inside = tf.abs(place) + 1.02 * wide < 1.0
    valid = tf.reduce_all(inside | ~counted, -1)
    for i in range(MOST_OBJECTS):
        for j in range(i):
            apart = tf.sqrt((x[..., i] - x[..., j]) ** 2 + (z[..., i] - z[..., j]) ** 2)
            clear = apart > r[..., i] + r[..., j] + APART
            clear &= tf.abs(place[..., i] - place[..., j]) > SEEN * (wide[..., i] + wide[..., j])
            valid &= clear | (i >= count)
    return valid


def _between(bounds: tuple[float, float], u: Tensor) -> Tensor:
    return bounds[0] + (bounds[1] - bounds[0]) * u


def _index(u: Tensor, table) -> Tensor:
    return tf.minimum(tf.cast(u * len(table), tf.int32), len(table) - 1)
