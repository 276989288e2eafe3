"""Depth to image: the condition is the nearness of each pixel."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from codi_tf.core.errors import UserError
from codi_tf.core.lazy import tensorflow as tf
from codi_tf.core.showing import shown
from codi_tf.core.tensors import Tensor
from codi_tf.io import depth_files
from codi_tf.io.conditions import ConditionFile
from codi_tf.tasks.options import checked_range
from codi_tf.tasks.task import TASKS, Graph, Task, Value


@TASKS.register("depth")
@dataclass(frozen=True, kw_only=True)
class Depth(Task):
    """condition = 2 (near - low) / (high - low) - 1, clipped to [-1, 1], in three equal channels.

    The normalization of MiDaS and of Stable Diffusion's depth-to-image model: nearness (larger is nearer: disparity, or
    the inverse of the distance) is scaled by its extremes in each image, so that neither unit nor scale matters. If all
    of an image is equally near, the condition is 0.

    Attributes:
        kind: what the maps in files hold: "disparity" (larger is nearer, 0 is a valid value) or "depth" (distances,
            0 where unknown). Examples hold nearness in any case.
        percentiles: low and high, of the nearness in an image: 0 and 100 are its extremes; others keep single
            wrong pixels of a measured map from setting the scale.

    Raises:
        UserError: an option out of its range.
    """

    condition_key: ClassVar = "depth"

    kind: Literal["disparity", "depth"] = "disparity"
    percentiles: tuple[float, float] = (0, 100)

    @property
    def condition_file(self) -> ConditionFile:
        """The kind of map that the file of a user's condition holds."""
        return self.kind

    def __post_init__(self) -> None:
        depth_files.check_kind(self.kind)
        percentiles = checked_range(self.name, "percentiles", self.percentiles, 0, 100)
        if percentiles[0] == percentiles[1]:
            raise UserError(f"{self.name}: percentiles must be two different numbers, not {shown(percentiles)}")
        object.__setattr__(self, "percentiles", percentiles)

    def degrade(self, depth: Tensor, seed: Tensor) -> Tensor:
        """condition = 2 (near - low) / (high - low) - 1, clipped; the seed is not used.

        Args:
            depth: nearness, float32 [H, W, 1], larger is nearer, finite.
            seed: int32 [2].

        Returns:
            float32 [H, W, 3] in [-1, 1], 1 at the nearest pixels.
        """
        return tf.repeat(self.normalized(depth), 3, axis=-1)

    def condition_from_image(self, image: Tensor) -> Tensor:
        """The condition of a user's nearness, in any unit; `as_image` makes one of a map.

        Args:
            image: float32 [..., H, W, 1 or 3], larger is nearer; of several channels the largest counts. A condition is
                its own condition, up to rounding.

        Returns:
            float32 [..., H, W, 3], as from `degrade`.
        """
        return self.degrade(tf.reduce_max(image, axis=-1, keepdims=True), seed=None)

    def emit_condition(self, g: Graph, image: Value) -> Value:
        """`condition_from_image` in the operations of an exported graph."""
        near, last = g.largest_channel(image), image.shape[0] * image.shape[1] - 1
        low, high = self.percentiles
        low, high = g.order_statistics(near, [math.floor(low / 100 * last), math.ceil(high / 100 * last)])
        balance = g.subtract(g.subtract(near, low), g.subtract(high, near))
        spread = g.clip(g.subtract(high, low), 1e-30, 1e30)  # where it is 0, so is the balance
        channel = g.clip(g.divide(balance, spread), -1.0, 1.0)
        return g.concatenate(g.concatenate(channel, channel), channel)

    def normalized(self, near: Tensor) -> Tensor:
        """2 (near - low) / (high - low) - 1, clipped to [-1, 1]; float32 [..., H, W, 1] -> the same shape."""
        low, high = self.bounds(near)
        balance = (near - low) - (high - near)  # in this form, the bounds become -1 and 1 exactly
        return tf.clip_by_value(tf.math.divide_no_nan(balance, high - low), -1.0, 1.0)

    def bounds(self, near: Tensor) -> tuple[Tensor, Tensor]:
        """The percentiles of each image, float32 [..., 1, 1, 1] each, for nearness [..., H, W, 1].

        Both are values of pixels: the low one is rounded down to the next value, the high one up.
        """
        if self.percentiles == (0, 100):
            axes = (-3, -2, -1)
            return tf.reduce_min(near, axis=axes, keepdims=True), tf.reduce_max(near, axis=axes, keepdims=True)
        shape = tf.shape(near)
        ordered = tf.sort(tf.reshape(near, tf.concat([shape[:-3], [-1]], axis=0)))  # [..., H W]
        last = tf.cast(tf.shape(ordered)[-1] - 1, tf.float64)
        low, high = (share / 100 * last for share in self.percentiles)
        places = tf.cast(tf.stack([tf.floor(low), tf.math.ceil(high)]), tf.int32)
        bounds = tf.gather(ordered, places, axis=-1)[..., tf.newaxis, tf.newaxis, :]  # [..., 1, 1, 2]
        return bounds[..., :1], bounds[..., 1:]

    def as_image(self, depth: np.ndarray) -> np.ndarray:
        """Convert a user's depth map to the form that `CoDi.generate` takes.

        Args:
            depth: float or whole numbers [H, W], of this task's kind.

        Returns:
            float32 [H, W, 3] in [0, 1], 1 at the nearest pixels.

        Raises:
            UserError: a map of another shape or type, empty, constant or with unknown pixels.
        """
        depth = np.asarray(depth)
        if depth.ndim != 2 or 0 in depth.shape or depth.dtype.kind not in "buif":
            raise UserError(f"depth map of shape {depth.shape} and type {depth.dtype}: it must be numbers [H, W]")
        near = depth_files.nearness(depth, self.kind)
        return depth_files.as_gray_image(depth_files.checked_nearness("depth map", near))
