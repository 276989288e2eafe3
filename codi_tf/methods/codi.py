"""CoDi: conditional diffusion distillation in one stage (the paper's Algorithm 1)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from codi_tf.adapters.adapted import AdaptedUNet
from codi_tf.checkpoints.base import Base
from codi_tf.core.errors import UserError
from codi_tf.diffusion import losses
from codi_tf.methods import METHODS
from codi_tf.methods.latent import LatentMethod
from codi_tf.methods.method import MethodSettings, check_delta, check_features, check_share
from codi_tf.methods.networks import copy_of, denoiser, dropped, encoded


@METHODS.register("codi")
@dataclass(frozen=True)
class ConditionalDistillation(MethodSettings):
    """The loss of CoDi, Eq. 15, and its variants; the first value of each option is the default.

    Attributes:
        z_s: own (Eq. 14), predicted (Algorithm 1), frozen (the ODE of the network before training).
        consistency: the space of the consistency term: noise, signal, velocity, none.
        guidance: the distance of the guidance term: latent, encoded, pixel, perceptual (Fig. 2), none.
        guidance_weight: the weight of the guidance term, at least 0.
        t: shared (one t for the whole global batch, Fig. 7) or per_sample.
        delta: t - s in training times; s = max(t - delta, 0).
        boundary: boundary scalings on the predicted noise and signal (Eq. 11, 17, 18).
        features: of the perceptual distance: folder of a feature network, or a file of LPIPS' weights.
        drop_prompt: the share of examples whose prompt is empty.
    """

    z_s: Literal["own", "predicted", "frozen"] = "own"
    consistency: Literal["noise", "signal", "velocity", "none"] = "noise"
    guidance: Literal["latent", "encoded", "pixel", "perceptual", "none"] = "latent"
    guidance_weight: float = 1.0
    t: Literal["shared", "per_sample"] = "shared"
    delta: int = 1
    boundary: bool = False
    features: str | None = None
    drop_prompt: float = 0.0

    def check(self) -> None:
        """Raises UserError for options out of their range, or a loss without a term."""
        check_share("method.drop_prompt", self.drop_prompt)
        check_delta(self.delta)
        if self.guidance_weight < 0:
            raise UserError(f"method.guidance_weight is {self.guidance_weight}: it must be at least 0")
        if self.consistency == "none" and self.guidance == "none":
            raise UserError("method.consistency and method.guidance are both 'none': nothing would be trained")
        check_features("method.guidance", self.guidance, self.features)

    def build(self, base: Base, student: AdaptedUNet, perceptual: Callable | None = None) -> CodiMethod:
        """The method on an adapted network."""
        return CodiMethod(self, base, student, perceptual)


class CodiMethod(LatentMethod):
    """Eq. 15 on the adapted network.

    Args:
        settings: the options of the loss.
        base: the pre-trained model; its UNet is the student's.
        student: the adapted network, theta.
        perceptual: the feature network of the perceptual guidance, images -> list of feature maps.

    Attributes:
        target: theta-, the moving average of the student.
    """

    target: AdaptedUNet

    def __init__(self, settings: ConditionalDistillation, base: Base, student: AdaptedUNet, perceptual=None):
        super().__init__(settings, base, student, perceptual)
        self.guidance = _guidance(settings, base, perceptual)

    @property
    def terms(self) -> tuple[str, ...]:
        """Names of the loss's terms that are not "none"."""
        kinds = {"consistency": self.settings.consistency, "guidance": self.settings.guidance}
        return tuple(name for name, kind in kinds.items() if kind != "none")

    def start_average(self) -> AdaptedUNet:
        """theta- <- theta: the target network.

        Raises:
            UserError: the perceptual guidance has no feature network.
        """
        if self.settings.guidance == "perceptual" and self.perceptual is None:
            raise UserError("guidance is 'perceptual': give CoDi a feature network, perceptual=network.maps")
        if self.settings.z_s == "frozen":
            self.frozen = copy_of(self.student, "frozen")
        self.target = copy_of(self.student, "average")
        return self.target

    def loss_terms(self, batch, draws):
        """{"consistency": float32 [B], "guidance": float32 [B]}, Eq. 15 on a batch; only the `terms` that are on.

        The rest of Algorithm 1 is `Trainer.update`.
        """
        settings, base = self.settings, self.base
        # Sample (x, c) ~ p_data, t ~ [1, T], eps ~ N(0, I).
        x, c, conditioning = encoded(base, self.student, batch)
        conditioning = dropped(conditioning, base.conditioning(), draws.uniform(x, "drop"), 0.0, settings.drop_prompt)
        t = draws.times(x, low=1, high=base.schedule.num_steps, shared=settings.t == "shared")
        eps = draws.noise(x)
        # s <- t - delta; z_t; x_hat_t, eps_hat_t; z_s; eps_hat_s; d_eps + d_x: the pure function does the rest.
        return losses.conditional_consistency(
            denoiser(base, self.student, c, conditioning),
            denoiser(base, self.target, c, conditioning),
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
            frozen=None if self.frozen is None else denoiser(base, self.frozen, c, conditioning),
        )


def _guidance(settings: ConditionalDistillation, base: Base, perceptual):
    if settings.guidance == "none":
        return None
    if settings.guidance == "latent":
        return losses.latent_distance
    if settings.guidance == "encoded":
        return losses.encoded_distance(base.decode, base.encode)
    if settings.guidance == "pixel":
        return losses.pixel_distance(base.decode)
    return losses.perceptual_distance(base.decode, perceptual)
