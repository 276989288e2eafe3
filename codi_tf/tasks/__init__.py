"""Tasks: how a condition image is made from a photo, for training, and from a user's image, for sampling."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Protocol

import tensorflow as tf

from codi_tf.core.errors import UserError
from codi_tf.tasks.bicubic import Bicubic
from codi_tf.tasks.depth import Depth
from codi_tf.tasks.editing import Editing
from codi_tf.tasks.inpainting import Inpainting
from codi_tf.tasks.real_world import RealWorld
from codi_tf.tasks.super_resolution import SuperResolution


class Task(Protocol):
    """What every task offers; images are float32 [H, W, 3] in [-1, 1].

    A condition is float32 [H, W, condition_channels]: three channels in [-1, 1], which can be shown as a picture, and
    for inpainting a fourth, the mask, 1 where the picture is unknown and 0 elsewhere.

    Attributes:
        condition_channels: 3 or 4.
        made_of: what of an example `degrade` makes the condition of: "image", "depth" or "source", see `data.Source`.
        prompted: whether an example's prompt is a part of the task, an instruction.
    """

    condition_channels: ClassVar[int]
    condition_key: ClassVar[str]
    prompted: ClassVar[bool]

    def degrade(self, image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """The condition of a training example, a function of (what it is made of, seed int32 [2]) only."""

    def condition_from_image(self, image: tf.Tensor) -> tf.Tensor:
        """The condition of what a user brings, [..., H, W, condition_channels] in [-1, 1]."""

    def finish(self, images: tf.Tensor, condition: tf.Tensor) -> tf.Tensor:
        """What is shown of images [..., H, W, 3] that were made of conditions [..., H, W, condition_channels]."""


TASKS = {
    "super_resolution": SuperResolution,
    "real_world": RealWorld,
    "bicubic": Bicubic,
    "inpainting": Inpainting,
    "depth": Depth,
    "editing": Editing,
}


def make_task(name: str, **options: object) -> Task:
    """The task of that name with those options.

    Raises:
        UserError: an unknown name or option (the valid ones are listed), or an option out of its range.
    """
    if not isinstance(name, str) or name not in TASKS:
        raise UserError(f"unknown task {name!r}; valid tasks: {', '.join(sorted(TASKS))}")
    valid = [field.name for field in dataclasses.fields(TASKS[name])]
    for option in options:
        if option not in valid:
            raise UserError(f"task {name}: unknown option {option!r}; valid options: {', '.join(valid)}")
    return TASKS[name](**options)
