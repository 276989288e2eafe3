"""Images of one domain as images of another: to noise with a model of the one, and back with a model of the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from codi_tf.core.arguments import prompts_for, whole_number
from codi_tf.core.errors import UserError
from codi_tf.diffusion.conditioning import Conditioning
from codi_tf.diffusion.samplers.ddim import few_step_grid, reverse_grid
from codi_tf.diffusion.sampling import trajectory
from codi_tf.inference.base_model import BaseModel
from codi_tf.inference.generation import check_finite
from codi_tf.io.images import as_batch, pad_to_multiple, to_uint8
from codi_tf.io.weights import state_dict


class Transfer:
    """DDIM reversed with a's model, then DDIM with b's (Meng et al. 2023, section 4.3; Su et al. 2022).

    An undistilled model does either, with many steps. A distilled one does what it was distilled for: a of
    `method.reverse` leads to noise, b of stage 2 without it leads back. Both may be one model, with two prompts.

    Args:
        a: the model of the images' domain.
        b: the model of the other domain.
        names: of both, for messages.

    Raises:
        UserError: models of different latents or schedules; a b that leads to noise.
    """

    def __init__(self, a: BaseModel, b: BaseModel, names: Sequence[object] = ("A", "B")):
        first, second = names
        if b.is_reverse:
            raise UserError(f"{second} leads from images to noise: name it first, and a model that generates second")
        if not _same_latents(a, b):
            raise UserError(f"{first} and {second} have different latents: use models of one autoencoder")
        if not all(map(np.array_equal, a.base.schedule, b.base.schedule)):
            raise UserError(f"{first} and {second} have different noise schedules: use models of one schedule")
        self.a, self.b = a, b

    def carry(
        self,
        x,
        conditioning: Conditioning | None = None,
        reverse_conditioning: Conditioning | None = None,
        *,
        steps: int = 16,
        guidance: float = 1.0,
        reverse_guidance: float = 1.0,
        report: Callable[[int], None] | None = None,
    ) -> tf.Tensor:
        """Latents of a's domain -> latents of b's, float32 [B, h, w, 4].

        Args:
            x: clean latents.
            conditioning: of the prompts for b; None: of the empty one.
            reverse_conditioning: of those for a.
            steps: N, of each way: 2 N steps in all.
            guidance, reverse_guidance: of b and of a, 1 is none, see `BaseModel.denoiser`.
            report: is called with the number of steps that are done.

        Raises:
            UserError: steps out of their range; guidance without a prompt.
        """
        schedule = self.a.base.schedule
        steps = whole_number("steps", steps, 1, schedule.num_steps)
        there = self.a.denoiser(reverse_conditioning, guidance=reverse_guidance), reverse_grid(schedule, steps)
        back = self.b.denoiser(conditioning, guidance=guidance), few_step_grid(schedule, steps)
        z, done = x, 0
        for denoise, grid in (there, back):
            for _, z_next in trajectory(denoise, z, grid):
                z, done = z_next, done + 1
                if report is not None:
                    report(done)
        return z

    def generate(
        self,
        images: np.ndarray,
        prompts: str | Sequence[str] | None = None,
        reverse_prompts: str | Sequence[str] | None = None,
        **options,
    ) -> np.ndarray:
        """Images of b's domain for images of a's.

        Args:
            images: uint8, or float in [0, 1], [H, W, 3] or [B, H, W, 3], of any size.
            prompts, reverse_prompts: for b and for a, one for all images or one for each; None: none.
            options: of `carry`: steps, guidance, reverse_guidance, report.

        Returns:
            uint8, of the shape of the images.

        Raises:
            UserError: an unsuitable argument, see `carry`; an image larger than memory allows; a prompt for a base
                without a text encoder; a result that is not finite.
        """
        batch = as_batch("image", images)
        height, width = batch.shape[1:3]
        for model in (self.a, self.b):
            model.check_size(height, width)
        multiple = max(self.a.base.multiple, self.b.base.multiple)
        padded = np.stack([pad_to_multiple(image, multiple)[0] for image in batch])
        given = [
            None if texts is None else model.base.conditioning(prompts_for(len(batch), texts))
            for texts, model in ((prompts, self.b), (reverse_prompts, self.a))
        ]
        z = self.carry(self.a.encode(tf.constant(2.0 * padded - 1.0, tf.float32)), *given, **options)
        check_finite(z)
        made = check_finite(self.b.decode(z))[:, :height, :width]
        result = to_uint8((made + 1.0) / 2.0)
        return result[0] if np.ndim(images) == 3 else result


def _same_latents(a: BaseModel, b: BaseModel) -> bool:
    """Whether two models have one autoencoder: its arguments and its weights."""
    ours, theirs = a.base.vae, b.base.vae
    if ours is theirs:
        return True
    arguments = [{key: value for key, value in vae.get_config().items() if key != "name"} for vae in (ours, theirs)]
    if arguments[0] != arguments[1]:
        return False
    weights, others = state_dict(ours), state_dict(theirs)
    return weights.keys() == others.keys() and all(np.array_equal(weights[key], others[key]) for key in weights)
