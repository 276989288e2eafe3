"""The camera: its position, and the directions of its rays."""

from __future__ import annotations

from typing import NamedTuple

from codi_tf.core.lazy import tensorflow as tf
from codi_tf.core.tensors import Tensor
from codi_tf.scenes.vectors import Vector, cross, normalized

TARGET_HEIGHT = 0.58  # of the point in the middle of the image
VIEW = 0.42  # tangent of half the angle of view


class Camera(NamedTuple):
    """A camera that looks at the scene's middle; each field holds scalars, and the axes are orthonormal."""

    eye: Vector
    forward: Vector
    right: Vector
    up: Vector


def camera_at(yaw: Tensor, height: Tensor, distance: Tensor) -> Camera:
    """The camera at an angle around the scene (radians), a height above the floor and a distance; float32 [] each."""
    eye = Vector(distance * tf.sin(yaw), height, -distance * tf.cos(yaw))
    forward = normalized(Vector(-eye.x, TARGET_HEIGHT - eye.y, -eye.z))
    zero = tf.zeros_like(yaw)
    right = normalized(cross(Vector(zero, zero + 1, zero), forward))
    return Camera(eye, forward, right, cross(forward, right))


def rays(camera: Camera, size: int, samples: int = 1) -> Vector:
    """Unit directions through the pixels of a square image, float32 [samples^2 * size^2].

    Args:
        camera: the camera.
        size: side of the image in pixels.
        samples: directions through each pixel, along each side. One after the other, each has size^2 directions, row by
            row from the top.
    """
    side = size * samples
    pixels = tf.range(size, dtype=tf.float32) * samples
    steps = [(pixels + (i + 0.5)) * (2.0 * VIEW / side) - VIEW for i in range(samples)]
    across = tf.stack(steps)[None, :, None, :]  # [samples, samples, size, size] with the next line
    down = tf.stack(steps)[:, None, :, None]
    inverse = tf.math.rsqrt((across * across + 1.0) + down * down)
    f, r, u = camera.forward, camera.right, camera.up
    coordinates = (((a + across * b) - down * c) * inverse for a, b, c in zip(f, r, u, strict=True))
    return Vector(*(tf.reshape(coordinate, [-1]) for coordinate in coordinates))


def project(camera: Camera, x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """Where points (x, 0, z) of the floor are seen, float32 of the points' shape.

    Returns:
        The place across the image, -1 at the left edge to 1 at the right, and the distance along the optical axis.
    """
    dx, dy, dz = x - camera.eye.x, -camera.eye.y, z - camera.eye.z
    along = dx * camera.forward.x + dy * camera.forward.y + dz * camera.forward.z
    across = dx * camera.right.x + dy * camera.right.y + dz * camera.right.z
    return across / (along * VIEW), along


def distance_along(camera: Camera, away: Tensor) -> Tensor:
    """The distance along the optical axis of points of the floor; `away`: their distance ahead, along the floor."""
    f = camera.forward
    return away * tf.sqrt(f.x * f.x + f.z * f.z) - camera.eye.y * f.y


def on_floor(camera: Camera, place: Tensor, away: Tensor) -> tuple[Tensor, Tensor]:
    """The points (x, z) of the floor that are seen at a place, `away` ahead along the floor; see `project`."""
    ahead = normalized(Vector(camera.forward.x, tf.zeros_like(camera.forward.y), camera.forward.z))
    across = place * distance_along(camera, away) * VIEW
    x = camera.eye.x + away * ahead.x + across * camera.right.x
    return x, camera.eye.z + away * ahead.z + across * camera.right.z
