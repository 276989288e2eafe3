"""RePaint: inpainting with a base that was never trained for it (Lugmayr et al. 2022), in its latents."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from codi_tf.core.arguments import prompts_for, whole_number
from codi_tf.core.errors import UserError
from codi_tf.core.noise import gaussian_noise
from codi_tf.diffusion.repaint import Plan, repaint, repaint_plan
from codi_tf.diffusion.sampling import make_grid
from codi_tf.inference.base_model import BaseModel
from codi_tf.inference.generation import check_finite
from codi_tf.io.images import as_batch, pad_to_multiple, to_uint8


def make_plan(model: BaseModel, *, steps: int, jump_length: int, resamplings: int, sampler: str) -> Plan:
    """The moves of RePaint with a sampler of a base.

    Raises:
        UserError: a base that leads from images to noise; see `repaint_plan` and `make_grid`.
    """
    if model.is_reverse:
        raise UserError("this model leads from images to noise, and makes none: name the base it was distilled from")
    steps = whole_number("steps", steps, 1, model.base.schedule.num_steps)
    grid = make_grid(sampler, model.base.schedule, steps)
    return repaint_plan(grid, jump_length=jump_length, resamplings=resamplings)


def fill(
    model: BaseModel,
    image: np.ndarray,
    prompts: str | Sequence[str] | None = None,
    *,
    steps: int = 250,
    jump_length: int = 10,
    resamplings: int = 10,
    sampler: str = "ddpm",
    guidance: float = 1.0,
    seed: int = 0,
    report: Callable[[int], None] | None = None,
) -> np.ndarray:
    """Images whose unknown part is filled; the known pixels stay as they are.

    A latent is known if all of its pixels are. The unknown pixels are gray for the autoencoder, whatever they were.

    Args:
        model: the base.
        image: uint8, or float in [0, 1], [H, W, 4] or [B, H, W, 4]: RGB, and a mask above 0.5 where it is unknown.
        prompts: one for all images, or one for each; None: none.
        steps, jump_length, resamplings: see `repaint_plan`; the defaults are the paper's.
        sampler: "ddpm", "ddim", or another whose steps are of first order.
        guidance: by the prompt, 1 is none, see `BaseModel.denoiser`.
        seed: of all noise.
        report: is called with the number of network evaluations that are done.

    Returns:
        uint8 [B, H, W, 3] (or [H, W, 3]).

    Raises:
        UserError: an unsuitable argument; an image larger than memory allows; a result that is not finite.
    """
    plan = make_plan(model, steps=steps, jump_length=jump_length, resamplings=resamplings, sampler=sampler)
    batch = as_batch("image", image, channels=4)
    model.check_size(*batch.shape[1:3])
    padded = np.stack([pad_to_multiple(one, model.base.multiple)[0] for one in batch])
    hidden = padded[..., 3:] > 0.5
    x = model.encode(tf.constant(np.where(hidden, 0.0, 2.0 * padded[..., :3] - 1.0), tf.float32))
    unknown = unknown_latents(hidden, model.base.vae.factor)
    shape = tuple(x.shape)
    noise = (tf.constant(gaussian_noise(seed, shape, stream=i + 1)) for i in range(plan.draws))
    z = tf.constant(gaussian_noise(seed, shape))
    conditioning = None if prompts is None else model.base.conditioning(prompts_for(len(batch), prompts))
    denoise = model.denoiser(conditioning, guidance=guidance)
    for done, z_s in enumerate(repaint(denoise, z, plan, x, tf.constant(unknown), noise), start=1):
        z = z_s
        if report is not None:
            report(done)
    check_finite(z)
    height, width = batch.shape[1:3]
    made = check_finite(model.decode(z))[:, :height, :width]
    result = to_uint8(np.where(batch[..., 3:] > 0.5, (made + 1.0) / 2.0, batch[..., :3]))
    return result[0] if np.ndim(image) == 3 else result


def unknown_latents(hidden: np.ndarray, factor: int) -> np.ndarray:
    """Unknown pixels, bool [B, f h, f w, 1] -> float32 [B, h, w, 1]: 1 where any of a latent's pixels is unknown."""
    count, height, width, _ = hidden.shape
    cells = hidden.reshape(count, height // factor, factor, width // factor, factor)
    return cells.max(axis=(2, 4))[..., np.newaxis].astype(np.float32)
