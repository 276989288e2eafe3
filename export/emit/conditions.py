"""Condition images: for the comparison of exported models with their Keras model, and for calibration."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from codi_tf import data
from codi_tf.core.errors import UserError
from codi_tf.core.noise import gaussian_noise
from codi_tf.model import CoDi
from export.emit.text_model import TextModel

if TYPE_CHECKING:
    from export.emit.program import SamplerProgram

COUNT, COUNT_LARGE, LARGE = 4, 2, 256**2  # images; fewer of more pixels than LARGE
CALIBRATION, SEED = 32, 1000  # images of a calibration; its draws and noise are not those of the comparison


def conditions_for(model: CoDi | TextModel, height: int, width: int) -> tuple[list, str]:
    """(N condition images, float32 [1, H, W, C] in [0, 1], or None without a task; their origin).

    The origin is "held-out photos", "random" or "prompts alone".
    """
    count = COUNT if height * width <= LARGE else COUNT_LARGE
    if model.task is None:
        return [None] * count, "prompts alone"
    try:
        batch = data.evaluation_set(
            data.load_source("photos", "heldout", model.task),
            model.task,
            image_size=max(height, width),
            count=count,
            seed=0,
        )
    except UserError:  # the packages of the photos are missing, or all photos are smaller
        channels = model.task.condition_channels
        drawn = np.random.default_rng(0).random((count, height, width, channels), dtype=np.float32)
        return [condition[None] for condition in drawn], "random"
    return _as_given(batch["condition"], model, height, width), "held-out photos"


def _as_given(conditions: np.ndarray, model: CoDi, height: int, width: int) -> list[np.ndarray]:
    """Conditions [N, S, S, C] in [-1, 1] as a program takes them: each float32 [1, H, W, C] in [0, 1]."""
    conditions = (conditions[:, :height, :width] + 1.0) / 2.0
    if model.task.has_mask:
        conditions[..., 3] = conditions[..., 3] > 0.5  # it is 0 and 1 in either range
    return [condition[None] for condition in conditions]


def calibration_inputs(program: SamplerProgram, source: str) -> list[dict[str, np.ndarray]]:
    """Inputs of a program, by name, with CALIBRATION images of a source, as `--data` names it.

    The task makes their conditions. Prompts are those of the images, if the source has any, else empty.

    Raises:
        UserError: there is no such source, or its images do not serve the task; the model takes no condition.
    """
    model = program.model
    if isinstance(model, TextModel):
        raise UserError(
            "--calibration: this model makes images from prompts alone, and a calibration takes conditions; "
            "use other --weights"
        )
    loaded = data.load_source(source, "train", model.task)
    size = max(program.height, program.width)
    batch = data.evaluation_set(loaded, model.task, image_size=size, count=CALIBRATION, seed=SEED)
    made = []
    for i, condition in enumerate(_as_given(batch["condition"], model, program.height, program.width)):
        noise = gaussian_noise(SEED + i, program.latent_shape)
        made.append({"condition": np.ascontiguousarray(condition, "float32"), "noise": noise})
    if program.context is None:
        ids = model.base.tokenizer(list(batch.get("prompt", [""] * len(made))))
        made = [{**inputs, "ids": row} for inputs, row in zip(made, ids, strict=True)]
    return made
