"""The diffusion loss: pre-training of a base, and conditional fine-tuning (the undistilled model)."""

from __future__ import annotations

from codi_tf import config
from codi_tf.adapters.adapted import AdaptedUNet
from codi_tf.checkpoints.base import Base
from codi_tf.diffusion import losses
from codi_tf.methods.method import Method
from codi_tf.methods.networks import copy_of, denoiser, dropped, encoded


class FinetuneMethod(Method):
    """||v - v_hat_theta(z_t, t, c)||^2 with one time per example. Without an adapter in the student: pre-training."""

    terms = ("denoising",)

    def __init__(self, settings: config.Finetune | config.Pretrain, base: Base, student: AdaptedUNet):
        self.settings, self.base, self.student = settings, base, student

    def start_average(self) -> AdaptedUNet:
        """The network that will generate, with the student's weights for now."""
        return copy_of(self.student, "average")

    def loss_terms(self, batch, draws):
        """{"denoising": [B]} of a batch."""
        settings = self.settings
        x, c, context = encoded(self.base, self.student, batch)
        if c is not None:
            u, share, told = draws.uniform(x, "drop"), settings.drop_condition, settings.drop_prompt
            c = dropped(c, 0.0, u, 0.0, share)
            first = share - min(share, told) / 2  # half of the smaller share loses both
            context = dropped(context, self.base.context, u, first, first + told)
        t = draws.times(x, low=0, high=self.base.schedule.num_steps, shared=False)
        eps = draws.noise(x)
        denoise = denoiser(self.base, self.student, c, context)
        return {"denoising": losses.denoising(denoise, self.base.schedule, x, eps, t, space=settings.space)}
