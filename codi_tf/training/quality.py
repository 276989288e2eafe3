"""The quality of a model on the same held-out examples all through its training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from codi_tf.core.replicas import Compiled
from codi_tf.methods.draws import Draws
from codi_tf.model import CoDi
from codi_tf.trainers.trainer import Trainer

DRAWS = 4  # of times and noise; with t shared by a batch, one draw is one time
LAST = 2**31 - 1  # number of an update that no run has: draws of their own, and the last phase of a method with phases


class Quality:
    """Measures the network that is trained, and the images of the one that generates.

    Args:
        model: the trainer.
        heldout: of `monitor.heldout_examples`: "image" and "condition" [N, S, S, .] in [-1, 1], and "prompt" or none.
    """

    def __init__(self, model: CoDi, heldout: dict[str, np.ndarray]):
        self.model, self.heldout = model, heldout
        self.prompts = list(heldout["prompt"]) if "prompt" in heldout else None
        self.batch = {key: tf.constant(heldout[key]) for key in ("image", "condition")}
        if self.prompts is not None:
            self.batch["context"] = tf.constant(model.base.conditioning(self.prompts).context)
        self._loss = heldout_loss(model, self.batch)

    def figures(self) -> dict[str, float]:
        """The loss and its terms, means over the examples and the same draws each time; PSNR in dB, their mean."""
        loss = self._loss()
        made = self.model.generate((self.heldout["condition"] + 1) / 2, self.prompts)  # with the steps it is made for
        error = np.square(made / 255 - (self.heldout["image"] + 1) / 2).mean(axis=(1, 2, 3))
        psnr = -10 * np.log10(np.maximum(error, 1e-10))
        return {**loss, "heldout_psnr": float(psnr.mean())}


def heldout_loss(trainer: Trainer, batch: dict) -> Callable[[], dict[str, float]]:
    """A function of nothing: the loss of a batch and its terms, means over the same draws each time it is called."""
    method = trainer.method

    def means():
        sums: Any = 0.0
        for number in range(DRAWS):
            terms = method.loss_terms(batch, Draws(trainer.seed, tf.constant(LAST - number, tf.int64)))
            sums += tf.stack([tf.reduce_mean(terms[name]) for name in method.terms])
        return sums / DRAWS

    run = Compiled(means)

    def figures() -> dict[str, float]:
        found = run().numpy().tolist()
        terms = {f"heldout_{name}": mean for name, mean in zip(method.terms, found, strict=True)}
        return {"heldout_loss": sum(found), **terms}

    return figures
