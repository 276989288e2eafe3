"""The camera: its position, and the directions of its rays."""

from __future__ import annotations

from typing import NamedTuple

from codi_tf.core.lazy import tensorflow as tf
from codi_tf.core.tensors import Tensor
from codi_tf.scenes.vectors import Vector, cross, normalized

DISTANCE = 3.3  # from the middle of the scene, along the floor
TARGET_HEIGHT = 0.55  # of the point in the middle of the image
VIEW = 0.42  # tangent of half the angle of view


class Camera(NamedTuple):
    """A camera that looks at the scene's middle; each field holds scalars, and the axes are orthonormal."""

    eye: Vector
    forward: Vector
    right: Vector
    up: Vector


def camera_at(yaw: Tensor, height: Tensor) -> Camera:
    """The camera at an angle around the scene (float32 [], radians) and a height above the floor (float32 [])."""
    eye = Vector(DISTANCE * tf.sin(yaw), height, -DISTANCE * tf.cos(yaw))
    forward = normalized(Vector(-eye.x, TARGET_HEIGHT - eye.y, -eye.z))
    zero = tf.zeros_like(yaw)
    right = normalized(cross(Vector(zero, zero + 1, zero), forward))
    return Camera(eye, forward, right, cross(forward, right))


def rays(camera: Camera, side: int) -> Vector:
    """Unit directions through the centers of a square image's pixels, row by row from the top: float32 [side^2]."""
    steps = (tf.range(side, dtype=tf.float32) + 0.5) * (2.0 * VIEW / side) - VIEW
    across, down = (tf.reshape(grid, [-1]) for grid in tf.meshgrid(steps, steps))
    f, r, u = camera.forward, camera.right, camera.up
    direction = Vector(*(a + across * b - down * c for a, b, c in zip(f, r, u, strict=True)))
    return normalized(direction)


def project(camera: Camera, x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """Where points (x, 0, z) of the floor are seen, float32 of the points' shape.

    Returns:
        The place across the image, -1 at the left edge to 1 at the right, and the distance along the optical axis.
    """
    dx, dy, dz = x - camera.eye.x, -camera.eye.y, z - camera.eye.z
    along = dx * camera.forward.x + dy * camera.forward.y + dz * camera.forward.z
    across = dx * camera.right.x + dy * camera.right.y + dz * camera.right.z
    return across / (along * VIEW), along
