"""Known super-resolution: the condition is the photo made smaller and larger again, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import tensorflow as tf

from codi_tf.errors import UserError
from codi_tf.tasks.options import is_whole


@dataclass(frozen=True, kw_only=True)
class Bicubic:
    """condition = up(down(image)): both bicubic, the first averaging; the "known" degradation of comparisons.

    Attributes:
        scale: factor between the sides of the photo and of its low-resolution version; the side must be a multiple.

    Raises:
        UserError: an option out of its range.
    """

    condition_channels: ClassVar[int] = 3
    made_of: ClassVar[str] = "image"
    prompted: ClassVar[bool] = False

    scale: int = 4

    def __post_init__(self) -> None:
        if not is_whole(self.scale) or self.scale < 1:
            raise UserError(f"bicubic: scale must be a whole number from 1 on, not {self.scale!r}")

    def degrade(self, image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """condition = up(low_resolution(image)), bicubic; the seed plays no part.

        Args:
            image: float32 [H, W, 3] in [-1, 1], static shape.
            seed: int32 [2].

        Returns:
            condition, float32 [H, W, 3] in [-1, 1].

        Raises:
            UserError: a side is not a multiple of the scale.
        """
        condition = tf.image.resize(self.low_resolution(image, seed), image.shape[:2], "bicubic")
        return tf.clip_by_value(2 * condition - 1, -1.0, 1.0)

    def low_resolution(self, image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """round(down(image)), float32 [H / scale, W / scale, 3] in [0, 1], whole 8-bit levels.

        Arguments and errors: see `degrade`.
        """
        height, width, _ = image.shape
        if height % self.scale or width % self.scale:
            raise UserError(f"bicubic: an image of {height}x{width} needs sides that scale {self.scale} divides")
        low_size = [height // self.scale, width // self.scale]
        low = tf.image.resize((image + 1) / 2, low_size, "bicubic", antialias=True)  # [H/scale, W/scale, 3]
        return tf.round(255 * tf.clip_by_value(low, 0.0, 1.0)) / 255

    def condition_from_image(self, image: tf.Tensor) -> tf.Tensor:
        """condition = image: a user's photo has the output's size."""
        return image

    def finish(self, images: tf.Tensor, condition: tf.Tensor) -> tf.Tensor:
        """images: the whole picture is made anew."""
        return images
