"""Generation from compiled parts: encoding, one network evaluation, decoding; any number of steps without retracing."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf

from codi_tf.base import Base
from codi_tf.diffusion import Prediction
from codi_tf.errors import UserError
from codi_tf.methods.networks import denoiser_with, seen
from codi_tf.models.adapter import AdaptedUNet
from codi_tf.noise import gaussian_noise
from codi_tf.sampling import guided, make_grid, trajectory


class Generator:
    """Runs a base and its adapted network. It is compiled anew for every size of images, not for numbers of steps.

    Args:
        base: the autoencoder and the schedule.
        network: the network that generates.
        boundary: whether the network was trained with the boundary scalings.
        guidance: what a network that takes the guidance is given where the caller says nothing.
    """

    def __init__(self, base: Base, network: AdaptedUNet, *, boundary: bool, guidance: float = 1.0):
        self.base, self.network, self.boundary, self.guidance = base, network, boundary, guidance
        self.encode = tf.function(self._encode, autograph=False)
        self.encode_nothing = tf.function(self._encode_nothing, autograph=False)
        self.denoise = tf.function(self._denoise, autograph=False)
        self.decode = tf.function(self._decode, autograph=False)

    def trajectory(
        self, condition, noise, context, *, steps: int, sampler: str = "ddim", guidance: float | None = None, seed=0
    ) -> Iterator[Prediction]:
        """What the network says in each of `steps` steps, noisiest first; the last x_hat is the result.

        What depends on the condition alone is computed once. A step is one network evaluation; two, if a network that
        does not take the guidance is to be guided.

        Args:
            condition: [B, H, W, 3 or 4] in [-1, 1].
            noise: [B, h, w, 4], where sampling starts.
            context: prompts [1 or B, 77, D].
            steps: 1 to the number of training times.
            sampler: of `sampling.SAMPLERS`.
            guidance: 1 is none; None: the default of the model.
            seed: of the noise that stochastic samplers add on their way.
        """
        features, untold = self.encode(condition, context), None
        taken = self.guidance if guidance is None else guidance
        if not self.network.takes_guidance and taken != 1.0:
            untold = self.encode_nothing(condition, context)
        scale = tf.constant([taken], tf.float32)

        def denoise(z_t, t):
            if untold is None:
                return self.denoise(z_t, t, features, context, scale)
            told, free = (self.denoise(z_t, t, f, context, scale) for f in (features, untold))
            return Prediction(*(guided(u, c, taken) for u, c in zip(free, told, strict=True)))

        grid = make_grid(sampler, self.base.schedule, steps)
        fresh = (gaussian_noise(seed, tuple(noise.shape), stream=i + 1) for i in range(grid.draws))
        return (prediction for prediction, _ in trajectory(denoise, noise, grid, fresh))

    def latents(self, condition, noise, context, *, report: Callable[[int], None] | None = None, **options):
        """The clean latents at the end of `trajectory`, whose arguments these are.

        `report` is called with the number of steps that are done.
        """
        for done, prediction in enumerate(self.trajectory(condition, noise, context, **options), start=1):
            latents = prediction.x_hat
            if report is not None:
                report(done)
        return latents

    def _encode(self, condition, context):
        return self.network.condition(seen(self.base, self.network, condition), context)

    def _encode_nothing(self, condition, context):
        return self.network.condition(tf.zeros_like(seen(self.base, self.network, condition)), context)

    def _denoise(self, z_t, t, features, context, guidance):
        shared = {"guidance": guidance, "boundary": self.boundary}
        return denoiser_with(self.base, self.network, features, context, **shared)(z_t, t)

    def _decode(self, latents):
        return tf.clip_by_value(self.base.decode(latents), -1.0, 1.0)


def check_finite(result: tf.Tensor) -> np.ndarray:
    """The result as an array. Raises UserError where it holds NaN or infinity."""
    array = result.numpy()
    if not np.isfinite(array).all():
        raise UserError("the result is not finite: compute in float32 or bfloat16, or the checkpoint is damaged")
    return array
