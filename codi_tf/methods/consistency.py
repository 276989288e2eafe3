"""Consistency distillation of a fine-tuned model: the paper's CM-II."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

from codi_tf.adapters.adapted import AdaptedUNet
from codi_tf.checkpoints.base import Base
from codi_tf.core.errors import UserError
from codi_tf.diffusion import losses
from codi_tf.diffusion.process import Boundary
from codi_tf.methods import METHODS
from codi_tf.methods.latent import LatentMethod
from codi_tf.methods.method import MethodSettings, check_delta, check_features
from codi_tf.methods.networks import copy_of, denoiser, encoded


@METHODS.register("consistency")
@dataclass(frozen=True)
class Consistency(MethodSettings):
    """Consistency distillation (Song et al. 2023) of the fine-tuned model in `base`, a bundle: the paper's CM-II.

    With `adaptation.train: adapter` it is CM-II (frozen).

    Attributes:
        distance: latent (squared error) or perceptual.
        delta: t - s in training times: the length of the teacher's DDIM step.
        t: per_sample (as in the literature) or shared.
        boundary: scalings that make the model the identity at t = 0, as those of CoDi: false, true or noise. A model
            that predicts v nearly is without them.
        features: of the perceptual distance: folder of a feature network, or a file of LPIPS' weights.
    """

    distance: Literal["latent", "perceptual"] = "latent"
    delta: int = 1
    t: Literal["per_sample", "shared"] = "per_sample"
    boundary: Boundary = False
    features: str | None = None

    starts_from: ClassVar = ("finetune",)
    has_target: ClassVar = True
    sampler: ClassVar = "consistency"  # each evaluation leads to the data, and fresh noise back

    def check(self) -> None:
        """Raises UserError for options out of their range."""
        check_delta(self.delta)
        check_features("method.distance", self.distance, self.features)

    def build(self, base: Base, student: AdaptedUNet, perceptual: Callable | None = None) -> ConsistencyMethod:
        """The method on a fine-tuned network."""
        return ConsistencyMethod(self, base, student, perceptual)


class ConsistencyMethod(LatentMethod):
    """d(f_{theta-}(z_s, s, c), f_theta(z_t, t, c)), z_s by the DDIM step of the frozen teacher (Song et al. 2023).

    Args:
        settings: the options of the loss.
        base: the model that was fine-tuned; its UNet is the student's.
        student: the fine-tuned network: teacher, student and target are the same at the start.
        perceptual: the feature network of the perceptual distance, images -> list of feature maps.

    Attributes:
        target: theta-, the moving average of the student.
        frozen: the teacher.
    """

    terms = ("consistency",)
    target: AdaptedUNet

    def start_target(self) -> AdaptedUNet:
        """theta- <- theta, and the teacher: a second copy.

        Raises:
            UserError: the perceptual distance has no feature network.
        """
        if self.settings.distance == "perceptual" and self.perceptual is None:
            raise UserError("distance is 'perceptual': give CoDi a feature network, perceptual=network.maps")
        self.frozen = copy_of(self.student, "frozen")
        self.target = copy_of(self.student, "target")
        return self.target

    def loss_terms(self, batch, draws):
        """{"consistency": float32 [B]} of a batch, see `losses.conditional_consistency`."""
        settings, base = self.settings, self.base
        x, c, conditioning = encoded(base, self.student, batch)
        t = draws.times(x, low=1, high=base.schedule.num_steps, shared=settings.t == "shared")
        distance = losses.latent_distance
        if settings.distance == "perceptual":
            assert self.perceptual is not None
            distance = losses.perceptual_distance(base.decode, self.perceptual)
        return losses.conditional_consistency(
            denoiser(base, self.student, c, conditioning),
            denoiser(base, self.target, c, conditioning),
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
            frozen=denoiser(base, self.frozen, c, conditioning),
        )
