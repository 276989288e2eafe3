"""Generation from compiled parts: encoding, one network evaluation, decoding; any number of steps without retracing."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from codi_tf.base import Base
from codi_tf.errors import UserError
from codi_tf.methods.networks import denoiser_with, seen
from codi_tf.models.adapter import AdaptedUNet
from codi_tf.sampling import few_step_trajectory


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

    def latents(self, condition, noise, context, *, steps: int, report: Callable[[int], None] | None = None):
        """Conditions [B, H, W, 3] in [-1, 1], noise [B, h, w, 4], prompts [1 or B, 77, D] -> clean latents.

        Takes `steps` network evaluations; what depends on the condition alone is computed once. `report` is called with
        the number of steps that are done.
        """
        features = self.encode(condition, context)

        def denoise(z_t, t):
            return self.denoise(z_t, t, features, context)

        for done, prediction in enumerate(few_step_trajectory(denoise, noise, self.base.schedule, steps), start=1):
            latents = prediction.x_hat
            if report is not None:
                report(done)
        return latents

    def _encode(self, condition, context):
        return self.network.condition(seen(self.base, self.network, condition), context)

    def _denoise(self, z_t, t, features, context):
        denoise = denoiser_with(self.base, self.network, features, context, boundary=self.boundary)
        return denoise(z_t, t)

    def _decode(self, latents):
        return tf.clip_by_value(self.base.decode(latents), -1.0, 1.0)


def check_finite(result: tf.Tensor) -> np.ndarray:
    """The result as an array. Raises UserError where it holds NaN or infinity."""
    array = result.numpy()
    if not np.isfinite(array).all():
        raise UserError("the result is not finite: compute in float32 or bfloat16, or the checkpoint is damaged")
    return array
