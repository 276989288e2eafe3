"""Super-resolution with a known degradation: the condition is the image made smaller and larger again."""

from __future__ import annotations

from dataclasses import dataclass

from codi_tf.core.lazy import tensorflow as tf
from codi_tf.core.tensors import Tensor
from codi_tf.tasks.enlarging import Enlarging
from codi_tf.tasks.task import TASKS


@TASKS.register("bicubic")
@dataclass(frozen=True, kw_only=True)
class Bicubic(Enlarging):
    """condition = up(down(image)), both bicubic, the first antialiased: the "known" degradation of comparisons.

    Attributes:
        scale: factor between the sides of the image and of its low-resolution version; it must divide the sides.

    Raises:
        UserError: an option out of its range.
    """

    scale: int = 4

    def __post_init__(self) -> None:
        self.check_scale()

    def low_resolution(self, image: Tensor, seed: Tensor) -> Tensor:
        """round(down(image)), float32 [H / scale, W / scale, 3] in [0, 1], in whole 8-bit levels.

        Arguments and errors: see `degrade`.
        """
        low_size = self.low_size(image)
        low = tf.image.resize((image + 1) / 2, low_size, "bicubic", antialias=True)  # [H/scale, W/scale, 3]
        return tf.round(255 * tf.clip_by_value(low, 0.0, 1.0)) / 255
