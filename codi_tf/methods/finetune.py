"""The diffusion loss: pre-training of a base, and conditional fine-tuning (the undistilled model)."""

from __future__ import annotations

from codi_tf import config, losses
from codi_tf.base import Base
from codi_tf.methods.networks import denoiser, draw_noise, draw_times, latents_of, moving_average_of
from codi_tf.models.adapter import AdaptedUNet


class FinetuneMethod:
    """||v - v_hat_theta(z_t, t, c)||^2 with one time per example. Without an adapter in the student: pre-training."""

    def __init__(self, settings: config.Finetune | config.Pretrain, base: Base, student: AdaptedUNet):
        self.settings, self.base, self.student = settings, base, student

    def start_average(self) -> AdaptedUNet:
        """The network that will generate, with the student's weights for now."""
        return moving_average_of(self.student)

    def loss_terms(self, batch, seed, step):
        """{"denoising": [B]} of a batch."""
        x, c = latents_of(self.base, self.student, batch)
        t = draw_times(x, seed, step, low=0, high=self.base.schedule.num_steps, shared=False)
        eps = draw_noise(x, seed, step)
        denoise = denoiser(self.base, self.student, c, self.base.context)
        return {"denoising": losses.denoising(denoise, self.base.schedule, x, eps, t, space=self.settings.space)}
