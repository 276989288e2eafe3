"""Training of the autoencoder that the latents of the small base come from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from keras import ops

from codi_tf.checkpoints.base import Base, make_autoencoder, measure_scale
from codi_tf.checkpoints.folder import save_base
from codi_tf.checkpoints.stable_diffusion import load_stable_diffusion
from codi_tf.core.errors import UserError
from codi_tf.core.precision import current_compute
from codi_tf.diffusion.losses import absolute_distance, perceptual_distance
from codi_tf.io.weights import make_copy
from codi_tf.methods import METHODS
from codi_tf.methods.batches import check_images, require
from codi_tf.methods.method import Method, MethodSettings, check_perceptual
from codi_tf.models.autoencoder import AutoencoderKL
from codi_tf.models.latent_channels import balance_channels
from codi_tf.models.pixels import PixelFolding


@METHODS.register("autoencoder")
@dataclass(frozen=True)
class Autoencoder(MethodSettings):
    """Train an autoencoder: mean |image - reconstruction| + kl_weight * KL(posterior || N(0, I)) (+ perceptual term).

    Attributes:
        network: the arguments of `models.autoencoder.AutoencoderKL` (the keys of a diffusers vae/config.json); None:
            training continues the autoencoder of `base`.
        train: "all", or "decoder": latents stay as they are, so that models of these latents stay valid.
        kl_weight: the weight of the KL term.
        balance: the power of each latent channel's standard deviation that the result divides it by, in [0, 1], see
            `models.latent_channels.balance_channels`; 0 leaves the channels as they are trained.
        perceptual_weight: the weight of sum_l ||F_l(image) - F_l(reconstruction)||^2; 0: no such term.
        features: F, the folder of a feature network or a file of LPIPS' weights (`perception.lpips`).
    """

    network: dict | None = None
    train: Literal["all", "decoder"] = "all"
    kl_weight: float = 1e-6
    balance: float = 0.0
    perceptual_weight: float = 0.0
    features: str | None = None

    task_use: ClassVar = "none"
    examples: ClassVar = "images"
    reconstructs: ClassVar = True

    def check(self) -> None:
        """Raises UserError for numbers out of their range, and for a new encoder that is not trained."""
        if not 0 <= self.balance <= 1:
            raise UserError(f"method.balance is {self.balance}: it must be in [0, 1]")
        check_perceptual(self.perceptual_weight, self.features)
        if self.train == "decoder" and self.network is not None:
            raise UserError("method.train is decoder, but method.network makes a new autoencoder: set network to null")
        if self.train == "decoder" and self.balance:
            raise UserError(
                f"method.train is decoder: method.balance {self.balance} would change the latents; set it to 0"
            )

    @property
    def needs_base(self) -> bool:
        """Whether there is no network, so that `base` has to bring one."""
        return self.network is None

    def load(self, path: str | None) -> tuple[None, AutoencoderKL]:
        """A new autoencoder, or that of the base.

        Raises:
            UserError: invalid arguments in `network`, or a base beside it; a base that cannot be read.
        """
        if self.network is None:
            assert path is not None
            vae = load_stable_diffusion(path, compute=current_compute()).vae
            if isinstance(vae, PixelFolding):
                raise UserError(f"base is {path}: it works on pixels and has no autoencoder; set method.network")
            return None, vae
        if path is not None:
            raise UserError(f"base is {path}, but method.network makes a new autoencoder: set one of them")
        return None, make_autoencoder(self.network)

    def build(self, base: None, student: AutoencoderKL, perceptual: Callable | None = None) -> AutoencoderMethod:
        """The method on an autoencoder."""
        return AutoencoderMethod(self, student, perceptual)


class AutoencoderMethod(Method):
    """Mean |image - D(E(image))| + kl_weight * mean KL(posterior || N(0, I)), decoding the posterior's mean.

    Args:
        settings: the loss, and what is trained.
        student: E and D, its own: where the decoder alone is trained, the encoder is frozen.
        perceptual: F, images -> list of feature maps; for a perceptual_weight above 0.
    """

    def __init__(self, settings: Autoencoder, student: AutoencoderKL, perceptual: Callable | None = None):
        self.settings, self.student = settings, student
        self.multiple = student.factor
        self.perceptual = None
        if settings.perceptual_weight:
            assert perceptual is not None  # the options go together
            self.perceptual = perceptual_distance(lambda images: images, perceptual)
        if settings.train == "decoder":
            for layer in student.encoder_parts:
                layer.trainable = False

    @property
    def terms(self) -> tuple[str, ...]:
        """Names of the loss's terms."""
        terms = ("reconstruction",) if self.settings.train == "decoder" else ("reconstruction", "kl")
        return terms if self.perceptual is None else (*terms, "perceptual")

    def start_average(self) -> AutoencoderKL:
        """A second autoencoder with the student's weights."""
        return _copy(self.student)

    def check_batch(self, batch) -> None:
        """Raises UserError for a batch without images [B, H, W, 3], H and W multiples of `multiple`."""
        require(batch, "image")
        check_images(batch, "image", channels=3, multiple=self.multiple)

    def loss_terms(self, batch, draws):
        """batch["image"] float32 [B, H, W, 3] in [-1, 1] -> {term: float32 [B]}, weighted, for `terms`.

        No random numbers are drawn.
        """
        image = batch["image"]
        posterior = self.student.encode(image)
        made = self.student.decode(posterior.mean)
        terms = {"reconstruction": absolute_distance(image, made)}
        if self.settings.train == "all":
            kl = 0.5 * (ops.square(posterior.mean) + ops.exp(posterior.logvar) - 1.0 - posterior.logvar)
            terms["kl"] = self.settings.kl_weight * ops.mean(kl, axis=(1, 2, 3))
        if self.perceptual is not None:
            terms["perceptual"] = self.settings.perceptual_weight * self.perceptual(image, made)
        return terms

    def reconstruct(self, average: AutoencoderKL, images):
        """Images [B, H, W, 3] in [-1, 1] -> the decoded means of their posteriors."""
        return average.decode(average.encode(images).mean)

    def save(self, average: AutoencoderKL, folder: Path, first_batch: Callable[[], dict]) -> None:
        """Write a base without a UNet. Its scaling_factor gives the first batch's latents standard deviation 1.

        Where the decoder alone is trained the scaling_factor stays, as the latents do.
        """
        result = _copy(average)
        if self.settings.train == "all":
            images = first_batch()["image"]
            if self.settings.balance:
                balance_channels(result, images, self.settings.balance)
            result.scaling_factor = measure_scale(result, images)
        save_base(Base(None, result, {"beta_schedule": "squaredcos_cap_v2"}), folder)


def _copy(network: AutoencoderKL) -> AutoencoderKL:
    arguments = {key: value for key, value in network.get_config().items() if key != "name"}
    return make_copy(lambda: make_autoencoder(arguments, "average_vae"), network)
