"""Vectors of space whose coordinates are tensors of their own: operations then run over contiguous memory."""

from __future__ import annotations

from typing import NamedTuple

from codi_tf.core.lazy import tensorflow as tf
from codi_tf.core.tensors import Tensor


class Vector(NamedTuple):
    """Coordinates of points or directions, tensors of shapes that broadcast. y points up."""

    x: Tensor
    y: Tensor
    z: Tensor


def plus(a: Vector, b: Vector, times: Tensor | float = 1.0) -> Vector:
    """a + times b."""
    return Vector(a.x + times * b.x, a.y + times * b.y, a.z + times * b.z)


def dot(a: Vector, b: Vector) -> Tensor:
    """The inner product."""
    return a.x * b.x + a.y * b.y + a.z * b.z


def cross(a: Vector, b: Vector) -> Vector:
    """The vector product."""
    return Vector(a.y * b.z - a.z * b.y, a.z * b.x - a.x * b.z, a.x * b.y - a.y * b.x)


def normalized(a: Vector) -> Vector:
    """The unit vectors of the same directions; 0 stays 0."""
    inverse = tf.math.rsqrt(dot(a, a) + 1e-12)
    return Vector(a.x * inverse, a.y * inverse, a.z * inverse)


def chosen(condition: Tensor, a: Vector, b: Vector) -> Vector:
    """a where the condition, a bool tensor, holds, else b."""
    return Vector(*(tf.where(condition, one, other) for one, other in zip(a, b, strict=True)))


def mixed(a: Vector, b: Vector, share: Tensor) -> Vector:
    """a, with a share of b in place of itself."""
    return Vector(*(one + (other - one) * share for one, other in zip(a, b, strict=True)))


def taken(a: Vector, indices: Tensor) -> Vector:
    """The vectors [N] at int indices, of vectors [R]."""
    return Vector(*(tf.gather(one, indices) for one in a))
