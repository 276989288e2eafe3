"""Generation with compiled functions for encoding, one network evaluation and decoding.

Another number of steps needs no new trace.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import tensorflow as tf

from codi_tf.adapters.adapted import AdaptedUNet
from codi_tf.checkpoints.base import Base
from codi_tf.core.arguments import whole_number
from codi_tf.core.errors import UserError
from codi_tf.core.noise import gaussian_noise
from codi_tf.core.replicas import Compiled
from codi_tf.diffusion.conditioning import Conditioning
from codi_tf.diffusion.grid import sdedit_grid, sdedit_start
from codi_tf.diffusion.process import Boundary, Denoise, Prediction
from codi_tf.diffusion.sampling import make_grid, trajectory
from codi_tf.inference.knobs import result_of
from codi_tf.io import images
from codi_tf.methods.networks import denoiser_with, encode_condition

STEPS = 4  # of models that are made for no particular number


class Generator:
    """Generates images with a base and its adapted network. Compiled once for each image size.

    Args:
        base: the autoencoder and the schedule.
        network: the network that generates.
        boundary: the boundary scalings that the network was trained with, see `process.bounded`.
        guidance: the default of a network that takes the guidance as an input.
    """

    def __init__(self, base: Base, network: AdaptedUNet, *, boundary: Boundary, guidance: float = 1.0):
        self.base, self.network, self.boundary, self.guidance = base, network, boundary, guidance
        self.encode = Compiled(self._encode)
        self.features = Compiled(network.condition)
        self.encode_image = Compiled(base.encode)
        self.encode_nothing = Compiled(self._encode_nothing)
        self.denoise = Compiled(self._denoise)
        self.decode = Compiled(self._decode)

    def trajectory(
        self,
        condition,
        noise,
        conditioning: Conditioning,
        *,
        steps: int,
        sampler: str = "ddim",
        guidance: float | None = None,
        text_guidance: float | None = None,
        condition_scale: float = 1.0,
        seed: int = 0,
        first: int = 0,
        image=None,
        strength: float = 0.8,
    ) -> Iterator[Prediction]:
        """The network's prediction in each of `steps` steps, noisiest first; the last x_hat is the result.

        The condition features are computed once. A step is one network evaluation, or up to three, see `denoiser`.

        Args:
            condition: [B, H, W, 3 or 4] in [-1, 1].
            noise: float32 [B, h, w, 4], where sampling starts.
            conditioning: of the prompts, of batch size 1 or B.
            steps: 1 to the number of training times.
            sampler: a name in `diffusion.samplers.SAMPLERS`.
            guidance, text_guidance, condition_scale: see `denoiser`.
            seed: of the noise that stochastic samplers add.
            first: place of the first image in the batch that this noise is drawn for; 0 where that is this batch.
            image: [B, H, W, 3] in [-1, 1], where SDEdit starts; None: pure noise.
            strength: of SDEdit, see `grid.sdedit_grid`.

        Raises:
            UserError: an unknown sampler, a number of steps or a strength out of its range; a bad seed, when its noise
                is drawn.
        """
        how = {"guidance": guidance, "text_guidance": text_guidance, "condition_scale": condition_scale}
        denoise = self.denoiser(condition, conditioning, **how)
        grid = make_grid(sampler, self.base.schedule, steps)
        if image is not None:
            grid = sdedit_grid(grid, strength)
            noise = sdedit_start(self.encode_image(image), noise, grid)
        drawn = (first + noise.shape[0], *noise.shape[1:])
        fresh = (gaussian_noise(seed, drawn, stream=i + 1)[first:] for i in range(grid.draws))
        return (prediction for prediction, _ in trajectory(denoise, noise, grid, fresh))

    def denoiser(
        self,
        condition,
        conditioning: Conditioning,
        *,
        guidance: float | None = None,
        text_guidance: float | None = None,
        condition_scale: float = 1.0,
    ) -> Denoise:
        """e(0, 0) + g_c (e(c, 0) - e(0, 0)) + g_p (e(c, p) - e(c, 0)): InstructPix2Pix (Brooks et al. 2023, Eq. 3).

        Without g_p it is e(0, p) + g_c (e(c, p) - e(0, p)), for models that were trained without dropping prompts.
        There is one network evaluation for each term with a weight: one, two or three.

        Args:
            condition: [B, H, W, 3 or 4] in [-1, 1].
            conditioning: of the prompts, of batch size 1 or B.
            guidance: g_c, 1 is none; None: the model's default.
            text_guidance: g_p, 1 is none; None: see above.
            condition_scale: how many times the condition counts, in all terms: see `AdaptedUNet.call`.
        """
        guidance = self.guidance if guidance is None else guidance
        given = tf.constant([guidance], tf.float32)
        scale = None if condition_scale == 1.0 else tf.constant(condition_scale, tf.float32)  # None: as in training
        by_condition = 1.0 if self.network.takes_guidance else guidance
        conditioning = conditioning.tensors()
        empty = conditioning if text_guidance is None else self.base.conditioning().tensors()
        inputs = ((self.encode, conditioning), (self.encode, empty), (self.encode_nothing, empty))
        terms = zip(guidance_weights(by_condition, text_guidance), inputs, strict=True)
        evaluated = [(weight, encode(condition, prompt), prompt) for weight, (encode, prompt) in terms if weight]

        def denoise(z_t, t):
            predictions = [self.denoise(z_t, t, features, prompt, given, scale) for _, features, prompt in evaluated]
            if len(predictions) == 1:
                return predictions[0]
            return weighted(predictions, [weight for weight, _, _ in evaluated])

        return denoise

    def latents(
        self,
        condition,
        noise,
        conditioning: Conditioning,
        *,
        fidelity: float = 0.0,
        report: Callable[[int], None] | None = None,
        **options,
    ):
        """The clean latents float32 [B, h, w, 4] of `trajectory`, whose arguments and errors these are.

        `fidelity`, `report`: see `knobs.result_of`.
        """
        return result_of(self.trajectory(condition, noise, conditioning, **options), fidelity, report)

    def _encode(self, condition, conditioning):
        return self.network.condition(encode_condition(self.base, self.network, condition), conditioning)

    def _encode_nothing(self, condition, conditioning):
        return self.network.condition(tf.zeros_like(encode_condition(self.base, self.network, condition)), conditioning)

    def _denoise(self, z_t, t, features, conditioning, guidance, condition_scale=None):
        shared = {"guidance": guidance, "boundary": self.boundary, "condition_scale": condition_scale}
        return denoiser_with(self.base, self.network, features, conditioning, **shared)(z_t, t)

    def _decode(self, latents):
        return tf.clip_by_value(self.base.decode(latents), -1.0, 1.0)


def number_of_steps(steps: int | None, made_for: int | None, longest: int) -> int:
    """The number of network evaluations: as given, else the one that the model is made for, else 4.

    Args:
        steps: as asked for; a model that is made for another number is warned of.
        made_for: None for a model that is made for no particular one.
        longest: the number of training times.

    Raises:
        UserError: it is no whole number from 1 to `longest`.
    """
    if steps is None:
        return STEPS if made_for is None else made_for
    steps = whole_number("steps", steps, 1, longest)
    if made_for not in (steps, None):
        warnings.warn(f"steps is {steps}: this model is made for {made_for}", stacklevel=4)
    return steps


def start_images(image: np.ndarray, shape: tuple, multiple: int) -> tf.Tensor:
    """The images that SDEdit starts from, float32 [B, H', W', 3] in [-1, 1], padded to the networks' multiple.

    Args:
        image: uint8, or float in [0, 1], [H, W, 3] for all, or [B, H, W, 3].
        shape: (B, H, W, ..) of the conditions.
        multiple: H' and W' are multiples of it.

    Raises:
        UserError: another shape or type.
    """
    batch = images.as_batch("image", image)
    if batch.shape[1:3] != tuple(shape[1:3]):
        sizes = (f"{height}x{width}" for height, width in (batch.shape[1:3], shape[1:3]))
        raise UserError("image is {}, the condition {}: resize it".format(*sizes))
    if len(batch) not in (1, shape[0]):
        raise UserError(f"there are {len(batch)} images for {shape[0]} conditions: give one, or one a condition")
    padded = np.stack([images.pad_to_multiple(one, multiple)[0] for one in batch])
    return tf.constant(np.broadcast_to(2.0 * padded - 1.0, (shape[0], *padded.shape[1:])), tf.float32)


def guidance_weights(by_condition: float, by_prompt: float | None) -> tuple[float, float, float]:
    """The weights of e(c, p), of e(c, 0) and of e(0, 0), see `Generator.denoiser`; a term of weight 0 is not
    evaluated. If by_prompt is None, the last term is e(0, p).
    """
    if by_prompt is None:
        return by_condition, 0.0, 1.0 - by_condition
    return by_prompt, by_condition - by_prompt, 1.0 - by_condition


def weighted(predictions: Sequence[Prediction], weights: Sequence[float]) -> Prediction:
    """The sum of predictions with these weights, which add up to 1."""

    def added(parts):
        return tf.add_n([weight * part for part, weight in zip(parts, weights, strict=True)])

    return Prediction(*map(added, zip(*predictions, strict=True)))


def check_finite(result: tf.Tensor) -> np.ndarray:
    """The result as an array. Raises UserError where it holds NaN or infinity."""
    array = result.numpy()
    if not np.isfinite(array).all():
        raise UserError("the result is not finite: compute in float32 or bfloat16, or the checkpoint is damaged")
    return array


def condition_use(generator: Generator, latent, c, conditioning: Conditioning, guidance: float):
    """How much the output changes when conditions are swapped: ||w(z_t, c) - w(z_t, c')|| / ||w(z_t, c)||.

    c' are the conditions of the neighbors in the batch, t is 3/4 of the schedule, the noise is always the same. 0 means
    that the network ignores the condition. Takes latents [B, h, w, 4], B at least 2, conditions in the adapter's
    space, and the guidance of networks that have it as an input; returns a float32 scalar.
    """
    schedule, conditioning = generator.base.schedule, conditioning.tensors()
    t = 3 * schedule.num_steps // 4
    eps = tf.random.stateless_normal(tf.shape(latent), (0, 0))
    z_t = float(schedule.alpha[t]) * latent + float(schedule.sigma[t]) * eps
    features = generator.features(c, conditioning)
    assert features is not None
    swapped, at, given = [tf.roll(feature, 1, axis=0) for feature in features], tf.constant(t), tf.constant([guidance])
    own, other = (generator.denoise(z_t, at, f, conditioning, given).v_hat for f in (features, swapped))
    return tf.norm(own - other) / tf.norm(own)
