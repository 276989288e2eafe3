"""CoDi: conditional diffusion distillation in one stage (the paper's Algorithm 1)."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from codi_tf.adapters.adapted import AdaptedUNet
from codi_tf.checkpoints.base import Base
from codi_tf.core.errors import UserError
from codi_tf.diffusion import horizon, losses
from codi_tf.diffusion.process import Boundary, coefficients
from codi_tf.methods import METHODS
from codi_tf.methods.latent import LatentMethod
from codi_tf.methods.method import MethodSettings, check_delta, check_features, check_share
from codi_tf.methods.networks import copy_of, denoiser, dropped, encoded

DEFAULT_STEPS = 4


@METHODS.register("codi")
@dataclass(frozen=True)
class ConditionalDistillation(MethodSettings):
    """The loss of CoDi, Eq. 15, and its variants; the first value of each option is the default.

    The defaults are ours: with them the loss looks as far ahead as one step of an N-step sampler goes
    (docs/mathematics.md, "The horizon"). The paper's own are z_s own, consistency noise, guidance_weight 1, delta 1.

    Attributes:
        z_s: predicted (Algorithm 1), own (Eq. 14), frozen (the ODE of the network before training).
        consistency: the space of the consistency term: signal, noise, velocity, none.
        guidance: the distance of the guidance term: latent, encoded, pixel, perceptual (Fig. 2), none.
        steps: N, the number of network evaluations that the model is made for, from 1 to T, the training times. It
            gives the weight of the guidance term, delta N / T, for consistency signal and guidance latent. The terms of
            a network that predicts noise are multiplied by alpha_t^2, so that its gradients are as large as those of
            velocity. None: 4, unless guidance_weight is set.
        guidance_weight: the weight of the guidance term, at least 0, in place of steps: Eq. 15 as it is printed.
        t: shared (one t for the whole global batch, Fig. 7) or per_sample.
        delta: t - s in training times; s = max(t - delta, 0). None: T / 16.
        boundary: boundary scalings (Eq. 11, 17, 18): false, true (on the predicted noise and signal) or noise (on the
            noise alone, from which the signal follows: section 4.2).
        features: of the perceptual distance: folder of a feature network, or a file of LPIPS' weights.
        drop_prompt: the share of examples whose prompt is empty.
    """

    z_s: Literal["predicted", "own", "frozen"] = "predicted"
    consistency: Literal["signal", "noise", "velocity", "none"] = "signal"
    guidance: Literal["latent", "encoded", "pixel", "perceptual", "none"] = "latent"
    steps: int | None = None
    guidance_weight: float | None = None
    t: Literal["shared", "per_sample"] = "shared"
    delta: int | None = None
    boundary: Boundary = False
    features: str | None = None
    drop_prompt: float = 0.0

    def check(self) -> None:
        """Raises UserError for options out of their range or that do not go together, or a loss without a term."""
        check_share("method.drop_prompt", self.drop_prompt)
        if self.delta is not None:
            check_delta(self.delta)
        if self.consistency == "none" and self.guidance == "none":
            raise UserError("method.consistency and method.guidance are both 'none': nothing would be trained")
        check_features("method.guidance", self.guidance, self.features)
        self._check_weight()

    def _check_weight(self) -> None:
        """One of `steps` and `guidance_weight` decides; neither: 4 steps, which are then written down."""
        steps, weight = self.steps, self.guidance_weight
        if weight is not None and steps is not None:
            raise UserError(
                f"method.steps is {steps} and method.guidance_weight is {weight}: steps gives the weight, so set one, "
                "and the other to null"
            )
        if weight is not None:
            if weight < 0:
                raise UserError(f"method.guidance_weight is {weight}: it must be at least 0")
            return
        if (self.consistency, self.guidance) != ("signal", "latent"):
            raise UserError(
                f"method.guidance_weight is not set: method.steps gives it for consistency signal and guidance latent, "
                f"not for {self.consistency} and {self.guidance}; set it, 1 for Eq. 15 as printed, in place of steps"
            )
        if steps is not None and steps < 1:
            raise UserError(f"method.steps is {steps}: it must be from 1 to the number of training times")
        object.__setattr__(self, "steps", DEFAULT_STEPS if steps is None else steps)

    @property
    def sampling_steps(self) -> int | None:
        """N, the number of network evaluations that the model is made for."""
        return self.steps

    @property
    def has_target(self) -> bool:
        """Whether the loss needs theta-."""
        return self.consistency != "none"

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
        target: theta-, the moving average of the student; None without a consistency term.
        delta: t - s in training times.
        weight: lambda, of the guidance term.

    Raises:
        UserError: more `steps` than training times.
    """

    def __init__(self, settings: ConditionalDistillation, base: Base, student: AdaptedUNet, perceptual=None):
        super().__init__(settings, base, student, perceptual)
        self.guidance = _guidance(settings, base, perceptual)
        self.delta = horizon.default_delta(base.schedule) if settings.delta is None else settings.delta
        if settings.steps is None:
            assert settings.guidance_weight is not None  # one of the two is set
            self.weight = settings.guidance_weight
        else:
            self.weight = horizon.weight_for_steps(settings.steps, self.delta, base.schedule)

    @property
    def terms(self) -> tuple[str, ...]:
        """Names of the loss's terms that are not "none"."""
        kinds = {"consistency": self.settings.consistency, "guidance": self.settings.guidance}
        return tuple(name for name, kind in kinds.items() if kind != "none")

    def start_target(self) -> AdaptedUNet | None:
        """theta- <- theta, and the frozen network. Warns of settings with which training cannot work.

        Raises:
            UserError: the perceptual guidance has no feature network.
        """
        if self.settings.guidance == "perceptual" and self.perceptual is None:
            raise UserError("guidance is 'perceptual': give CoDi a feature network, perceptual=network.maps")
        for doubt in self.doubts():
            warnings.warn(doubt, stacklevel=2)
        if self.settings.z_s == "frozen":
            self.frozen = copy_of(self.student, "frozen")
        if self.settings.has_target:
            self.target = copy_of(self.student, "target")
        return self.target

    def doubts(self) -> list[str]:
        """See `horizon.doubts`; nothing is known of distances other than that of latents, and of boundary scalings."""
        settings = self.settings
        if settings.guidance not in ("latent", "none") or settings.boundary:
            return []
        return horizon.doubts(
            self.base.schedule,
            self.base.prediction_type,
            z_s=settings.z_s,
            space=settings.consistency,
            delta=self.delta,
            weight=self.weight if self.guidance else 0.0,
            steps=settings.steps or DEFAULT_STEPS,
        )

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
        target = self.student if self.target is None else self.target  # not called without a consistency term
        terms = losses.conditional_consistency(
            denoiser(base, self.student, c, conditioning),
            denoiser(base, target, c, conditioning),
            base.schedule,
            x,
            eps,
            t,
            delta=self.delta,
            z_s=settings.z_s,
            space=settings.consistency,
            guidance=self.guidance,
            guidance_weight=self.weight,
            boundary=settings.boundary,
            frozen=None if self.frozen is None else denoiser(base, self.frozen, c, conditioning),
        )
        if settings.steps is None or base.prediction_type != "epsilon":
            return terms
        # x_hat changes sigma / alpha times as much as eps_hat does: without this, high noise outweighs all other times.
        alpha_t, _ = coefficients(base.schedule, t, 1)
        return {name: alpha_t**2 * term for name, term in terms.items()}


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
