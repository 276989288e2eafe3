"""Any paired task: the condition is the source of a pair, and the image its target."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import ClassVar

from codi_tf.core.errors import UserError
from codi_tf.core.lazy import tensorflow as tf
from codi_tf.core.showing import shown
from codi_tf.core.tensors import Tensor
from codi_tf.io.color import LUMA
from codi_tf.tasks.task import TASKS, Graph, Task, Value


@TASKS.register("pairs")
@dataclass(frozen=True, kw_only=True)
class Pairs(Task):
    """condition = the source of a pair, or with `gray` its luma; the image is the target.

    Attributes:
        crop: train on windows that are cut from source and target together, so that large images can be made in tiles.
            False: on the whole image, made smaller, for tasks that need to see all of it.
        resize: a source of another size than its target is resized to the target's. False: it counts as unreadable.
        gray: the condition is 0.299 R + 0.587 G + 0.114 B in all channels, also of a user's image: colorization.

    Raises:
        UserError: an option that is neither true nor false.
    """

    condition_key: ClassVar = "source"

    crop: bool = True
    resize: bool = False
    gray: bool = False

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, bool):
                raise UserError(f"{self.name}: {field.name} must be true or false, not {shown(value)}")
        for fact, value in (("is_local", self.crop), ("resizes", self.resize), ("keeps_colors", not self.gray)):
            object.__setattr__(self, fact, value)

    def degrade(self, image: Tensor, seed: Tensor) -> Tensor:
        """condition = image (the source), or its luma; the seed is not used.

        Args:
            image: float32 [H, W, 3] in [-1, 1].
            seed: int32 [2].

        Returns:
            float32 [H, W, 3] in [-1, 1].
        """
        return self.condition_from_image(image)

    def condition_from_image(self, image: Tensor) -> Tensor:
        """The condition of a user's image: as `degrade`, float32 [..., H, W, 3] -> the same shape."""
        if not self.gray:
            return image
        luma = sum(share * image[..., i : i + 1] for i, share in enumerate(LUMA))
        return tf.repeat(luma, 3, axis=-1)

    def emit_condition(self, g: Graph, image: Value) -> Value:
        """`condition_from_image` in the operations of an exported graph."""
        if not self.gray:
            return image
        red, green, blue = (g.affine(g.channels(image, i, i + 1), share, 0.0) for i, share in enumerate(LUMA))
        luma = g.add(g.add(red, green), blue)
        return g.concatenate(g.concatenate(luma, luma), luma)
