"""Generation from compiled parts: encoding, one network evaluation, decoding; any number of steps without retracing."""

from __future__ import annotations

import tensorflow as tf

from codi_tf.base import Base
from codi_tf.methods.networks import denoiser_with, seen
from codi_tf.models.adapter import AdaptedUNet
from codi_tf.sampling import few_step


class Generator:
    """Runs a base and its adapted network. It is compiled anew for every size of images, not for numbers of steps.

    Args:
        base: the autoencoder and the schedule.
        network: the network that generates.
        boundary: whether the network was trained with the boundary scalings.
    """

    def __init__(self, base: Base, network: AdaptedUNet, *, boundary: bool):
        self.base, self.network, self.boundary = base, network, boundary
        self.encode = tf.function(self._encode, autograph=False)
        self.denoise = tf.function(self._denoise, autograph=False)
        self.decode = tf.function(self._decode, autograph=False)

    def latents(self, condition, noise, context, *, steps: int):
        """Conditions [B, H, W, 3] in [-1, 1], noise [B, h, w, 4], prompts [1 or B, 77, D] -> clean latents.

        Takes `steps` network evaluations; what depends on the condition alone is computed once.
        """
        features = self.encode(condition, context)

        def denoise(z_t, t):
            return self.denoise(z_t, t, features, context)

        return few_step(denoise, noise, self.base.schedule, steps)

    def _encode(self, condition, context):
        return self.network.condition(seen(self.base, self.network, condition), context)

    def _denoise(self, z_t, t, features, context):
        denoise = denoiser_with(self.base, self.network, features, context, boundary=self.boundary)
        return denoise(z_t, t)

    def _decode(self, latents):
        return tf.clip_by_value(self.base.decode(latents), -1.0, 1.0)
