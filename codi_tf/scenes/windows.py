"""Windows: the part of an image in which an object, or its shadow, may be seen. Other rays need not be tried on it."""

from __future__ import annotations

from typing import NamedTuple

from codi_tf.core.lazy import tensorflow as tf
from codi_tf.core.tensors import Tensor
from codi_tf.scenes.camera import VIEW, Camera
from codi_tf.scenes.vectors import Vector, dot


class Window(NamedTuple):
    """Rows `top` to `bottom` - 1 and columns `left` to `right` - 1 of an image of `size` pixels a side; int32 []."""

    top: Tensor
    bottom: Tensor
    left: Tensor
    right: Tensor
    size: int

    def cut(self, rays: Tensor) -> Tensor:
        """[N, rows, columns]: what belongs to the window, of [N * size^2], as `camera.rays` orders them."""
        whole = tf.reshape(rays, [-1, self.size, self.size])
        return whole[:, self.top : self.bottom, self.left : self.right]

    def spread(self, cut: Tensor, value: float | bool) -> Tensor:
        """[N * size^2], from what belongs to the window, [N, rows, columns], and a value for all other rays."""
        around = [[0, 0], [self.top, self.size - self.bottom], [self.left, self.size - self.right]]
        return tf.reshape(tf.pad(cut, around, constant_values=value), [-1])


def window_of(points: Vector, camera: Camera, size: int) -> Window:
    """The window of an image in which the convex hull of some points, [P], is seen, and a pixel around it."""
    seen = Vector(*(point - eye for point, eye in zip(points, camera.eye, strict=True)))
    scale = 0.5 * size / (VIEW * tf.maximum(dot(seen, camera.forward), 0.1))
    x, y = (0.5 * size + dot(seen, axis) * scale for axis in (camera.right, camera.up))

    def pixel(place: Tensor) -> Tensor:
        return tf.cast(tf.clip_by_value(place, 0.0, float(size)), tf.int32)

    return Window(
        top=pixel(size - 1.0 - tf.reduce_max(y)),
        bottom=pixel(size + 2.0 - tf.reduce_min(y)),
        left=pixel(tf.reduce_min(x) - 1.0),
        right=pixel(tf.reduce_max(x) + 2.0),
        size=size,
    )
