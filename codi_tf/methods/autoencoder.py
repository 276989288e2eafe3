"""Training of the autoencoder that the latents of the small base come from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from keras import ops

from codi_tf.checkpoints.base import Base, make_autoencoder, measure_scale
from codi_tf.checkpoints.folder import save_base
from codi_tf.checkpoints.stable_diffusion import load_stable_diffusion
from codi_tf.core.errors import UserError
from codi_tf.core.precision import current_compute
from codi_tf.diffusion.losses import absolute_distance
from codi_tf.io.weights import copy_weights
from codi_tf.methods import METHODS
from codi_tf.methods.batches import check_images, require
from codi_tf.methods.method import Method, MethodSettings
from codi_tf.models.autoencoder import AutoencoderKL
from codi_tf.models.pixels import PixelFolding


@METHODS.register("autoencoder")
@dataclass(frozen=True)
class Autoencoder(MethodSettings):
    """Train an autoencoder: mean |image - reconstruction| + kl_weight * KL(posterior || N(0, I)).

    Attributes:
        network: the arguments of `models.autoencoder.AutoencoderKL` (the keys of a diffusers vae/config.json); None:
            training continues the autoencoder of `base`.
        kl_weight: the weight of the KL term.
    """

    network: dict | None = None
    kl_weight: float = 1e-6

    task_use: ClassVar = "none"
    examples: ClassVar = "images"
    reconstructs: ClassVar = True

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
        return AutoencoderMethod(self, student)


class AutoencoderMethod(Method):
    """Mean |image - D(E(image))| + kl_weight * mean KL(posterior || N(0, I)), decoding the posterior's mean."""

    terms = ("reconstruction", "kl")

    def __init__(self, settings: Autoencoder, student: AutoencoderKL):
        self.settings, self.student = settings, student
        self.multiple = student.factor

    def start_average(self) -> AutoencoderKL:
        """A second autoencoder with the student's weights."""
        arguments = {key: value for key, value in self.student.get_config().items() if key != "name"}
        average = make_autoencoder(arguments, name="average_vae")
        copy_weights(self.student, average)
        return average

    def check_batch(self, batch) -> None:
        """Raises UserError for a batch without images [B, H, W, 3], H and W multiples of `multiple`."""
        require(batch, "image")
        check_images(batch, "image", channels=3, multiple=self.multiple)

    def loss_terms(self, batch, draws):
        """batch["image"] float32 [B, H, W, 3] in [-1, 1] -> {"reconstruction": float32 [B], "kl": float32 [B]}.

        "kl" is multiplied by kl_weight already. No random numbers are drawn.
        """
        image = batch["image"]
        posterior = self.student.encode(image)
        reconstruction = absolute_distance(image, self.student.decode(posterior.mean))
        kl = 0.5 * (ops.square(posterior.mean) + ops.exp(posterior.logvar) - 1.0 - posterior.logvar)
        return {"reconstruction": reconstruction, "kl": self.settings.kl_weight * ops.mean(kl, axis=(1, 2, 3))}

    def reconstruct(self, average: AutoencoderKL, images):
        """Images [B, H, W, 3] in [-1, 1] -> the decoded means of their posteriors."""
        return average.decode(average.encode(images).mean)

    def save(self, average: AutoencoderKL, folder: Path, first_batch: Callable[[], dict]) -> None:
        """Write a base without a UNet. Its scaling_factor gives the first batch's latents standard deviation 1."""
        average.scaling_factor = measure_scale(average, first_batch()["image"])
        save_base(Base(None, average, {"beta_schedule": "squaredcos_cap_v2"}), folder)
