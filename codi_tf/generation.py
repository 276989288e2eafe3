"""Generation from compiled parts: encoding, one network evaluation, decoding; any number of steps without retracing."""

from __future__ import annotations

import tensorflow as tf

from codi_tf.base import Base
from codi_tf.methods.networks import denoiser_with
from codi_tf.models.adapter import AdaptedUNet
from codi_tf.sampling import few_step


class Generator:
    """Runs a base and its adapted network. It is compiled anew for every size of images, not for numbers of steps.

    Args:
        base: the autoencoder, the schedule, and the prompt's embedding.
        network: the network that generates.
        boundary: whether the network was trained with the boundary scalings.
    """

    def __init__(self, base: Base, network: AdaptedUNet, *, boundary: bool):
        self.base, self.network, self.boundary = base, network, boundary
        self.encode = tf.function(self._encode, autograph=False)
        self.denoise = tf.function(self._denoise, autograph=False)
        self.decode = tf.function(self._decode, autograph=False)

    def latents(self, condition, noise, *, steps: int):
        """Conditions [B, H, W, 3] in [-1, 1], noise [B, h, w, 4] -> clean latents, in `steps` network evaluations."""
        features = self.encode(condition)

        def denoise(z_t, t):
            return self.denoise(z_t, t, features)

        return few_step(denoise, noise, self.base.schedule, steps)

    def _encode(self, condition):
        return self.network.condition(self.base.encode(condition), self.base.context)

    def _denoise(self, z_t, t, features):
        denoise = denoiser_with(self.base, self.network, features, self.base.context, boundary=self.boundary)
        return denoise(z_t, t)

    def _decode(self, latents):
        return tf.clip_by_value(self.base.decode(latents), -1.0, 1.0)
