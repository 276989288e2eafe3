"""The base class of super-resolution tasks: the condition is a small version of the image, enlarged."""

from __future__ import annotations

from typing import ClassVar

from codi_tf.core.errors import UserError
from codi_tf.core.lazy import tensorflow as tf
from codi_tf.core.showing import shown
from codi_tf.core.tensors import Tensor
from codi_tf.tasks.options import is_whole
from codi_tf.tasks.task import Task


class Enlarging(Task):
    """Base class of super-resolution tasks. A subclass defines the option `scale` and the method `low_resolution`.

    A user's image is degraded already and has the size of the output, so it is the condition itself.
    """

    is_local: ClassVar[bool] = True
    keeps_colors: ClassVar[bool] = True
    has_low_resolution: ClassVar[bool] = True

    scale: int

    def degrade(self, image: Tensor, seed: Tensor) -> Tensor:
        """condition = up(low_resolution(image)), bicubic; a function of (image, seed) only.

        Args:
            image: float32 [H, W, 3] in [-1, 1], static shape.
            seed: int32 [2].

        Returns:
            condition, float32 [H, W, 3] in [-1, 1].

        Raises:
            UserError: the scale does not divide a side.
        """
        condition = tf.image.resize(self.low_resolution(image, seed), image.shape[:2], "bicubic")
        return tf.clip_by_value(2 * condition - 1, -1.0, 1.0)

    def low_resolution(self, image: Tensor, seed: Tensor) -> Tensor:
        """The degraded image before it is enlarged, float32 [H / scale, W / scale, 3] in [0, 1], in whole 8-bit levels.

        Arguments and errors: see `degrade`.
        """
        raise NotImplementedError

    def low_size(self, image: Tensor) -> tuple[int, int]:
        """(H / scale, W / scale) of an image [H, W, 3]. Raises UserError where the scale does not divide them."""
        height, width, _ = image.shape
        if height % self.scale or width % self.scale:
            raise UserError(f"{self.name}: an image of {height}x{width} needs sides that scale {self.scale} divides")
        return height // self.scale, width // self.scale

    def check_scale(self) -> None:
        """Raise UserError for a scale that is not a whole number of at least 1."""
        if not is_whole(self.scale) or self.scale < 1:
            raise UserError(f"{self.name}: scale must be a whole number from 1 on, not {shown(self.scale)}")
