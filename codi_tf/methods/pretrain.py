"""Pre-training: an unconditional latent diffusion model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

from codi_tf.adapters.adapted import AdaptedUNet
from codi_tf.checkpoints.base import Base, make_unet
from codi_tf.checkpoints.stable_diffusion import load_stable_diffusion
from codi_tf.core.errors import UserError
from codi_tf.methods import METHODS
from codi_tf.methods.finetune import FinetuneMethod
from codi_tf.methods.latent import load_unconditional
from codi_tf.methods.method import MethodSettings, Space


@METHODS.register("pretrain")
@dataclass(frozen=True)
class Pretrain(MethodSettings):
    """Train an unconditional latent diffusion model on the latents of the autoencoder in `base`.

    Without a network, training continues the UNet of `base`. With another prediction_type that is the conversion of
    guided distillation (Meng et al. 2023, section 4.2): epsilon to v.

    Attributes:
        network: the arguments of `models.unet.UNet` (the keys of a diffusers unet/config.json); None: the base's UNet.
        scheduler: keys of a diffusers scheduler_config.json that replace the base's, as beta_schedule, prediction_type.
        space: the space of the squared error: noise, signal or velocity.
    """

    network: dict | None = None
    scheduler: dict = field(default_factory=dict)
    space: Space = "velocity"

    task_use: ClassVar = "none"

    def check(self) -> None:
        """Raises UserError for a new network without a schedule."""
        if self.network is not None and "beta_schedule" not in self.scheduler:
            raise UserError("method.scheduler.beta_schedule is not set, for example squaredcos_cap_v2")

    def load(self, path: str) -> tuple[Base, AdaptedUNet]:
        """The base with a new UNet, or with its own one, possibly in another parametrization.

        Raises:
            UserError: a folder that cannot be read; without a network, a bundle or a base without a UNet; with one,
                invalid arguments or a width that is not the text encoder's; a schedule that is not supported.
        """
        if self.network is None:
            base = load_unconditional(path)
            unet = base.unet
        else:
            base, unet = load_stable_diffusion(path), make_unet(self.network)
            if base.text_encoder is not None and base.text_encoder.hidden_size != unet.cross_attention_dim:
                raise UserError(
                    f"method.network.cross_attention_dim is {unet.cross_attention_dim}: the base's text encoder gives "
                    f"{base.text_encoder.hidden_size}; use that"
                )
        base = dataclasses.replace(base, unet=unet, scheduler={**base.scheduler, **self.scheduler}, path=None)
        return base, AdaptedUNet(unet, name="student")

    def build(self, base: Base, student: AdaptedUNet, perceptual: Callable | None = None) -> FinetuneMethod:
        """The diffusion loss, on a network without an adapter."""
        return FinetuneMethod(self, base, student)
