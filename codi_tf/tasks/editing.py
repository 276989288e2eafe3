"""Instructed editing: the condition is the picture before the edit; the instruction is the prompt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import tensorflow as tf


@dataclass(frozen=True, kw_only=True)
class Editing:
    """condition = the picture before the edit (InstructPix2Pix, section 3.2); the prompt says what is to change."""

    condition_channels: ClassVar[int] = 3
    condition_key: ClassVar[str] = "source"
    prompted: ClassVar[bool] = True

    def degrade(self, source: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """condition = source; the seed plays no part.

        Args:
            source: float32 [H, W, 3] in [-1, 1].
            seed: int32 [2].

        Returns:
            float32 [H, W, 3] in [-1, 1].
        """
        return source

    def condition_from_image(self, image: tf.Tensor) -> tf.Tensor:
        """condition = image: a user's photo is the picture before the edit."""
        return image

    def finish(self, images: tf.Tensor, condition: tf.Tensor) -> tf.Tensor:
        """images: an edit may change any pixel."""
        return images
