"""The folders of diffusers' DDPMPipeline: a UNet2DModel of pixels and a scheduler, without an autoencoder."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from codi_tf.checkpoints.base import SCHEDULER, Base
from codi_tf.checkpoints.kinds import UNET_2D
from codi_tf.core.errors import UserError
from codi_tf.io.json_files import read_json
from codi_tf.io.weights import CONFIG
from codi_tf.models.pixels import PixelFolding

PIPELINE = "DDPMPipeline"
LATENT = ("vae", "vqvae")  # the folder of an autoencoder in pipelines of latents


class Places(NamedTuple):
    """Where a pipeline of pixels has its parts: the folder of the UNet and the file of the scheduler."""

    unet: Path
    scheduler: Path


def find_parts(path: Path) -> Places | None:
    """The parts of a pipeline of pixels in a folder: below it or, as the first releases have them, in it; else None.

    Raises:
        UserError: an autoencoder that is not supported, or a UNet2DModel without a scheduler.
    """
    for place in (path / "unet", path):
        config = place / CONFIG
        if config.is_file() and read_json(config).get("_class_name") == UNET_2D.peer:
            break
    else:
        return None
    other = next((name for name in LATENT if (path / name).is_dir()), None)
    if other == "vae":
        return None
    if other is not None:
        kind = read_json(path / other / CONFIG).get("_class_name")
        raise UserError(f"{path / other}: a {kind}, which is not built here: of autoencoders only AutoencoderKL is")
    for scheduler in (path.joinpath(*SCHEDULER), path / SCHEDULER[-1]):
        if scheduler.is_file():
            return Places(place, scheduler)
    raise UserError(f"{place}: a {UNET_2D.peer} without its scheduler; name the folder of the whole pipeline")


def is_pixel_pipeline(base: Base) -> bool:
    """Whether a base is what DDPMPipeline runs: a UNet2DModel of plain pixels, without classes or guidance."""
    unet, vae = base.unet, base.vae
    pixels = isinstance(vae, PixelFolding) and vae.patch_size == 1 and vae.scaling_factor == 1.0
    if unet is None or not pixels or unet.cross_attention_dim is not None:
        return False
    return not unet.num_class_embeds and unet.time_cond_proj_dim is None
