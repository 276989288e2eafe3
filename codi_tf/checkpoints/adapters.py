"""The adapters by their names in configs: making, reading, writing and checking them."""

from __future__ import annotations

from pathlib import Path

from codi_tf.checkpoints.base import Base
from codi_tf.checkpoints.controlnet import load_controlnet, save_controlnet
from codi_tf.checkpoints.t2i_adapter import load_t2i_adapter, save_t2i_adapter
from codi_tf.core.errors import UserError
from codi_tf.io.weights import load_network, save_network
from codi_tf.models.adapter import MuAdapter
from codi_tf.models.controlnet import ControlNet
from codi_tf.models.t2i_adapter import T2IAdapter

Adapter = MuAdapter | ControlNet | T2IAdapter
KINDS = {"mu": MuAdapter, "controlnet": ControlNet, "t2i": T2IAdapter}


def kind_of(adapter: Adapter) -> str:
    """The name of an adapter's kind."""
    return next(name for name, kind in KINDS.items() if isinstance(adapter, kind))


def make_adapter(kind: str, base: Base, condition_channels: int) -> Adapter:
    """A new adapter for a base: the adapted network equals the base as long as nothing is trained.

    Args:
        kind: "mu", "controlnet" or "t2i".
        base: the model to adapt.
        condition_channels: of the task's condition images: 3, or 4 with a mask.
    """
    if kind == "mu":
        return MuAdapter.duplicate(base.unet, condition_channels=_mu_channels(base, condition_channels))
    return KINDS[kind].duplicate(base.unet, factor=base.vae.factor, condition_channels=condition_channels)


def read_adapter(kind: str, folder: Path, base: Base, condition_channels: int) -> Adapter:
    """The adapter of a folder, made for a base. Raises UserError for a missing, truncated or foreign part."""
    compute = base.unet.compute_dtype
    if kind == "controlnet":
        return load_controlnet(folder, compute=compute)
    if kind == "t2i":
        return load_t2i_adapter(folder, compute=compute)
    adapter = make_adapter(kind, base, condition_channels)
    load_network(adapter, folder)
    return adapter


def write_adapter(adapter: Adapter, folder: Path, *, dtype: str = "float32") -> None:
    """Write an adapter in its own form: diffusers' for "controlnet" and "t2i". Raises UserError for a bad dtype."""
    writers = {"mu": save_network, "controlnet": save_controlnet, "t2i": save_t2i_adapter}
    writers[kind_of(adapter)](adapter, folder, dtype=dtype)


def check_adapter(adapter: Adapter, base: Base, condition_channels: int) -> None:
    """Whether an adapter fits a base and a condition. Raises UserError with the first thing that does not."""
    if isinstance(adapter, MuAdapter):
        wanted, channels = _mu_channels(base, condition_channels), adapter.encoder.in_channels
        if channels != wanted:
            raise UserError(
                f"the adapter sees {channels} channels, the task's condition has {wanted}: make another one"
            )
        return
    name = type(adapter).__name__
    if isinstance(adapter, ControlNet):
        for key in ("in_channels", "block_out_channels", "down_block_types", "layers_per_block", "cross_attention_dim"):
            theirs, ours = getattr(adapter, key), getattr(base.unet, key)
            if theirs != ours:
                raise UserError(f"the {name}'s {key} is {theirs}, the base's {ours}: take one made for this base")
        channels, factor = adapter.conditioning_channels, 2 ** (len(adapter.conditioning_embedding_out_channels) - 1)
    else:
        if tuple(adapter.feature_channels) != tuple(base.unet.block_out_channels):
            raise UserError(
                f"the {name}'s features have {tuple(adapter.feature_channels)} channels, the base's levels "
                f"{tuple(base.unet.block_out_channels)}: take one made for this base"
            )
        channels, factor = adapter.in_channels, adapter.downscale_factor
    if channels != condition_channels:
        raise UserError(f"the {name} sees {channels} channels: the task's conditions have {condition_channels}")
    if adapter.compute_dtype != base.unet.compute_dtype:
        raise UserError(
            f"the {name} computes in {adapter.compute_dtype}, the base in {base.unet.compute_dtype}: "
            f"load it with compute={base.unet.compute_dtype!r}"
        )
    if factor != base.vae.factor:
        raise UserError(
            f"the {name} makes images {factor} times smaller, the base's autoencoder {base.vae.factor}: "
            "take one made for this base"
        )


def _mu_channels(base: Base, condition_channels: int) -> int:
    return base.vae.latent_channels + condition_channels - 3  # a latent, and a mask beside it
