"""Instructed editing: the condition is the image before the edit, and the prompt is the instruction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from codi_tf.tasks.task import TASKS, Task


@TASKS.register("editing")
@dataclass(frozen=True, kw_only=True)
class Editing(Task):
    """condition = the image before the edit (InstructPix2Pix, section 3.2); the prompt says what to change."""

    condition_key: ClassVar = "source"
    prompted: ClassVar[bool] = True

    def degrade(self, image: Any, seed: Any) -> Any:
        """condition = image (the image before the edit), float32 [H, W, 3] in [-1, 1]; the seed is not used."""
        return image
