"""A pre-trained latent diffusion model: its networks, its noise schedule and the scale of its latents."""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from codi_tf.checkpoints.lora import merged_networks
from codi_tf.checkpoints.made_for import NO_GUIDANCE, MadeFor
from codi_tf.core.arguments import as_prompts
from codi_tf.core.errors import UserError
from codi_tf.core.showing import clipped
from codi_tf.diffusion.conditioning import Conditioning
from codi_tf.diffusion.process import Schedule
from codi_tf.diffusion.scheduler_config import make_schedule_of
from codi_tf.models.autoencoder import AutoencoderKL
from codi_tf.models.pixels import PixelFolding
from codi_tf.models.tiny_decoder import TinyDecoder
from codi_tf.models.unet import UNet

if TYPE_CHECKING:
    from codi_tf.checkpoints.tokenizer import Tokenizer
    from codi_tf.models.text_encoder import TextEncoder

Autoencoder: TypeAlias = AutoencoderKL | PixelFolding
PROMPT_LENGTH = 77  # CLIP's
SCHEDULER = ("scheduler", "scheduler_config.json")


@dataclass
class Base:
    """The parts of a latent diffusion model.

    Attributes:
        unet: z_t [B, h, w, C], t int [B], context [B, M, D] -> [B, h, w, 4], in the checkpoint's parametrization; None
            for an autoencoder alone.
        vae: images [B, f h, f w, 3] in [-1, 1] <-> latents [B, h, w, 4], unscaled; a `PixelFolding` in pixel space.
        scheduler: the contents of the checkpoint's scheduler_config.json.
        path: the diffusers folder that it was read from unchanged; None for other sources, or if options changed it.
        text_encoder: token ids int32 [B, 77] -> [B, 77, D]; None for a base without prompts.
        tokenizer: list[str] -> token ids int32 [B, 77]; None if it is unknown.
        decoder: a small decoder in place of the autoencoder's; it is not saved with the base.
        made_for: how it makes images from prompts unless told otherwise.

    Raises:
        UserError: the scheduler is not supported, or the decoder is for other latents.
    """

    unet: UNet | None
    vae: Autoencoder
    scheduler: dict
    path: Path | None = None
    text_encoder: TextEncoder | None = None
    tokenizer: Tokenizer | None = None
    decoder: TinyDecoder | None = None
    made_for: MadeFor = MadeFor()

    def __post_init__(self):
        if self.decoder is not None:
            check_decoder(self.decoder, self.vae)
        if self.unconditional and self.made_for.guidance is None:  # there is nothing to be guided by
            self.made_for = dataclasses.replace(self.made_for, guidance=NO_GUIDANCE)
        self.schedule: Schedule = make_schedule_of(self.scheduler)
        self.prediction_type: str = self.scheduler.get("prediction_type", "epsilon")

    def encode(self, images):
        """Images [B, f h, f w, 3] in [-1, 1] -> scaled latents float32 [B, h, w, 4], the mean of the posterior."""
        return self.vae.encode(images).mean * self.vae.scaling_factor

    def decode(self, latents):
        """Scaled latents [B, h, w, 4] -> images float32 [B, f h, f w, 3], about [-1, 1], not clipped."""
        if self.decoder is not None:
            return self.decoder(latents)
        return self.vae.decode(latents / self.vae.scaling_factor)

    def embed_tokens(self, tokens) -> np.ndarray:
        """Token ids int32 [B, 77] -> their embeddings, float32 [B, 77, D]: the text encoder's last hidden states."""
        assert self.text_encoder is not None
        with tf.init_scope():  # also while a function is being traced
            return ops.convert_to_numpy(self.text_encoder(tokens))

    def embed(self, prompts: str | Sequence[str]) -> np.ndarray:
        """Prompts -> their embeddings, float32 [B, 77, D]: the text encoder's last hidden states.

        Raises:
            UserError: the base has no text encoder or no tokenizer, there is no prompt, or a prompt is not a str.
        """
        prompts = as_prompts(prompts)
        if self.text_encoder is None:
            raise UserError(f"prompt {prompts[0]!r}: this model has no text encoder; leave the prompt out")
        if self.tokenizer is None:
            raise UserError(
                "this model has no tokenizer: name the folder of its vocab.json and merges.txt "
                "(load_stable_diffusion(..., tokenizer=FOLDER))"
            )
        return self.embed_tokens(self.tokenizer(prompts))

    def warn_of_unknown_words(self, prompts: Sequence[str]) -> None:
        """Name the words of prompts that the base was not trained with, where its tokenizer knows which it was."""
        if self.tokenizer is None:
            return
        unknown = list(dict.fromkeys(word for prompt in prompts for word in self.tokenizer.unknown_words(prompt)))
        if unknown:
            names = clipped(", ".join(map(repr, unknown)), 200)
            warnings.warn(f"the base was trained without these words of the prompt: {names}", stacklevel=3)

    @functools.cached_property
    def context(self) -> np.ndarray:
        """The embedding of the empty prompt, float32 [1, 77, D]; zeros for a base without a text encoder.

        Raises:
            UserError: the base has a text encoder and no tokenizer.
        """
        if self.text_encoder is None:
            assert self.unet is not None
            return np.zeros((1, PROMPT_LENGTH, self.unet.cross_attention_dim or 1), "float32")
        return self.embed([""])

    def conditioning(
        self, prompts: str | Sequence[str] | None = None, labels: int | Sequence[int] | None = None
    ) -> Conditioning:
        """What the networks take of prompts and classes, NumPy arrays [B, ...].

        None is the empty prompt or the null class, [1, ...].

        Raises:
            UserError: see `embed` and `class_labels`.
        """
        return Conditioning(self.context if prompts is None else self.embed(prompts), self.class_labels(labels))

    def load_lora(self, path: str | Path, scale: float = 1.0) -> Base:
        """A base with a LoRA merged into its UNet, and into its text encoder where the LoRA has a part for it.

        This base stays as it is. `base.load_lora(A).load_lora(B, 0.5)` merges two.

        Args:
            path: a .safetensors file in a spelling of diffusers, PEFT or kohya; or the folder of one, as a bundle.
            scale: 1 is as the LoRA was trained, 0 is without it.

        Raises:
            UserError: no LoRA, one for another base, or of a kind that is not supported; a scale that is not finite.
        """
        parts = merged_networks({"unet": self.unet, "text_encoder": self.text_encoder}, path, scale)
        return dataclasses.replace(self, **parts, path=None)

    @property
    def unconditional(self) -> bool:
        """Whether the UNet takes neither prompts nor classes."""
        return self.unet is not None and self.unet.cross_attention_dim is None and not self.num_classes

    @property
    def num_classes(self) -> int:
        """The number of classes that the UNet is conditioned on, without the null class; 0 for none."""
        return 0 if self.unet is None else max((self.unet.num_class_embeds or 0) - 1, 0)

    def class_labels(self, labels: int | Sequence[int] | None) -> np.ndarray | None:
        """Labels as the networks take them, int32 [B]; None: the null class, [1], or None without classes.

        Raises:
            UserError: a label of a base without classes, or one that is no whole number in their range.
        """
        if not self.num_classes:
            if labels is not None:
                raise UserError(f"labels is {clipped(str(labels), 60)}: this model has no classes; leave it out")
            return None
        if labels is None:
            return np.array([self.num_classes], np.int32)
        array = np.atleast_1d(np.asarray(labels))
        whole = array.ndim == 1 and array.dtype.kind in "iu" and array.size
        if not whole or array.min() < 0 or array.max() >= self.num_classes:
            raise UserError(
                f"labels is {clipped(str(labels), 60)}: this model has the classes 0 to {self.num_classes - 1}"
            )
        return array.astype(np.int32)

    @property
    def multiple(self) -> int:
        """The height and width of an image must be multiples of this number."""
        levels = 1 if self.unet is None else len(self.unet.block_out_channels)
        return self.vae.factor * 2 ** (levels - 1)


def with_loras(base: Base, loras: Iterable[tuple[str | Path, float]]) -> Base:
    """A base with LoRAs merged, (path, scale) each: see `Base.load_lora`. Without any it is the base itself."""
    for path, scale in loras:
        base = base.load_lora(path, scale)
    return base


def check_takes_latents(base: Base, whose: str, remedy: str) -> None:
    """Raises UserError for a UNet whose input is more than the latents; `remedy` ends the line."""
    channels, latents = base.unet and base.unet.in_channels, base.vae.latent_channels
    if channels is not None and channels != latents:
        raise UserError(f"{whose} UNet takes {channels} channels, a latent has {latents}: {remedy}")


def check_decoder(decoder: TinyDecoder, vae: Autoencoder) -> None:
    """Raises UserError for a small decoder that does not fit the latents of an autoencoder."""
    for what, theirs, ours in (
        ("latents have {} channels", decoder.latent_channels, vae.latent_channels),
        ("latents are {} times smaller than images", decoder.factor, vae.factor),
        ("images have {} channels", decoder.out_channels, vae.out_channels),
    ):
        if theirs != ours:
            raise UserError(
                f"the decoder's {what.format(theirs)}, the autoencoder's {ours}: take one made for this base"
            )


def make_unet(config: dict, name: str = "unet") -> UNet:
    """A UNet with fresh weights, from the keys of a diffusers unet/config.json. Raises UserError for an invalid one."""
    return make_network(UNet, config, name)


def make_autoencoder(config: dict, name: str = "vae") -> AutoencoderKL:
    """An autoencoder with fresh weights, from the keys of a diffusers vae/config.json.

    Raises:
        UserError: not the configuration of an autoencoder.
    """
    return make_network(AutoencoderKL, config, name)


def measure_scale(vae: AutoencoderKL, images) -> float:
    """The scaling_factor that gives the latents of images [N, H, W, 3] in [-1, 1] a standard deviation of 1."""
    return float(1.0 / ops.convert_to_numpy(ops.std(vae.encode(images).mean)))


def make_network(kind: type[keras.Model], config: dict, name: str) -> keras.Model:
    """A built network of a class with these arguments. Raises UserError for invalid ones."""
    try:
        network = kind(name=name, **config)
    except (TypeError, ValueError) as error:
        raise UserError(f"{name}: not a configuration of {kind.__name__} ({error})") from None
    network.build()
    return network
