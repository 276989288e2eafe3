"""A T2I-Adapter in and out of the folder of diffusers' T2IAdapter."""

from __future__ import annotations

from pathlib import Path

from codi_tf.checkpoints.kinds import Kind
from codi_tf.checkpoints.networks import read_network, write_network
from codi_tf.core.precision import built_in, make_policy
from codi_tf.models.t2i_adapter import T2IAdapter

T2I_ADAPTER = Kind(
    peer="T2IAdapter",
    network=T2IAdapter,
    file="diffusion_pytorch_model",
    ours={
        "in_channels": 3,
        "channels": (320, 640, 1280, 1280),
        "num_res_blocks": 2,
        "downscale_factor": 8,
        "adapter_type": "full_adapter",
    },
    fixed={},
    inert=frozenset(),
    positive=dict.fromkeys(("in_channels", "num_res_blocks", "downscale_factor"), int),
)


def load_t2i_adapter(folder: str | Path, *, compute: str = "float32") -> T2IAdapter:
    """Read a diffusers T2IAdapter, to be the adapter of a model: `CoDi(base, adapter=load_t2i_adapter(folder))`.

    Args:
        folder: with config.json and safetensors weights; the `adapter/` of a bundle with this adapter is one, too.
        compute: the format of activations, that of the base. The weights are float32, because they are trained.

    Raises:
        UserError: for a missing, truncated or foreign part.
    """
    with built_in(make_policy(compute)):
        return read_network(T2I_ADAPTER, Path(folder), name="adapter")


def save_t2i_adapter(adapter: T2IAdapter, folder: Path, *, dtype: str = "float32") -> None:
    """Write a folder that `T2IAdapter.from_pretrained` reads. Raises UserError for an unknown dtype."""
    write_network(T2I_ADAPTER, adapter, folder, dtype=dtype)
