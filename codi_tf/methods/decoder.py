"""Training of a small decoder of a frozen autoencoder's latents."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from keras import ops

from codi_tf.checkpoints.base import Base, check_decoder, make_network
from codi_tf.checkpoints.stable_diffusion import load_stable_diffusion
from codi_tf.checkpoints.tiny_decoder import save_decoder
from codi_tf.core.errors import UserError
from codi_tf.core.precision import current_compute
from codi_tf.diffusion.losses import absolute_distance, latent_distance, perceptual_distance
from codi_tf.io.weights import copy_weights
from codi_tf.methods import METHODS
from codi_tf.methods.batches import check_images, require
from codi_tf.methods.method import Method, MethodSettings, check_perceptual
from codi_tf.models.tiny_decoder import TinyDecoder

DISTANCES = {"absolute": absolute_distance, "squared": latent_distance}


@METHODS.register("decoder")
@dataclass(frozen=True)
class Decoder(MethodSettings):
    """Train a small decoder for the latents of the autoencoder in `base`, which stays as it is.

    The loss is d(y, D(z)) + perceptual_weight * sum_l ||F_l(y) - F_l(D(z))||^2, z the scaled latent of an image.

    Attributes:
        network: the arguments of `models.tiny_decoder.TinyDecoder` (keys of an AutoencoderTiny's config.json).
        target: y, the "image" itself, or its "decoding", what the autoencoder's own decoder makes of z.
        distance: d in pixels, "squared" or "absolute".
        perceptual_weight: the weight of the perceptual term, at least 0; 0: no such term.
        features: F, the folder of a feature network or a file of LPIPS' weights (`perception.lpips`).
    """

    network: dict
    target: Literal["image", "decoding"] = "image"
    distance: Literal["squared", "absolute"] = "squared"
    perceptual_weight: float = 0.0
    features: str | None = None

    task_use: ClassVar = "none"
    examples: ClassVar = "images"
    reconstructs: ClassVar = True

    def check(self) -> None:
        """Raises UserError for a negative weight, or one of weight and features without the other."""
        check_perceptual(self.perceptual_weight, self.features)

    def load(self, path: str) -> tuple[Base, TinyDecoder]:
        """The autoencoder, as a base without a UNet, and the new decoder.

        Raises:
            UserError: arguments of `network` that are invalid, or for other latents; a base that cannot be read.
        """
        decoder = make_network(TinyDecoder, self.network, "decoder")
        base = load_stable_diffusion(path, compute=current_compute())
        base = dataclasses.replace(base, unet=None, text_encoder=None, tokenizer=None)
        try:
            check_decoder(decoder, base.vae)
        except UserError as error:
            raise UserError(f"method.network: {error}") from None
        return base, decoder

    def build(self, base: Base, student: TinyDecoder, perceptual: Callable | None = None) -> DecoderMethod:
        """The method on a decoder."""
        return DecoderMethod(self, base, student, perceptual)


class DecoderMethod(Method):
    """d(y, D(z)) + perceptual_weight * sum_l ||F_l(y) - F_l(D(z))||^2, z a latent, y as in `settings.target`.

    Args:
        settings: the loss.
        base: its autoencoder encodes, and decodes for the target "decoding"; it is not trained.
        student: D.
        perceptual: F, images -> list of feature maps; for a perceptual_weight above 0.
    """

    def __init__(self, settings: Decoder, base: Base, student: TinyDecoder, perceptual=None):
        self.settings, self.base, self.student = settings, base, student
        self.multiple = base.multiple
        self.distance, self.perceptual = DISTANCES[settings.distance], None
        if settings.perceptual_weight:
            assert perceptual is not None  # the options go together
            self.perceptual = perceptual_distance(lambda images: images, perceptual)

    @property
    def terms(self) -> tuple[str, ...]:
        """Names of the loss's terms."""
        return ("pixels",) if self.perceptual is None else ("pixels", "perceptual")

    def start_average(self) -> TinyDecoder:
        """A second decoder with the student's weights."""
        average = make_network(TinyDecoder, self.settings.network, "average_decoder")
        copy_weights(self.student, average)
        return average

    def check_batch(self, batch) -> None:
        """Raises UserError for a batch without images [B, H, W, 3], H and W multiples of `multiple`."""
        require(batch, "image")
        check_images(batch, "image", channels=3, multiple=self.multiple)

    def loss_terms(self, batch, draws):
        """batch["image"] float32 [B, H, W, 3] in [-1, 1] -> {"pixels": float32 [B], "perceptual": float32 [B]}.

        "perceptual" is weighted already, and absent without features. No random numbers are drawn.
        """
        y = batch["image"]
        z = ops.stop_gradient(self.base.encode(y))
        if self.settings.target == "decoding":
            y = ops.stop_gradient(ops.clip(self.base.decode(z), -1.0, 1.0))
        made = self.student(z)
        terms = {"pixels": self.distance(y, made)}
        if self.perceptual is not None:
            terms["perceptual"] = self.settings.perceptual_weight * self.perceptual(y, made)
        return terms

    def reconstruct(self, average: TinyDecoder, images):
        """Images [B, H, W, 3] in [-1, 1] -> what the decoder makes of their latents."""
        return average(self.base.encode(images))

    def save(self, average: TinyDecoder, folder: Path, first_batch: Callable[[], dict]) -> None:
        """Write the decoder as diffusers' AutoencoderTiny."""
        save_decoder(average, folder)
