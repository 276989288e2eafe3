"""The base class of tasks, and their registry. Needs no TensorFlow."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from codi_tf.core.errors import UserError
from codi_tf.core.registry import Registry
from codi_tf.core.tensors import Tensor
from codi_tf.io.conditions import ConditionFile, read_condition

TASKS: Registry[type[Task]] = Registry("task", "TASKS", "codi_tf.tasks")
Graph = Any  # `export.emit.graph.Graph`
Value = Any  # in such a graph


@dataclass(frozen=True, kw_only=True)
class Task:
    """How a condition is made, for training from an example and for sampling from a user's image.

    A task is a frozen dataclass whose fields are its options; bundles and configs hold them as JSON or YAML. It defines
    `degrade`, and overrides the defaults that do not fit:

        @TASKS.register("gray")
        class Gray(Task):
            def degrade(self, image, seed):
                return tf.image.grayscale_to_rgb(tf.image.rgb_to_grayscale(image))

    Images are float32 [H, W, 3] in [-1, 1]. A condition is float32 [H, W, condition_channels]: three channels in
    [-1, 1], which can be shown as an image, and for `has_mask` a fourth, 1 where the image is unknown and 0 elsewhere.

    Modules in `codi_tf.tasks` import TensorFlow from `codi_tf.core.lazy`.

    Attributes:
        has_mask: whether a condition has a mask after the channels of its image.
        condition_channels: 3, or 4 with a mask; follows from `has_mask`.
        condition_key: what `degrade` takes: the "image" of an example, or a companion of it, by its name in
            `codi_tf.companions.COMPANIONS`.
        prompted: whether the prompt is part of the task, an instruction; a user must give one.
        is_local: whether the image at a pixel depends on the condition near it, so that large images can be made of
            tiles.
        keeps_colors: whether the image has the colors of the condition, so that they can be aligned.
        resizes: whether what `condition_key` names may be of another size than the image, and is resized to it.
        has_low_resolution: whether `low_resolution` is defined.
        uses_condition_at_end: whether `finish` and `emit_finish` use the condition.

    Raises:
        UserError: a subclass states `condition_channels` that do not follow from its `has_mask`.
    """

    has_mask: ClassVar[bool] = False
    condition_channels: ClassVar[int] = 3
    condition_key: ClassVar[str] = "image"
    prompted: ClassVar[bool] = False
    is_local: ClassVar[bool] = False
    keeps_colors: ClassVar[bool] = False
    resizes: ClassVar[bool] = False
    has_low_resolution: ClassVar[bool] = False
    uses_condition_at_end: ClassVar[bool] = False

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        channels = 3 + cls.has_mask
        if cls.__dict__.get("condition_channels", channels) != channels:
            stated = f"condition_channels is {cls.condition_channels} and has_mask is {cls.has_mask}"
            raise UserError(f"task {cls.__name__}: {stated}; state has_mask alone, the channels follow from it")
        cls.condition_channels = channels

    @property
    def name(self) -> str:
        """The name under which the task is registered. Raises UserError for a class that is not registered."""
        return TASKS.name_of(type(self))

    @property
    def condition_file(self) -> ConditionFile:
        """The kind of file that holds a user's condition, see `io.conditions.read_condition`."""
        return "masked_image" if self.has_mask else "image"

    def read_condition(self, path: str | os.PathLike[str], mask: str | os.PathLike[str] | None = None) -> np.ndarray:
        """A user's condition from files: float32 [H, W, condition_channels] in [0, 1].

        Raises:
            UserError: see `io.conditions.read_condition`.
        """
        return read_condition(path, self.condition_file, mask)

    def degrade(self, image: Tensor, seed: Tensor) -> Tensor:
        """The condition of a training example, a function of the two arguments only.

        Args:
            image: what `condition_key` names: an image [H, W, 3] in [-1, 1], or a companion, such as depth [H, W, 1].
            seed: int32 [2], for `tf.random.stateless_*`.

        Returns:
            float32 [H, W, condition_channels].
        """
        raise NotImplementedError

    def condition_from_image(self, image: Tensor) -> Tensor:
        """The condition of a user's image [..., H, W, condition_channels] in [-1, 1]: by default the image itself."""
        return image

    def finish(self, images: Tensor, condition: Tensor) -> Tensor:
        """The final images: by default those that were generated.

        Args:
            images: float32 [..., H, W, 3] in [-1, 1], generated from the condition.
            condition: float32 [..., H, W, condition_channels].

        Returns:
            float32 [..., H, W, 3] in [-1, 1].
        """
        return images

    def low_resolution(self, image: Tensor, seed: Tensor) -> Tensor:
        """The degraded image at its own, smaller size, of tasks that enlarge: see `tasks.enlarging.Enlarging`."""
        raise NotImplementedError

    def emit_condition(self, g: Graph, image: Value) -> Value:
        """`condition_from_image` in the operations of an exported graph, for one image (H, W, condition_channels)."""
        return image

    def emit_finish(self, g: Graph, image: Value, condition: Value) -> Value:
        """`finish` in the operations of an exported graph, for one image (H, W, 3).

        Without `uses_condition_at_end` the condition may be any value.
        """
        return image
