"""From a scene to its image, its depth and its objects' masks."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from codi_tf.core.lazy import tensorflow as tf
from codi_tf.core.tensors import Tensor
from codi_tf.scenes.camera import camera_at, rays
from codi_tf.scenes.solids import FLOOR, NEAREST, SKY, Hits, Solid, around, around_shadow, blocked, solids, trace
from codi_tf.scenes.surfaces import Light, floor_color, light_of, sky
from codi_tf.scenes.vectors import Vector, chosen, cross, dot, mixed, normalized, plus, taken
from codi_tf.scenes.windows import Window, window_of
from codi_tf.scenes.world import COLORS, MOST_OBJECTS, Scene

SAMPLES = 2  # rays a pixel, along each side
SUN_SIZE = 0.055  # radius of the sun, in radians; shadows are soft by it
EXPOSURE = 0.95
GLINT = 1.7  # brightness of highlights
DEEPER = 0.82  # factor of the own color of shiny objects
BULGE = 0.9  # how far the faces of shiny objects reflect as if they were round, so that each shows a highlight


class Rendering(NamedTuple):
    """An image, and its exact depth and objects.

    Attributes:
        image: float32 [S, S, 3] in [-1, 1], sRGB.
        depth: float32 [S, S, 1], inverse distance along the optical axis, of a pixel's nearest sample; 0 in the sky.
        objects: int32 [S, S], index of the object that a pixel's nearest sample shows, MOST_OBJECTS for the floor,
            MOST_OBJECTS + 1 for the sky.
    """

    image: Tensor
    depth: Tensor
    objects: Tensor


class Shadows(NamedTuple):
    """What shadows are found with: a direction into the sun for each ray, [R], and the windows of objects' shadows."""

    sun: Vector
    windows: list[Window]


def render(scene: Scene, size: int) -> Rendering:
    """Render a scene as a square image of `size` x `size` pixels, with SAMPLES^2 rays a pixel."""
    camera, objects, light = camera_at(scene.yaw, scene.height, scene.distance), solids(scene), light_of(scene.light)
    directions, sun = rays(camera, size, SAMPLES), _toward_sun(light)
    hits = trace(objects, camera.eye, directions, [window_of(around(solid), camera, size) for solid in objects])
    shadows = Shadows(
        Vector(*(tf.repeat(coordinate, size**2) for coordinate in sun)),
        [window_of(around_shadow(solid, sun), camera, size) for solid in objects],
    )
    color = _shaded(scene, objects, light, camera.eye, directions, hits, shadows)
    inverse = tf.where(hits.what == SKY, 0.0, 1.0 / (hits.distance * dot(directions, camera.forward)))
    inverse, what = (tf.reshape(each, [SAMPLES**2, size, size]) for each in (inverse, hits.what))
    linear = [tf.reduce_mean(tf.reshape(channel, [SAMPLES**2, size, size]), 0) for channel in color]
    nearest = tf.reduce_max(inverse, 0)
    shown = tf.reduce_max(tf.where(inverse == nearest, what, 0), 0)
    return Rendering(_developed(tf.stack(linear, -1)), tf.expand_dims(nearest, -1), shown)


def _developed(linear: Tensor) -> Tensor:
    """Light -> an image in [-1, 1]: a shoulder for what is too bright, and sRGB's curve, about."""
    exposed = 1.0 - tf.exp(-EXPOSURE * linear)
    return 2.0 * tf.pow(tf.maximum(exposed, 1e-6), 1 / 2.2) - 1.0


def _toward_sun(light: Light) -> Vector:
    """Directions into the sun, [SAMPLES^2]: the samples of a pixel point at different parts of it."""
    toward = normalized(light.toward)
    zero = tf.zeros([])
    across = normalized(cross(toward, Vector(zero, zero + 1, zero)))
    other = cross(toward, across)
    x, y = (SUN_SIZE * np.array([(0.9, 0.3), (-0.3, 0.9), (0.3, -0.9), (-0.9, -0.3)], "float32")).T
    return normalized(plus(plus(toward, across, tf.constant(x)), other, tf.constant(y)))


def _shaded(
    scene: Scene,
    objects: list[Solid],
    light: Light,
    origin: Vector,
    directions: Vector,
    hits: Hits,
    shadows: Shadows | None,
) -> Vector:
    """The light that rays bring, float32 [R] each.

    Without shadows it is a reflection, which has no reflections of its own either.
    """
    is_sky, is_floor = hits.what == SKY, hits.what == FLOOR
    distance = tf.where(is_sky, 1.0, hits.distance)
    point, normal, toward = plus(origin, directions, distance), hits.normal, normalized(light.toward)
    floor = floor_color(scene.floor, scene.offset, point.x, point.z, distance)
    surface = chosen(is_floor, floor, _object_color(scene, hits.what))
    lit = tf.maximum(dot(normal, toward), 0.0)
    if shadows is not None:
        shadow = blocked(objects, plus(point, normal, 2 * NEAREST), shadows.sun, shadows.windows)
        lit = tf.where(shadow, 0.0, lit)
    lifted = tf.where(is_floor, 1.0, 1.0 - 0.45 * tf.exp(-5.0 * tf.maximum(point.y, 0.0)))
    ambient = (0.65 + 0.35 * normal.y) * lifted
    color = Vector(*(s * (a * ambient + b * lit) for s, a, b in zip(surface, light.ambient, light.sun, strict=True)))
    if shadows is not None:
        color = _with_gloss(scene, objects, light, directions, hits, point, toward, lit, color)
    color = mixed(light.horizon, color, tf.exp(-tf.maximum(distance - 5.5, 0.0) * 0.10))
    return chosen(is_sky, sky(light, directions), color)


def _object_color(scene: Scene, what: Tensor) -> Vector:
    table = tf.gather(tf.constant(np.array(list(COLORS.values()), "float32")), scene.color)  # [objects, 3]
    color = Vector(*tf.unstack(table[0]))
    for i in range(1, MOST_OBJECTS):
        color = chosen(what == i, Vector(*tf.unstack(table[i])), color)
    return color


def _with_gloss(
    scene: Scene,
    objects: list[Solid],
    light: Light,
    directions: Vector,
    hits: Hits,
    point: Vector,
    toward: Vector,
    lit: Tensor,
    color: Vector,
) -> Vector:
    """Highlight and reflection, computed for the rays that meet a shiny object alone."""
    glossy = tf.zeros_like(hits.what, tf.bool)
    for i in range(MOST_OBJECTS):
        glossy |= (hits.what == i) & (scene.material[i] == 1)
    where = tf.where(glossy)[:, 0]
    d, n, p = taken(directions, where), taken(hits.normal, where), taken(point, where)
    bent = _bent(objects, tf.gather(hits.what, where), p, n)
    facing = -dot(d, bent)
    mirrored = plus(d, bent, 2.0 * facing)
    start = plus(p, n, 2 * NEAREST)
    seen = trace(objects, start, mirrored)
    reflected = _shaded(scene, objects, light, start, mirrored, seen, None)
    share = 0.16 + 0.45 * tf.pow(1.0 - tf.clip_by_value(facing, 0.0, 1.0), 3.0)
    highlight = tf.maximum(dot(mirrored, toward), 0.0)
    for _ in range(4):
        highlight *= highlight  # to the power of 16
    highlight = tf.where(tf.gather(lit, where) > 0, highlight, 0.0)
    brightest = tf.reduce_max(tf.stack(light.sun))
    glint = Vector(*(GLINT * channel / brightest for channel in light.sun))
    own = Vector(*(DEEPER * channel for channel in taken(color, where)))
    bright = plus(mixed(own, reflected, share), Vector(*(g * highlight for g in glint)))
    pairs = zip(color, bright, strict=True)
    return Vector(*(tf.tensor_scatter_nd_update(old, where[:, None], new) for old, new in pairs))


def _bent(objects: list[Solid], what: Tensor, point: Vector, normal: Vector) -> Vector:
    """Normals with which faces reflect as if they were a bit round."""
    x, z, half = (
        tf.gather(tf.stack(values), what)
        for values in ([o.x for o in objects], [o.z for o in objects], [0.5 * o.height for o in objects])
    )
    out = Vector((point.x - x) / half, point.y / half - 1.0, (point.z - z) / half)
    return normalized(plus(normal, out, BULGE))
