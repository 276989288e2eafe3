"""From a scene to its image, its depth and its objects' masks."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from codi_tf.core.lazy import tensorflow as tf
from codi_tf.core.tensors import Tensor
from codi_tf.scenes.camera import camera_at, rays
from codi_tf.scenes.solids import FLOOR, NEAREST, SKY, Hits, Solid, blocked, solids, trace
from codi_tf.scenes.surfaces import Light, floor_color, light_of, sky
from codi_tf.scenes.vectors import Vector, cross, dot, normalized, plus, taken
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


def render(scene: Scene, size: int) -> Rendering:
    """Render a scene as a square image of `size` x `size` pixels, with SAMPLES^2 rays a pixel."""
    side = size * SAMPLES
    camera, objects, light = camera_at(scene.yaw, scene.height, scene.distance), solids(scene), light_of(scene.light)
    directions = rays(camera, side)
    hits = trace(objects, camera.eye, directions)
    color = _shaded(scene, objects, light, camera.eye, directions, hits, _toward_sun(light, side))
    inverse = 1.0 / (hits.distance * dot(directions, camera.forward))
    inverse = tf.where(hits.what == SKY, tf.zeros_like(inverse), inverse)

    def blocks(samples: Tensor) -> Tensor:  # [..., side^2] -> [..., size, size, SAMPLES^2]
        lead = list(samples.shape[:-1])
        apart = tf.reshape(samples, [*lead, size, SAMPLES, size, SAMPLES])
        n = len(lead)
        return tf.reshape(
            tf.transpose(apart, [*range(n), n, n + 2, n + 1, n + 3]), [*lead, size, size, SAMPLES * SAMPLES]
        )

    linear = tf.transpose(tf.reduce_mean(blocks(color), -1), [1, 2, 0])
    depths = blocks(inverse)
    nearest = tf.argmax(depths, -1, output_type=tf.int32)
    shown = tf.gather(blocks(hits.what), nearest, batch_dims=2)
    return Rendering(_developed(linear), tf.reduce_max(depths, -1, keepdims=True), shown)


def _developed(linear: Tensor) -> Tensor:
    """Light -> an image in [-1, 1]: a shoulder for what is too bright, and sRGB's curve, about."""
    exposed = 1.0 - tf.exp(-EXPOSURE * linear)
    return 2.0 * tf.pow(tf.maximum(exposed, 1e-6), 1 / 2.2) - 1.0


def _toward_sun(light: Light, side: int) -> Vector:
    """A direction into the sun for each ray: the samples of a pixel point at different parts of it."""
    toward = Vector(*tf.unstack(light.toward))
    toward = normalized(toward)
    zero = tf.zeros([])
    across = normalized(cross(toward, Vector(zero, zero + 1, zero)))
    other = cross(toward, across)
    points = np.array([[(0.9, 0.3), (-0.3, 0.9)], [(0.3, -0.9), (-0.9, -0.3)]], "float32")  # [y, x, 2]
    tiled = np.tile(points, (side // SAMPLES, side // SAMPLES, 1)).reshape(-1, 2) * SUN_SIZE
    return normalized(plus(plus(toward, across, tf.constant(tiled[:, 0])), other, tf.constant(tiled[:, 1])))


def _shaded(
    scene: Scene,
    objects: list[Solid],
    light: Light,
    origin: Vector,
    directions: Vector,
    hits: Hits,
    sun: Vector | None,
) -> Tensor:
    """The light that rays bring, float32 [3, R].

    `sun` [R] points to what casts shadows. None: a reflection, with neither shadows nor reflections of its own.
    """
    is_sky = hits.what == SKY
    distance = tf.where(is_sky, tf.fill([], 1.0), hits.distance)
    point, normal = plus(origin, directions, distance), hits.normal
    surface = tf.where(
        hits.what == FLOOR,
        floor_color(scene.floor, scene.offset, point.x, point.z, distance),
        _object_color(scene, hits.what),
    )
    toward = normalized(Vector(*tf.unstack(light.toward)))
    lit = tf.maximum(dot(normal, toward), 0.0)
    if sun is not None:
        shadow = blocked(objects, plus(point, normal, 2 * NEAREST), sun)
        lit = tf.where(shadow, tf.zeros_like(lit), lit)
    lifted = tf.where(hits.what == FLOOR, tf.fill([], 1.0), 1.0 - 0.45 * tf.exp(-5.0 * tf.maximum(point.y, 0.0)))
    ambient = (0.65 + 0.35 * normal.y) * lifted
    color = surface * (light.ambient[:, None] * ambient + light.sun[:, None] * lit)
    if sun is not None:
        color = _with_gloss(scene, objects, light, directions, hits, point, toward, lit, color)
    fog = tf.exp(-tf.maximum(distance - 5.5, 0.0) * 0.10)
    color = light.horizon[:, None] + (color - light.horizon[:, None]) * fog
    return tf.where(is_sky, sky(light, directions), color)


def _object_color(scene: Scene, what: Tensor) -> Tensor:
    table = tf.gather(tf.constant(np.array(list(COLORS.values()), "float32")), scene.color)  # [objects, 3]
    color = table[0][:, None]
    for i in range(1, MOST_OBJECTS):
        color = tf.where(what == i, table[i][:, None], color)
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
    color: Tensor,
) -> Tensor:
    """Highlight and reflection, computed for the rays that meet a shiny object alone."""
    glossy = tf.concat([scene.material == 1, [False, False]], 0)
    where = tf.where(tf.gather(glossy, hits.what))[:, 0]
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
    highlight = tf.where(tf.gather(lit, where) > 0, highlight, tf.zeros_like(highlight))
    glint = GLINT * light.sun / tf.reduce_max(light.sun)
    own = tf.gather(color, where, axis=1)
    glossy_color = DEEPER * own * (1 - share) + reflected * share + glint[:, None] * highlight
    return tf.transpose(tf.tensor_scatter_nd_update(tf.transpose(color), where[:, None], tf.transpose(glossy_color)))


def _bent(objects: list[Solid], what: Tensor, point: Vector, normal: Vector) -> Vector:
    """Normals with which faces reflect as if they were a bit round."""
    x, z, half = (
        tf.gather(tf.stack(values), what)
        for values in ([o.x for o in objects], [o.z for o in objects], [0.5 * o.height for o in objects])
    )
    out = Vector((point.x - x) / half, point.y / half - 1.0, (point.z - z) / half)
    return normalized(plus(normal, out, BULGE))
