"""Consistency distillation of a fine-tuned model: the paper's CM-II."""

from __future__ import annotations

from codi_tf import config
from codi_tf.adapters.adapted import AdaptedUNet
from codi_tf.checkpoints.base import Base
from codi_tf.core.errors import UserError
from codi_tf.diffusion import losses
from codi_tf.methods.method import Method
from codi_tf.methods.networks import copy_of, denoiser, encoded


class ConsistencyMethod(Method):
    """d(f_{theta-}(z_s, s, c), f_theta(z_t, t, c)), z_s by the DDIM step of the frozen teacher (Song et al. 2023).

    Args:
        settings: the loss's switches.
        base: the model that was fine-tuned; its UNet is the student's.
        student: the fine-tuned network: teacher, student and target are the same at the start.
        perceptual: the feature network of the perceptual distance, images -> list of feature maps.
    """

    terms = ("consistency",)

    def __init__(self, settings: config.Consistency, base: Base, student: AdaptedUNet, perceptual=None):
        self.settings, self.base, self.student, self.perceptual = settings, base, student, perceptual
        self.target = None
        self.frozen = None

    def start_average(self) -> AdaptedUNet:
        """theta- <- theta, and the teacher is kept.

        Raises:
            UserError: the perceptual distance has no feature network.
        """
        if self.settings.distance == "perceptual" and self.perceptual is None:
            raise UserError("distance is 'perceptual': give CoDi a feature network, perceptual=network.maps")
        self.frozen = copy_of(self.student, "frozen")
        self.target = copy_of(self.student, "average")
        return self.target

    def loss_terms(self, batch, draws):
        """{"consistency": [B]} of a batch."""
        settings, base = self.settings, self.base
        x, c, context = encoded(base, self.student, batch)
        t = draws.times(x, low=1, high=base.schedule.num_steps, shared=settings.t == "shared")
        distance = losses.latent_distance
        if settings.distance == "perceptual":
            distance = losses.perceptual_distance(base.decode, self.perceptual)
        return losses.conditional_consistency(
            denoiser(base, self.student, c, context),
            denoiser(base, self.target, c, context),
            base.schedule,
            x,
            draws.noise(x),
            t,
            delta=settings.delta,
            z_s="frozen",
            space="signal",
            distance=distance,
            guidance=None,
            boundary=settings.boundary,
            frozen=denoiser(base, self.frozen, c, context),
        )
