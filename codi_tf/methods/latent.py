"""The base class of methods that train a latent diffusion model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from codi_tf.adapters.adapted import AdaptedUNet
from codi_tf.checkpoints.base import Base, check_takes_latents
from codi_tf.checkpoints.folder import save_base
from codi_tf.checkpoints.stable_diffusion import load_stable_diffusion
from codi_tf.core.errors import UserError
from codi_tf.core.precision import current_compute
from codi_tf.diffusion.scheduler_config import is_reverse
from codi_tf.io.bundle_files import is_bundle, model_at
from codi_tf.methods.batches import check_images, check_prompts, require
from codi_tf.methods.method import Method
from codi_tf.methods.networks import copy_of


class LatentMethod(Method):
    """A method on the UNet of a base, with or without an adapter. A subclass adds `terms` and `loss_terms`.

    Args:
        settings: the method's options.
        base: the model; its UNet is the student's.
        student: the network to train.
        perceptual: the feature network of a perceptual distance, images in [-1, 1] -> list of feature maps.
    """

    def __init__(self, settings, base: Base, student: AdaptedUNet, perceptual: Callable | None = None):
        self.settings, self.base, self.student, self.perceptual = settings, base, student, perceptual

    @property
    def multiple(self) -> int:
        """Height and width of training images, in pixels, must be multiples of it."""
        return self.base.multiple

    def check_batch(self, batch) -> None:
        """Raises UserError for a batch without an image or a latent for this base, or with prompts it cannot use."""
        factor, channels = self.base.vae.factor, self.base.vae.latent_channels
        if require(batch, "image", "latent") == "image":
            check_images(batch, "image", channels=3, multiple=self.multiple)
        if "latent" in batch:
            check_images(batch, "latent", channels=channels, multiple=self.multiple // factor)
        check_prompts(batch, self.base)
        if "class" in batch and not self.base.num_classes:
            raise UserError("a batch has classes, and this base has none: leave them out, or train a UNet with classes")

    def start_average(self) -> AdaptedUNet:
        """The network that generates after training; it starts with the student's weights."""
        return copy_of(self.student, "average")

    def result(self, average: AdaptedUNet) -> Base:
        """The base with the trained UNet, the result of a training without a task."""
        return dataclasses.replace(self.base, unet=average.unet)

    def save(self, average: AdaptedUNet, folder: Path, first_batch: Callable[[], dict]) -> None:
        """Write the result in the diffusers layout. Raises UserError, see `save_base`."""
        save_base(self.result(average), folder)


def load_unconditional(path: str, *, reverse: bool = False) -> Base:
    """A base whose UNet is trained without an adapter, in the current compute format.

    Args:
        path: its folder, or that of the run that made it, or the name of one that comes with codi_tf.
        reverse: whether the training goes from images to noise, and may continue a base that does.

    Raises:
        UserError: a bundle, or a base without a UNet, whose UNet takes a condition, or that leads from images to noise.
    """
    if is_bundle(model_at(path)):
        raise UserError(f"base is {path}: a bundle's UNet needs its adapter; set task, or name the bundle's base")
    base = load_stable_diffusion(path, compute=current_compute())
    if base.unet is None:
        raise UserError(f"base is {path}: it has no UNet; name another one, or set method.network")
    check_takes_latents(base, f"base is {path}: its", "without a task, name a model that takes no condition")
    if is_reverse(base.scheduler) and not reverse:
        raise UserError(f"base is {path}: it leads from images to noise; name the base that it was distilled from")
    return base
