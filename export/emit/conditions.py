"""Condition images for the comparison of exported models with their Keras model."""

from __future__ import annotations

import numpy as np

from codi_tf import data
from codi_tf.core.errors import UserError
from codi_tf.model import CoDi
from export.emit.text_model import TextModel

COUNT, COUNT_LARGE, LARGE = 4, 2, 256**2  # images; fewer of more pixels than LARGE


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
    conditions = (batch["condition"][:, :height, :width] + 1.0) / 2.0
    if model.task.has_mask:
        conditions[..., 3] = conditions[..., 3] > 0.5  # it is 0 and 1 in either range
    return [condition[None] for condition in conditions], "held-out photos"
