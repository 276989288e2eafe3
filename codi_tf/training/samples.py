"""What a training without a task shows of held-out examples: reconstructions, or images for prompts and classes."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import tensorflow as tf

from codi_tf import config
from codi_tf.core.replicas import Compiled
from codi_tf.evaluation import numerics
from codi_tf.inference.text_to_image import TextToImage
from codi_tf.io import images
from codi_tf.trainers.trainer import Trainer
from codi_tf.training.quality import heldout_loss

SHOWN = 4  # held-out examples in a grid
GUIDANCE = 2.5  # of images for prompts; without dropped prompts there is none, or what a distilled model is made for


class Samples(Protocol):
    """What is shown: figures for the log, and an image."""

    def figures(self) -> dict[str, float]:
        """Numbers by their names in the log, which begin with "heldout_"."""
        ...

    def grid(self) -> np.ndarray:
        """Some of the examples side by side, see `io.images.grid`."""
        ...


def make_samples(experiment: config.Experiment, trainer: Trainer, heldout: dict[str, np.ndarray]) -> Samples | None:
    """The samples of a training without a task; None where its method has none to show."""
    if experiment.method.reconstructs:
        return Reconstructions(trainer, heldout)
    guidance = GUIDANCE if experiment.method.drop_prompt else None
    shown = {"prompt", "class"} & heldout.keys() and not experiment.method.reverse
    return Asked(trainer, heldout, guidance) if shown else None


class Reconstructions:
    """What the moving average makes of held-out images [N, S, S, 3] in [-1, 1]."""

    def __init__(self, trainer: Trainer, heldout: dict[str, np.ndarray]):
        self.originals = (heldout["image"] + 1) / 2
        self._image = tf.constant(heldout["image"])
        method, average = trainer.method, trainer.average
        self._reconstruct = Compiled(lambda image: method.reconstruct(average, image))

    def made(self) -> np.ndarray:
        """The reconstructions, float32 [N, S, S, 3] in [0, 1]."""
        return (np.clip(self._reconstruct(self._image).numpy(), -1, 1) + 1) / 2

    def figures(self) -> dict[str, float]:
        """The mean PSNR in dB, and the sharpness as a share of the originals'."""
        made = self.made()
        sharpness = numerics.sharpness(made).mean() / numerics.sharpness(self.originals).mean()
        return {
            "heldout_psnr": float(numerics.psnr(made, self.originals).mean()),
            "heldout_sharpness": float(sharpness),
        }

    def grid(self) -> np.ndarray:
        """Originals and their reconstructions."""
        rows = zip(self.originals[:SHOWN], self.made()[:SHOWN], strict=True)
        return images.grid([list(row) for row in rows], ["original", "reconstruction"], zoom=2)


class Asked:
    """Images that the moving average makes for prompts or classes of held-out examples, always from the same noise."""

    def __init__(self, trainer: Trainer, heldout: dict[str, np.ndarray], guidance: float | None):
        self.heldout, self.asked = heldout, {}
        base, average = trainer.method.base, trainer.average
        self._text_to_image = TextToImage(trainer.method.result(average))
        made_for = self._text_to_image.base.made_for
        taken = 1.0 if made_for.guidance is None else made_for.default_guidance
        self.steps, self.guidance = made_for.steps, taken if guidance is None else guidance
        batch = {"image": tf.constant(heldout["image"])}
        if "prompt" in heldout:
            prompts = list(heldout["prompt"])
            self.asked["prompts"] = prompts[:SHOWN]
            batch["tokens"] = tf.constant(base.tokenizer.tokenize(prompts)[0])
        if "class" in heldout:
            self.asked["labels"] = heldout["class"][:SHOWN]
            batch["class"] = tf.constant(heldout["class"])
        self._loss = heldout_loss(trainer, batch)

    def figures(self) -> dict[str, float]:
        """The loss of the networks that are trained, with the same draws each time."""
        return self._loss()

    def grid(self) -> np.ndarray:
        """Images for prompts or classes, beside the examples that these are of."""
        originals = (self.heldout["image"][:SHOWN] + 1) / 2
        height, width = originals.shape[1:3]
        how = {"steps": self.steps, "guidance": self.guidance, "height": height, "width": width}
        made = self._text_to_image.generate(**self.asked, **how)
        rows = zip(originals, made, strict=True)
        return images.grid([list(row) for row in rows], ["original", f"{self.steps} steps"], zoom=2)
