"""Where rays meet the solids and the floor.

Every shape is one formula with other coefficients: the points with x^2 + z^2 + a y^2 + b y + c <= 0 (sphere, cylinder,
cone), 0 <= y <= height, and |x|, |z| <= half (cube), in coordinates with the origin where the solid stands.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

from codi_tf.core.lazy import tensorflow as tf
from codi_tf.core.tensors import Tensor
from codi_tf.scenes.vectors import Vector, chosen, normalized, plus
from codi_tf.scenes.windows import Window
from codi_tf.scenes.world import MOST_OBJECTS, SHAPES, Scene

RADII = (0.40, 0.68)  # by size: half the width on the floor, about
NEAREST = 1e-3  # hits that are nearer belong to the surface that the ray starts from
FAR = 1e9  # stands for "no hit", and for "no bound"
TINY = 1e-9


class Solid(NamedTuple):
    """One object, float32 []; see the head of this file.

    Attributes:
        exists: bool [], false for an object that the scene does not have.
        x, z: where it stands on the floor.
        cos, sin: of its angle about the vertical.
        a, b, c, height, half: of the formula.
        wide: half its width, however it is turned.
    """

    exists: Tensor
    x: Tensor
    z: Tensor
    cos: Tensor
    sin: Tensor
    a: Tensor
    b: Tensor
    c: Tensor
    height: Tensor
    half: Tensor
    wide: Tensor


class Hits(NamedTuple):
    """Where rays end.

    Attributes:
        distance: float32 [R], FAR for the sky.
        normal: unit vectors, [R] each.
        what: int32 [R]: an object's index, MOST_OBJECTS for the floor, MOST_OBJECTS + 1 for the sky.
    """

    distance: Tensor
    normal: Vector
    what: Tensor


FLOOR, SKY = MOST_OBJECTS, MOST_OBJECTS + 1


def radius(size: Tensor) -> Tensor:
    """The radius of objects, float32 of the shape of `size`, int32 indices into SIZES."""
    return tf.gather(tf.constant(RADII, tf.float32), size)


def solids(scene: Scene) -> list[Solid]:
    """The objects of a scene, and places for those that it does not have."""
    r, shape = radius(scene.size), scene.shape
    is_sphere, is_cube, is_cylinder, is_cone = (tf.equal(shape, i) for i in range(len(SHAPES)))
    zero = tf.zeros_like(r)
    height = tf.where(is_cube, 1.7 * r, tf.where(is_cylinder, 1.75 * r, 2.0 * r))
    slope = r / height  # of a cone
    wide = 0.88 * r  # of a cylinder
    a = tf.where(is_sphere, zero + 1, tf.where(is_cone, -(slope**2), zero))
    b = tf.where(is_sphere, -2 * r, tf.where(is_cone, 2 * slope**2 * height, zero))
    c = tf.where(is_sphere, zero, tf.where(is_cone, -((slope * height) ** 2), -(wide**2)))
    c = tf.where(is_cube, zero - FAR, c)
    half = tf.where(is_cube, 0.85 * r, zero + FAR)
    widest = tf.where(is_cube, 0.85 * 2**0.5 * r, r)
    turn = tf.where(is_cube, scene.turn, zero)
    exists = tf.range(MOST_OBJECTS) < scene.count
    fields = (exists, scene.x, scene.z, tf.cos(turn), tf.sin(turn), a, b, c, height, half, widest)
    return [Solid(*(field[i] for field in fields)) for i in range(MOST_OBJECTS)]


def around(solid: Solid) -> Vector:
    """Eight points, in whose convex hull a solid lies."""
    x, y, z = tf.unstack(tf.constant([(i, j, k) for i in (-1.0, 1.0) for j in (0.0, 1.0) for k in (-1.0, 1.0)]), axis=1)
    return Vector(solid.x + solid.wide * x, solid.height * y, solid.z + solid.wide * z)


def around_shadow(solid: Solid, sun: Vector) -> Vector:
    """Points, in whose convex hull a solid and all points lie that it keeps the sun from; `sun`: directions, [N]."""
    points = around(solid)
    x, y, z = (coordinate[:, None] for coordinate in points)
    x, z = (tf.reshape(value, [-1]) for value in (x - y * (sun.x / sun.y), z - y * (sun.z / sun.y)))  # on the floor
    return Vector(*(tf.concat(both, 0) for both in zip(points, (x, tf.zeros_like(x), z), strict=True)))


class _Entry(NamedTuple):
    """Where rays enter a solid, in its own coordinates: the latest of the entries into its parts counts."""

    near: Tensor
    far: Tensor
    round: Tensor
    across: Tensor
    deep: Tensor
    origin: Vector
    direction: Vector


def _entry(solid: Solid, origin: Vector, direction: Vector) -> _Entry:
    x, z = origin.x - solid.x, origin.z - solid.z
    o = Vector(solid.cos * x - solid.sin * z, origin.y, solid.sin * x + solid.cos * z)
    d = Vector(
        solid.cos * direction.x - solid.sin * direction.z,
        direction.y,
        solid.sin * direction.x + solid.cos * direction.z,
    )
    # the round part: qa t^2 + 2 qb t + qc <= 0
    qa = d.x * d.x + d.z * d.z + solid.a * d.y * d.y
    qb = o.x * d.x + o.z * d.z + (solid.a * o.y + 0.5 * solid.b) * d.y
    qc = o.x * o.x + o.z * o.z + (solid.a * o.y + solid.b) * o.y + solid.c
    qa = tf.where(tf.abs(qa) < TINY, TINY, qa)
    inside = qb * qb - qa * qc
    root, inverse = tf.sqrt(tf.maximum(inside, 0.0)), 1.0 / qa
    first, last = (-qb - root) * inverse, (root - qb) * inverse
    # qa < 0: the ray is steeper than the cone's side. On its way up it is inside until `last`, down from `first` on.
    round_near = tf.where((qa > 0) | (d.y < 0), first, -FAR)
    round_far = tf.where((qa > 0) | (d.y > 0), last, FAR)
    round_far = tf.where(inside > 0, round_far, -FAR)
    # the slabs
    deep_near, deep_far = _slab(o.y - 0.5 * solid.height, d.y, 0.5 * solid.height)
    x_near, x_far = _slab(o.x, d.x, solid.half)
    z_near, z_far = _slab(o.z, d.z, solid.half)
    side_near, side_far = tf.maximum(x_near, z_near), tf.minimum(x_far, z_far)
    near = tf.maximum(tf.maximum(round_near, deep_near), side_near)
    far = tf.minimum(tf.minimum(round_far, deep_far), side_far)
    return _Entry(near, far, round_near, x_near, deep_near, o, d)


def _slab(origin: Tensor, direction: Tensor, half: Tensor) -> tuple[Tensor, Tensor]:
    """Where a coordinate enters [-half, half], and where it leaves."""
    inverse = 1.0 / tf.where(tf.abs(direction) < TINY, TINY, direction)
    middle, reach = -origin * inverse, half * tf.abs(inverse)
    return middle - reach, middle + reach


def blocked(objects: list[Solid], origin: Vector, direction: Vector, windows: list[Window] | None = None) -> Tensor:
    """bool [R]: whether a ray meets one of the objects. The arguments are those of `trace`."""
    hit = tf.zeros_like(direction.x, tf.bool)
    for solid, window in zip(objects, windows or [None] * len(objects), strict=True):
        more = partial(_also_blocked, solid, origin, direction, window, hit)
        hit = tf.cond(solid.exists, more, partial(tf.identity, hit))
    return hit


def _also_blocked(solid: Solid, origin: Vector, direction: Vector, window: Window | None, hit: Tensor) -> Tensor:
    if window is not None:
        origin, direction = (Vector(*map(window.cut, rays)) for rays in (origin, direction))
    entry = _entry(solid, origin, direction)
    this = (entry.near < entry.far) & (entry.near > NEAREST)
    return hit | (this if window is None else window.spread(this, False))


def trace(objects: list[Solid], origin: Vector, direction: Vector, windows: list[Window] | None = None) -> Hits:
    """What rays meet first: an object, the floor or the sky.

    Args:
        objects: the solids of a scene.
        origin: points above the floor, [R] or scalars.
        direction: unit vectors [R].
        windows: of the rays that may meet each of the objects; None: all may.
    """
    down = direction.y < -TINY
    zero = tf.zeros_like(direction.y)
    hits = Hits(
        distance=tf.where(down, -origin.y / tf.where(down, direction.y, -1.0), FAR),
        normal=Vector(zero, zero + 1, zero),
        what=tf.where(down, FLOOR, SKY),
    )
    for i, (solid, window) in enumerate(zip(objects, windows or [None] * len(objects), strict=True)):
        more = partial(_nearer, i, solid, origin, direction, window, hits)
        hits = tf.cond(solid.exists, more, lambda hits=hits: hits)
    return hits


def _nearer(index: int, solid: Solid, origin: Vector, direction: Vector, window: Window | None, hits: Hits) -> Hits:
    """The hits, with those on an object where it is nearer."""
    entry = _entry(solid, origin, direction if window is None else Vector(*map(window.cut, direction)))
    near = tf.where((entry.near < entry.far) & (entry.near > NEAREST), entry.near, FAR)
    normal = _normal(solid, entry)
    if window is not None:
        near, normal = window.spread(near, FAR), Vector(*(window.spread(each, 0.0) for each in normal))
    nearer = near < hits.distance
    return Hits(
        distance=tf.where(nearer, near, hits.distance),
        normal=chosen(nearer, normal, hits.normal),
        what=tf.where(nearer, index, hits.what),
    )


def _normal(solid: Solid, entry: _Entry) -> Vector:
    p, d = plus(entry.origin, entry.direction, entry.near), entry.direction
    zero = tf.zeros_like(entry.near)
    curved = normalized(Vector(p.x, solid.a * p.y + 0.5 * solid.b, p.z))
    on_x = tf.equal(entry.near, entry.across)
    side = Vector(tf.where(on_x, -tf.sign(d.x), zero), zero, tf.where(on_x, zero, -tf.sign(d.z)))
    flat = Vector(zero, -tf.sign(d.y), zero)
    n = chosen(tf.equal(entry.near, entry.round), curved, chosen(tf.equal(entry.near, entry.deep), flat, side))
    return Vector(solid.cos * n.x + solid.sin * n.z, n.y, -solid.sin * n.x + solid.cos * n.z)
