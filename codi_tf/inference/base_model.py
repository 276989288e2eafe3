"""A base without an adapter, unconditional or text-to-image, as compiled functions."""

from __future__ import annotations

import tensorflow as tf

from codi_tf.adapters.adapted import AdaptedUNet
from codi_tf.checkpoints.base import Base, check_takes_latents
from codi_tf.core.errors import UserError
from codi_tf.diffusion.conditioning import Conditioning
from codi_tf.diffusion.process import Denoise, Prediction
from codi_tf.diffusion.sampling import guided
from codi_tf.diffusion.scheduler_config import is_reverse
from codi_tf.inference.rendering import pixel_limit
from codi_tf.methods.networks import denoiser_with


class BaseModel:
    """Encodes, denoises and decodes with a base alone; compiled once for each shape.

    Args:
        base: with a UNet that takes the latents and nothing else.

    Raises:
        UserError: for another base.
    """

    def __init__(self, base: Base):
        if base.unet is None:
            raise UserError("this model has no UNet: it is an autoencoder alone; name a base that was trained")
        check_takes_latents(base, "this model's", "name a base that takes no condition image")
        self.base, self.network = base, AdaptedUNet(base.unet, name="base")
        self.encode = tf.function(base.encode, autograph=False)
        self.decode = tf.function(self._decode, autograph=False)
        self._predict = tf.function(self._denoise, autograph=False)

    @property
    def is_reverse(self) -> bool:
        """Whether it leads from images to noise, and so generates nothing."""
        return is_reverse(self.base.scheduler)

    def denoiser(self, conditioning: Conditioning | None = None, *, guidance: float = 1.0) -> Denoise:
        """(z_t, t) -> Prediction, with guidance by the prompts.

        A network that takes the guidance as an input is evaluated once a step, as is any without guidance; others
        twice, `sampling.guided`.

        Args:
            conditioning: of the prompts (`base.conditioning`), of batch size 1 or B; None: of the empty one.
            guidance: 1 is none.

        Raises:
            UserError: guidance without a prompt to be guided by, or one that the base was not trained for.
        """
        guidance = self.base.made_for.check_guidance(guidance)
        empty, scale = self.base.conditioning().tensors(), tf.constant([guidance], tf.float32)
        given = empty if conditioning is None else conditioning.tensors()
        if self.evaluations(guidance) == 1:
            return lambda z_t, t: self._predict(z_t, t, given, scale)
        if conditioning is None:
            raise UserError(f"guidance is {guidance:g}: there is no prompt to be guided by; give one, or use 1")

        def denoise(z_t, t):
            unconditional, conditional = (self._predict(z_t, t, one, scale) for one in (empty, given))
            return Prediction(*(guided(u, c, guidance) for u, c in zip(unconditional, conditional, strict=True)))

        return denoise

    def evaluations(self, guidance: float) -> int:
        """How often the network is evaluated in a step: once, or twice for guidance that is no input of it."""
        return 1 if guidance == 1.0 or self.network.takes_guidance else 2

    def check_size(self, height: int, width: int) -> None:
        """Raises UserError for an image of more pixels than the networks process without excessive memory."""
        if height * width > (limit := pixel_limit(self.base)):
            raise UserError(f"the image has {width}x{height} pixels: this model takes {limit:,} at most; shrink it")

    def _denoise(self, z_t, t, conditioning, guidance):
        return denoiser_with(self.base, self.network, None, conditioning, guidance=guidance)(z_t, t)

    def _decode(self, latents):
        return tf.clip_by_value(self.base.decode(latents), -1.0, 1.0)
