"""Drawing scenes: a scene is a function of a seed."""

from __future__ import annotations

import math

from codi_tf.core.lazy import tensorflow as tf
from codi_tf.core.seeds import fold_in
from codi_tf.core.tensors import Tensor
from codi_tf.scenes.camera import TARGET_HEIGHT, VIEW, Camera, camera_at, distance_along, on_floor, project
from codi_tf.scenes.solids import radius
from codi_tf.scenes.world import COLORS, FLOORS, LIGHTS, MATERIALS, MOST_OBJECTS, SHAPES, Scene

CANDIDATES = 256  # layouts that are drawn at once, of which the first valid one is taken
COUNTS = (0.3, 0.4, 0.3)  # shares of scenes with one, two and three objects
LARGE = (0.65, 0.7, 0.75)  # shares of large objects in such scenes, before invalid layouts are left out
DISTANCE = (2.35, 2.85, 3.45)  # of the camera from the middle of such scenes, times NEARER
DEEP = (0.2, 0.65, 0.9)  # how far before or behind the middle their objects stand
NEARER = (0.95, 1.05)
YAW, SLOPE, OFFSET = (-0.25, 0.25), (0.22, 0.36), (-8.0, 8.0)  # SLOPE: of the view; the sky is always seen
APART = 0.04  # least distance of two objects on the floor
EDGE = 1.08  # least distance of an object from the image's edge, in its half widths
SEEN = 0.6  # least distance of an object from the edge of one in front of it, in its half widths
HELD_OUT = (("purple", "cone", "night"), ("cyan", "cube", "sunset"), ("red", "cylinder", "noon"))


def draw_scene(seed: Tensor) -> Scene:
    """The scene of a seed, int32 [2]: the first valid one of CANDIDATES layouts, else one object in the middle."""
    u = tf.random.stateless_uniform([6], seed)
    count = 1 + tf.cast(u[0] >= COUNTS[0], tf.int32) + tf.cast(u[0] >= COUNTS[0] + COUNTS[1], tf.int32)
    seeds = [fold_in(seed, stream) for stream in range(3)]
    distance = tf.gather(tf.constant(DISTANCE), count - 1) * _between(NEARER, u[5])
    yaw, height = _between(YAW, u[1]), TARGET_HEIGHT + distance * _between(SLOPE, u[2])
    camera = camera_at(yaw, height, distance)
    sizes, x, z = _layouts(seeds[0], camera, count, distance)
    valid = is_valid(count, sizes, x, z, camera)  # [CANDIDATES]
    first = tf.argmax(tf.cast(valid, tf.int32), output_type=tf.int32)
    # A single object that stands in the middle is always valid.
    lonely = tf.logical_not(tf.reduce_any(valid))
    count = tf.where(lonely, 1, count)
    size, x, z = (tf.where(lonely, tf.zeros_like(one[first]), one[first]) for one in (sizes, x, z))
    w = tf.random.stateless_uniform([4, MOST_OBJECTS], seeds[1])
    return Scene(
        count=count,
        shape=_index(w[0], SHAPES),
        color=_index(w[1], COLORS),
        size=size,
        material=_index(w[2], MATERIALS),
        x=x,
        z=z,
        turn=w[3] * (math.pi / 2),
        floor=_index(u[3], FLOORS),
        light=_index(u[4], LIGHTS),
        yaw=yaw,
        height=height,
        distance=distance,
        offset=_between(OFFSET, tf.random.stateless_uniform([2], seeds[2])),
    )


def _layouts(seed: Tensor, camera: Camera, count: Tensor, distance: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sizes and places (x, z) of objects, [CANDIDATES, MOST_OBJECTS] each, from left to right.

    What the objects leave of the image's width is cut at random into the gaps between them.
    """
    v = tf.random.stateless_uniform([CANDIDATES, 2, MOST_OBJECTS], seed)
    sizes = tf.cast(v[:, 0] < tf.gather(tf.constant(LARGE), count - 1), tf.int32)
    away = distance + (2 * v[:, 1] - 1) * tf.gather(tf.constant(DEEP), count - 1)
    counted = tf.cast(tf.range(MOST_OBJECTS) < count, tf.float32)
    along = distance_along(camera, away)
    wide = counted * radius(sizes) / (along * VIEW)
    steps = [EDGE * wide[:, 0]]
    for i in range(1, MOST_OBJECTS):
        steps.append(counted[i] * _clear(wide[:, i - 1], wide[:, i], along[:, i - 1] < along[:, i]))
    last = tf.gather(wide, count - 1, axis=1)
    free = 2.0 - tf.add_n(steps) - EDGE * last
    cuts = tf.random.stateless_uniform([CANDIDATES, MOST_OBJECTS + 1], fold_in(seed, 1)) + 1e-3
    cuts *= tf.cast(tf.range(MOST_OBJECTS + 1) <= count, tf.float32)
    gaps = cuts[:, :MOST_OBJECTS] * (free / tf.reduce_sum(cuts, -1))[:, None]
    place = tf.cumsum(tf.stack(steps, -1) + gaps, -1) - 1.0
    return sizes, *on_floor(camera, place, away)


def _clear(left: Tensor, right: Tensor, left_is_nearer: Tensor) -> Tensor:
    """The least distance in the image of the middles of two objects, of which the nearer one may hide a part."""
    return tf.where(left_is_nearer, left + SEEN * right, right + SEEN * left)


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


def is_valid(count: Tensor, size: Tensor, x: Tensor, z: Tensor, camera: Camera) -> Tensor:
    """Whether all objects are in the image, none stands in another, and each can be seen beside those before it.

    Args:
        count: int32 [], the number of objects; further entries are ignored.
        size: int32 [..., MOST_OBJECTS], indices into SIZES.
        x, z: float32 [..., MOST_OBJECTS], where the objects stand.
        camera: of the scene.

    Returns:
        bool [...].
    """
    r = radius(size)
    place, along = project(camera, x, z)
    wide = r / (along * VIEW)
    counted = tf.range(MOST_OBJECTS) < count
    inside = tf.abs(place) + EDGE * wide < 1.0 + 1e-4
    valid = tf.reduce_all(inside | ~counted, -1)
    for i in range(MOST_OBJECTS):
        for j in range(i):
            apart = tf.sqrt((x[..., i] - x[..., j]) ** 2 + (z[..., i] - z[..., j]) ** 2)
            clear = apart > r[..., i] + r[..., j] + APART
            least = _clear(wide[..., j], wide[..., i], along[..., j] < along[..., i])
            clear &= place[..., i] - place[..., j] > least - 1e-4
            valid &= clear | (i >= count)
    return valid


def _between(bounds: tuple[float, float], u: Tensor) -> Tensor:
    return bounds[0] + (bounds[1] - bounds[0]) * u


def _index(u: Tensor, table) -> Tensor:
    return tf.minimum(tf.cast(u * len(table), tf.int32), len(table) - 1)
