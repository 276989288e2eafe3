"""CoDi: conditional diffusion distillation in one stage (the paper's Algorithm 1)."""

from __future__ import annotations

from codi_tf import config
from codi_tf.adapters.adapted import AdaptedUNet
from codi_tf.checkpoints.base import Base
from codi_tf.core.errors import UserError
from codi_tf.diffusion import losses
from codi_tf.methods.method import Method
from codi_tf.methods.networks import copy_of, denoiser, dropped, encoded


class CodiMethod(Method):
    """Eq. 15 on the adapted network.

    Args:
        settings: the loss's switches.
        base: the pre-trained model; its UNet is the student's.
        student: the adapted network, theta.
        perceptual: the feature network of the perceptual guidance, images -> list of feature maps.
    """

    def __init__(self, settings: config.ConditionalDistillation, base: Base, student: AdaptedUNet, perceptual=None):
        self.settings, self.base, self.student, self.perceptual = settings, base, student, perceptual
        self.target = None
        self.frozen = None
        self.guidance = _guidance(settings, base, perceptual)

    @property
    def terms(self) -> tuple[str, ...]:
        """Names of the loss's terms."""
        kinds = {"consistency": self.settings.consistency, "guidance": self.settings.guidance}
        return tuple(name for name, kind in kinds.items() if kind != "none")

    def start_average(self) -> AdaptedUNet:
        """theta- <- theta: the target network.

        Raises:
            UserError: training is about to begin, and the perceptual guidance has no feature network.
        """
        if self.settings.guidance == "perceptual" and self.perceptual is None:
            raise UserError("guidance is 'perceptual': give CoDi a feature network, perceptual=network.maps")
        if self.settings.z_s == "frozen":
            self.frozen = copy_of(self.student, "frozen")
        self.target = copy_of(self.student, "average")
        return self.target

    def loss_terms(self, batch, draws):
        """{"consistency": [B], "guidance": [B]} of a batch; the rest of Algorithm 1 is `Trainer.train_step`."""
        settings, base = self.settings, self.base
        # Sample (x, c) ~ p_data, t ~ [1, T], eps ~ N(0, I).
        x, c, context = encoded(base, self.student, batch)
        context = dropped(context, base.context, draws.uniform(x, "drop"), 0.0, settings.drop_prompt)
        t = draws.times(x, low=1, high=base.schedule.num_steps, shared=settings.t == "shared")
        eps = draws.noise(x)
        # s <- t - delta; z_t; x_hat_t, eps_hat_t; z_s; eps_hat_s; d_eps + d_x: the pure function does the rest.
        return losses.conditional_consistency(
            denoiser(base, self.student, c, context),
            denoiser(base, self.target, c, context),
            base.schedule,
            x,
            eps,
            t,
            delta=settings.delta,
            z_s=settings.z_s,
            space=settings.consistency,
            guidance=self.guidance,
            guidance_weight=settings.guidance_weight,
            boundary=settings.boundary,
            frozen=None if self.frozen is None else denoiser(base, self.frozen, c, context),
        )


def _guidance(settings: config.ConditionalDistillation, base: Base, perceptual):
    if settings.guidance == "none":
        return None
    if settings.guidance == "latent":
        return losses.latent_distance
    if settings.guidance == "encoded":
        return losses.encoded_distance(base.decode, base.encode)
    if settings.guidance == "pixel":
        return losses.pixel_distance(base.decode)
    return losses.perceptual_distance(base.decode, perceptual)
