"""Conditional fine-tuning: the undistilled model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from codi_tf.adapters.adapted import AdaptedUNet
from codi_tf.checkpoints.base import Base
from codi_tf.core.errors import UserError
from codi_tf.diffusion import losses
from codi_tf.methods import METHODS
from codi_tf.methods.latent import LatentMethod
from codi_tf.methods.method import MethodSettings, Space, check_share
from codi_tf.methods.networks import denoiser, dropped, encoded


@METHODS.register("finetune")
@dataclass(frozen=True)
class Finetune(MethodSettings):
    """Conditional diffusion fine-tuning of the adapted network: the undistilled model ("LDM" in the paper's tables).

    Attributes:
        space: the space of the squared error.
        drop_condition: the share of examples whose condition is all 0, for guidance by the condition.
        drop_prompt: the share of examples whose prompt is empty, for guidance by the prompt. Half of the smaller
            share loses both: with 0.1 and 0.1 it is 5 % each and 5 % both, as in InstructPix2Pix.
    """

    space: Space = "velocity"
    drop_condition: float = 0.0
    drop_prompt: float = 0.0

    def check(self) -> None:
        """Raises UserError for shares out of their range."""
        check_share("method.drop_condition", self.drop_condition)
        check_share("method.drop_prompt", self.drop_prompt)
        if self.drop_condition + self.drop_prompt > 1:
            raise UserError("method.drop_condition and method.drop_prompt are more than 1 together: lower one of them")

    def build(self, base: Base, student: AdaptedUNet, perceptual: Callable | None = None) -> FinetuneMethod:
        """The method on an adapted network."""
        return FinetuneMethod(self, base, student)


class FinetuneMethod(LatentMethod):
    """||v - v_hat_theta(z_t, t, c)||^2 with one time per example."""

    terms = ("denoising",)

    def loss_terms(self, batch, draws):
        """{"denoising": float32 [B]} of a batch, see `losses.denoising`."""
        settings = self.settings
        x, c, conditioning = encoded(self.base, self.student, batch)
        u, without_c, without_prompt = draws.uniform(x, "drop"), settings.drop_condition, settings.drop_prompt
        c = dropped(c, 0.0, u, 0.0, without_c)
        first = without_c - min(without_c, without_prompt) / 2  # half of the smaller share loses both
        conditioning = dropped(conditioning, self.base.conditioning(), u, first, first + without_prompt)
        t = draws.times(x, low=0, high=self.base.schedule.num_steps, shared=False)
        eps = draws.noise(x)
        denoise = denoiser(self.base, self.student, c, conditioning)
        return {"denoising": losses.denoising(denoise, self.base.schedule, x, eps, t, space=settings.space)}
