"""What the tasks of super-resolution share: the condition is a small version of the photo, enlarged."""

from __future__ import annotations

from typing import ClassVar

import tensorflow as tf

from codi_tf.core.errors import UserError
from codi_tf.tasks.options import is_whole


class Enlarging:
    """A task whose `low_resolution` makes a photo `scale` times smaller, both of which its classes bring along."""

    condition_channels: ClassVar[int] = 3
    condition_key: ClassVar[str] = "image"
    prompted: ClassVar[bool] = False
    name: ClassVar[str]  # in messages

    scale: int

    def degrade(self, image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """condition = up(low_resolution(image)), bicubic; a function of (image, seed) only.

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
        """The degraded photo before it is enlarged, float32 [H / scale, W / scale, 3] in [0, 1], whole 8-bit levels.

        Arguments and errors: see `degrade`.
        """
        raise NotImplementedError

    def condition_from_image(self, image: tf.Tensor) -> tf.Tensor:
        """condition = image: a user's photo is of low quality already, and has the output's size."""
        return image

    def finish(self, images: tf.Tensor, condition: tf.Tensor) -> tf.Tensor:
        """images: the whole picture is made anew."""
        return images

    def low_size(self, image: tf.Tensor) -> tuple[int, int]:
        """(H / scale, W / scale) of a photo [H, W, 3]. Raises UserError where the scale does not divide them."""
        height, width, _ = image.shape
        if height % self.scale or width % self.scale:
            raise UserError(f"{self.name}: an image of {height}x{width} needs sides that scale {self.scale} divides")
        return height // self.scale, width // self.scale

    def check_scale(self) -> None:
        """Raises UserError for a scale that is no whole number from 1 on."""
        if not is_whole(self.scale) or self.scale < 1:
            raise UserError(f"{self.name}: scale must be a whole number from 1 on, not {self.scale!r}")
