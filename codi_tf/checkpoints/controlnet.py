"""A ControlNet in and out of the folder of diffusers' ControlNetModel."""

from __future__ import annotations

from pathlib import Path

from codi_tf.checkpoints.kinds import CONTROLNET
from codi_tf.checkpoints.networks import read_network, write_network
from codi_tf.core.precision import built_in, make_policy
from codi_tf.models.controlnet import ControlNet


def load_controlnet(folder: str | Path, *, compute: str = "float32") -> ControlNet:
    """Read a diffusers ControlNetModel, to be the adapter of a model: `CoDi(base, adapter=load_controlnet(folder))`.

    Args:
        folder: with config.json and safetensors weights; the `adapter/` of a bundle with this adapter is one, too.
        compute: the format of activations, that of the base. The weights are float32, because they are trained.

    Raises:
        UserError: for a missing, truncated or foreign part.
    """
    with built_in(make_policy(compute)):
        return read_network(CONTROLNET, Path(folder), name="adapter")


def save_controlnet(adapter: ControlNet, folder: Path, *, dtype: str = "float32") -> None:
    """Write a folder that `ControlNetModel.from_pretrained` reads. Raises UserError for an unknown dtype."""
    write_network(CONTROLNET, adapter, folder, dtype=dtype)
