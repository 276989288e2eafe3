"""Pre-training: a latent diffusion model without a condition image, unconditional or text-to-image."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import keras

from codi_tf.adapters.adapted import AdaptedUNet
from codi_tf.checkpoints.base import Base, make_network, make_unet
from codi_tf.checkpoints.kinds import PIXELS, TEXT_ENCODER
from codi_tf.checkpoints.made_for import MadeFor
from codi_tf.checkpoints.networks import check_numbers
from codi_tf.checkpoints.stable_diffusion import load_stable_diffusion
from codi_tf.checkpoints.tokenizer import LENGTH
from codi_tf.core.errors import UserError
from codi_tf.core.precision import built_in, current_compute
from codi_tf.diffusion import losses
from codi_tf.diffusion.conditioning import Conditioning
from codi_tf.io.weights import make_copy
from codi_tf.methods import METHODS
from codi_tf.methods.batches import require
from codi_tf.methods.latent import LatentMethod, load_unconditional
from codi_tf.methods.method import MethodSettings, Space, check_share
from codi_tf.methods.networks import clone_unet, denoiser, dropped, encoded
from codi_tf.models.pixels import PixelFolding
from codi_tf.models.text_encoder import TextEncoder
from codi_tf.models.unet import UNet

VOCABULARY = 1024  # tokens of a new text encoder: the 512 of bytes, start and end, and a few hundred words


@METHODS.register("pretrain")
@dataclass(frozen=True)
class Pretrain(MethodSettings):
    """Train a latent diffusion model on the latents of the autoencoder in `base`: text-to-image with `data.prompts`.

    Without a network, training continues the UNet of `base`. With another prediction_type that is the conversion of
    guided distillation (Meng et al. 2023, section 4.2): epsilon to v.

    With `autoencoder` it is trained on pixels instead, without a base.

    Attributes:
        network: the arguments of `models.unet.UNet` (the keys of a diffusers unet/config.json), with the channels of
            the base's latents; None: the base's UNet. With `num_class_embeds`, one more than there are classes, it is
            conditioned on classes (`data.classes`).
        scheduler: keys of a diffusers scheduler_config.json that replace the base's, as beta_schedule, prediction_type.
        autoencoder: the arguments of `models.pixels.PixelFolding` for a model in pixel space, as {"patch_size": 4}, in
            place of `base`; None: the autoencoder of `base`. With a patch size above 1 let the network predict the
            signal (`scheduler.prediction_type: sample`).
        space: the space of the squared error: noise, signal or velocity.
        max_weight: the largest weight of the signal's squared error, for networks that predict the signal: the error in
            v weighs it by 1 / sigma_t^2, which is endless where t is near 0. None: as it is.
        text_encoder: the arguments of `models.text_encoder.TextEncoder` (the keys of a transformers CLIPTextConfig) for
            a new one, which is trained with the UNet; None: the base's, if it has one. Its vocabulary, of at most
            vocab_size tokens (1,024 unless it is given), is learned from the prompts of the data.
        train_text_encoder: whether the base's text encoder is trained, too; otherwise it stays as it is.
        drop_prompt: the share of examples whose prompt is empty, and whose class is the null class, for guidance.
    """

    network: dict | None = None
    scheduler: dict = field(default_factory=dict)
    autoencoder: dict | None = None
    space: Space = "velocity"
    max_weight: float | None = None
    text_encoder: dict | None = None
    train_text_encoder: bool = False
    drop_prompt: float = 0.0

    task_use: ClassVar = "none"

    def check(self) -> None:
        """Raises UserError for a new network without a schedule, or an option out of its range."""
        if self.network is not None and "beta_schedule" not in self.scheduler:
            raise UserError("method.scheduler.beta_schedule is not set, for example squaredcos_cap_v2")
        check_share("method.drop_prompt", self.drop_prompt)
        if self.autoencoder is not None and self.network is None:
            raise UserError("method.network is not set: a model in pixel space needs a new one")
        if self.max_weight is not None and self.max_weight <= 0:
            raise UserError(f"method.max_weight is {self.max_weight}: it must be positive")

    @property
    def needs_base(self) -> bool:
        """Whether the autoencoder comes from `base`."""
        return self.autoencoder is None

    @property
    def learns_words(self) -> bool:
        """Whether the base gets a new text encoder, whose vocabulary comes from the data."""
        return self.text_encoder is not None

    @property
    def trains_text(self) -> bool:
        """Whether a text encoder is trained, so that embeddings of prompts do not stay as they are."""
        return self.learns_words or self.train_text_encoder

    def load(self, path: str | None) -> tuple[Base, PromptedUNet]:
        """The base with a new UNet, or its own one, possibly in another parametrization, and with a text encoder.

        Raises:
            UserError: a folder that cannot be read; a base beside `autoencoder`, or invalid arguments in it; without a
                network, a bundle or a base without a UNet; with one, invalid arguments or a width that is not the text
                encoder's; a schedule that is not supported; no text encoder where one is to be trained.
        """
        if self.autoencoder is not None:
            if path is not None:
                raise UserError(f"base is {path}, but method.autoencoder is a model's of pixels: set one of them")
            base = Base(None, make_pixels(self.autoencoder), {"beta_schedule": "squaredcos_cap_v2"})
            unet = _new_unet(self.network or {}, base)
        elif self.network is None:
            assert path is not None
            base = load_unconditional(path)
            unet = base.unet
            assert unet is not None
        else:
            base = load_stable_diffusion(path, compute=current_compute())
            unet = _new_unet(self.network, base)
        if self.text_encoder is not None:
            encoder = make_text_encoder(self.text_encoder)
            base = dataclasses.replace(base, text_encoder=encoder, tokenizer=None)
        text = base.text_encoder
        if self.trains_text and text is None:
            raise UserError(
                f"method.train_text_encoder is true, but base {path} has no text encoder: set method.text_encoder"
            )
        if text is not None and text.hidden_size != unet.cross_attention_dim:
            whose = "method.text_encoder" if self.learns_words else "the base's text encoder"
            raise UserError(
                f"method.network.cross_attention_dim is {unet.cross_attention_dim}: {whose} gives {text.hidden_size}; "
                "use that"
            )
        scheduler = {**base.scheduler, **self.scheduler}
        base = dataclasses.replace(base, unet=unet, scheduler=scheduler, path=None, made_for=MadeFor())
        return base, PromptedUNet(unet, text if self.trains_text else None, name="student")

    def build(self, base: Base, student: PromptedUNet, perceptual: Callable | None = None) -> PretrainMethod:
        """The diffusion loss, on a network without an adapter."""
        return PretrainMethod(self, base, student)


class PromptedUNet(AdaptedUNet):
    """A UNet without an adapter, and the text encoder that is trained with it, or None."""

    def __init__(self, unet: UNet, text_encoder: TextEncoder | None = None, **kwargs):
        super().__init__(unet, **kwargs)
        self.text_encoder = text_encoder

    def trained_parts(self) -> list[keras.Model]:
        """The UNet and the text encoder."""
        return [self.unet] if self.text_encoder is None else [self.unet, self.text_encoder]

    def copy(self, name: str) -> PromptedUNet:
        """Both networks again, with the same weights."""
        unet, text = clone_unet(self.unet, f"{name}_unet"), self.text_encoder
        if text is None:
            return PromptedUNet(unet, name=name)
        arguments = {key: value for key, value in text.get_config().items() if key != "name"}
        with built_in(text.dtype_policy):
            copied = make_copy(lambda: make_network(TextEncoder, arguments, f"{name}_text_encoder"), text)
        return PromptedUNet(unet, copied, name=name)

    def get_config(self):
        raise NotImplementedError("it belongs to a training, whose result is a base")


class PretrainMethod(LatentMethod):
    """||v - v_hat_theta(z_t, t, prompt)||^2 with one time per example; the prompt is empty where there is none."""

    settings: Pretrain
    student: PromptedUNet
    terms = ("denoising",)

    def check_batch(self, batch) -> None:
        """Raises UserError as `LatentMethod` does, and for a batch without the prompts that are to be learned."""
        super().check_batch(batch)
        if self.student.text_encoder is not None:
            require(batch, "tokens")

    def loss_terms(self, batch, draws):
        """{"denoising": [B]} of a batch."""
        text, base, settings = self.student.text_encoder, self.base, self.settings
        if text is None:
            empty = base.conditioning()
        else:
            batch = {**batch, "context": text(batch["tokens"])}
            empty = Conditioning(text(base.tokenizer([""])), base.class_labels(None))
        x, _, conditioning = encoded(base, self.student, batch)
        conditioning = dropped(conditioning, empty, draws.uniform(x, "drop"), 0.0, settings.drop_prompt)
        t = draws.times(x, low=0, high=base.schedule.num_steps, shared=False)
        eps = draws.noise(x)
        denoise = denoiser(base, self.student, None, conditioning)
        options = {"space": settings.space, "max_weight": settings.max_weight}
        return {"denoising": losses.denoising(denoise, base.schedule, x, eps, t, **options)}

    def start_average(self) -> PromptedUNet:
        """The networks that generate after training; they start with the student's weights."""
        return self.student.copy("average")

    def result(self, average: PromptedUNet) -> Base:
        """The base with the trained networks."""
        text = self.base.text_encoder if average.text_encoder is None else average.text_encoder
        return dataclasses.replace(self.base, unet=average.unet, text_encoder=text)


def _new_unet(config: dict, base: Base) -> UNet:
    """A UNet for the latents of a base. Raises UserError for one of other channels."""
    channels = dict.fromkeys(("in_channels", "out_channels"), base.vae.latent_channels)
    for name, count in channels.items():
        if config.get(name, count) != count:
            raise UserError(f"method.network.{name} is {config[name]}: latents of the base have {count} channels")
    return make_unet({**channels, **config})


def make_pixels(config: dict) -> PixelFolding:
    """The autoencoder of `method.autoencoder`. Raises UserError for invalid arguments."""
    check_numbers(PIXELS, config, Path("method.autoencoder"))
    return make_network(PixelFolding, config, "vae")


def make_text_encoder(config: dict) -> TextEncoder:
    """A text encoder with fresh weights, from `method.text_encoder`. Raises UserError for invalid arguments."""
    arguments = {"vocab_size": VOCABULARY, **config}
    check_numbers(TEXT_ENCODER, arguments, Path("method.text_encoder"))
    longest = arguments.get("max_position_embeddings", LENGTH)
    if longest < LENGTH:
        raise UserError(f"method.text_encoder.max_position_embeddings is {longest}: prompts have {LENGTH} tokens")
    return make_network(TextEncoder, arguments, "text_encoder")
