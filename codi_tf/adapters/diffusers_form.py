"""Adapters that are networks of diffusers: how their folders are read and written."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from codi_tf.adapters.adapted import Adapter
from codi_tf.checkpoints.base import Base
from codi_tf.checkpoints.kinds import Kind
from codi_tf.checkpoints.networks import read_network, write_network
from codi_tf.core.paths import as_path
from codi_tf.core.precision import built_in, make_policy
from codi_tf.models.unet import UNet


class DiffusersAdapter(Adapter):
    """An adapter that takes the condition image and whose folder is one of diffusers'."""

    condition_space = "image"
    starts_from_folder = True

    @classmethod
    def kind(cls) -> Kind:
        """The tables by which its folder is read and written."""
        raise NotImplementedError

    @classmethod
    def duplicate(cls, unet: UNet, *, factor: int, condition_channels: int) -> Self:
        """A new adapter for a UNet, whose output it leaves unchanged until it is trained."""
        raise NotImplementedError

    @classmethod
    def for_base(cls, base: Base, condition_channels: int) -> Self:
        assert base.unet is not None
        return cls.duplicate(base.unet, factor=base.vae.factor, condition_channels=condition_channels)

    @classmethod
    def from_folder(cls, folder: str | Path, *, compute: str = "float32") -> Self:
        """Read an adapter from a folder with config.json and safetensors weights.

        Args:
            folder: of diffusers; the `adapter/` of a bundle with this adapter is one, too.
            compute: the format of activations, that of the base. The weights are float32, because they are trained.

        Raises:
            UserError: for a missing, truncated or foreign part.
        """
        with built_in(make_policy(compute)):
            return read_network(cls.kind(), as_path(folder), name="adapter")

    @classmethod
    def read(cls, folder: Path, base: Base, condition_channels: int) -> Self:
        assert base.unet is not None
        return cls.from_folder(folder, compute=base.unet.compute_dtype)

    def write(self, folder: Path, *, dtype: str = "float32") -> None:
        """Write a folder that diffusers reads. Raises UserError for an unknown dtype."""
        write_network(self.kind(), self, folder, dtype=dtype)
