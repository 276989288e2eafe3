"""`TextModel`: a text-to-image base as a model that programs take. It has no task, and hence no condition."""

from __future__ import annotations

from typing import Any

from codi_tf.adapters.adapted import AdaptedUNet
from codi_tf.checkpoints.base import Base
from codi_tf.core.arguments import whole_number
from codi_tf.core.errors import UserError
from codi_tf.inference.text_to_image import TextToImage


class TextModel:
    """A base that makes images from prompts, classes or nothing at one network evaluation a step, as distilled ones do.

    Args:
        base: see `TextToImage`.

    Attributes:
        text_to_image: the same base in Keras, for comparison.
        network: its UNet, without an adapter.
        sampler: the sampler that it is made for.
        image_size: side of the images that it was trained for.

    Raises:
        UserError: see `TextToImage`.
    """

    task = None
    boundary = False

    def __init__(self, base: Base):
        self.text_to_image = TextToImage(base)
        assert base.unet is not None
        self.base: Any = base  # with its text encoder and tokenizer where a program takes prompts
        self.network = AdaptedUNet(base.unet, name="network")
        self.sampler = base.made_for.sampler

    @property
    def image_size(self) -> int:
        """The side of images. Raises UserError where the base does not say it."""
        return self.text_to_image.size()[0]

    def steps_for(self, steps: int | None) -> int:
        """The number of network evaluations; None: the one that the base is made for.

        Raises:
            UserError: it is no whole number from 1 to the number of training times.
        """
        if steps is None:
            return self.base.made_for.steps
        return whole_number("steps", steps, 1, self.base.schedule.num_steps)

    def latent_shape(self, count: int, height: int, width: int) -> tuple[int, int, int, int]:
        """The shape of the latents of `count` images of `height` x `width` pixels."""
        factor = self.base.vae.factor
        return (count, height // factor, width // factor, self.base.vae.latent_channels)

    def check_guidance(self, guidance: float | None) -> float:
        """The guidance of a program. Raises UserError for one that takes a second evaluation, or was not trained."""
        taken = self.base.made_for.check_guidance(guidance)
        if taken != 1.0 and not self.network.takes_guidance:
            raise UserError(
                f"guidance is {taken:g}: a step of an export is one evaluation, and this model needs two; distill it "
                "(method guided), or use 1"
            )
        return taken
