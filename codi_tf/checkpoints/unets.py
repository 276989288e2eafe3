"""The UNet of a diffusers folder: a UNet2DConditionModel, or a UNet2DModel, which takes no prompts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from codi_tf.checkpoints.kinds import UNET, UNET_2D, Kind
from codi_tf.checkpoints.networks import read_network, write_network
from codi_tf.io.json_files import read_json
from codi_tf.io.weights import CONFIG
from codi_tf.models.unet import UNet


def unet_kind(folder: Path) -> Kind:
    """The kind that a config.json names. Raises UserError for a file that is missing or broken."""
    return UNET_2D if read_json(folder / CONFIG).get("_class_name") == UNET_2D.peer else UNET


def read_unet(folder: Path, *, numerics: str | None = None) -> UNet:
    """The UNet of a folder. Arguments and errors: see `networks.read_network`."""
    return read_network(unet_kind(folder), folder, name="unet", numerics=numerics)


def write_unet(
    unet: UNet, folder: Path, *, dtype: str = "float32", report: Callable[[int], None] | None = None
) -> None:
    """Write a UNet into a folder. Arguments and errors: see `networks.write_network`."""
    kind = UNET_2D if unet.cross_attention_dim is None else UNET
    write_network(kind, unet, folder, dtype=dtype, report=report)
