"""The adapted network, and the base class of adapters."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Literal, TypeAlias

import keras
from keras import ops

from codi_tf.adapters import ADAPTERS
from codi_tf.checkpoints.base import Base
from codi_tf.core.errors import UserError
from codi_tf.core.trained import TrainsPart
from codi_tf.diffusion.conditioning import Conditioning
from codi_tf.io.values import Stored
from codi_tf.io.weights import NO_STARTS, load_network, save_network
from codi_tf.models.low_rank import LoraWeights, applied
from codi_tf.models.unet import UNet

# A graph of an exported network, its tensors, and the module that emits networks: see `export.emit.graph.Graph` and
# `export.emit.networks`. They are arguments, because this package imports no export.
Graph: TypeAlias = Any
Value: TypeAlias = Any
Networks: TypeAlias = Any

Starts: TypeAlias = Mapping[str, Stored]
ConditionSpace: TypeAlias = Literal["latent", "latent_nearest", "image"]


class Adapter(keras.Model):
    """Base class of adapters.

    A subclass defines `for_base`, `condition`, `get_config`, one of `first_residual`, `residuals` and `adapt`, and, to
    be exported, `emit_condition` and the counterpart of that one. The other methods have defaults.

    Until it is trained, a new adapter must not change the output of the base.

    Attributes:
        condition_space: what `condition` takes of a condition image: its "latent", with the mask as one more channel
            where there is one, the mean over a position's pixels; "latent_nearest", the same with the mask at the
            nearest pixel; or the "image" itself.
        starts_from_folder: whether a training may start from the weights of a folder (`adaptation.start`).
        condition_takes_prompt: whether `condition` depends on the prompt.
        merges: whether the adapter can become a part of the UNet, as diffusers' pipelines have it: `merged`.
        copied: the beginning of the keys, in a file, of weights that start as those of the base's UNet; None: none do.
        takes_scale: whether the condition can count more or less than in training, see `AdaptedUNet.call`.
    """

    condition_space: ClassVar[ConditionSpace] = "latent"
    starts_from_folder: ClassVar[bool] = False
    condition_takes_prompt: ClassVar[bool] = False
    merges: ClassVar[bool] = False
    copied: ClassVar[str | None] = None
    takes_scale: ClassVar[bool] = True

    # Making, reading, writing

    @classmethod
    def for_base(cls, base: Base, condition_channels: int) -> Adapter:
        """A new, built adapter for a base with a UNet, and condition images of 3 channels, or 4 with a mask."""
        raise NotImplementedError

    @classmethod
    def read(cls, folder: Path, base: Base, condition_channels: int, *, starts: Starts = NO_STARTS) -> Adapter:
        """The adapter that `write` wrote, for a base. Raises UserError for a missing, truncated or foreign part.

        `starts`: key -> what the weight started from, of adapters that are `copied`.
        """
        adapter = cls.for_base(base, condition_channels)
        load_network(adapter, folder, starts=starts)
        return adapter

    def write(self, folder: Path, *, dtype: str = "float32", starts: Starts = NO_STARTS) -> None:
        """Write config.json and safetensors weights. Raises UserError for an unknown dtype."""
        save_network(self, folder, dtype=dtype, starts=starts)

    def check(self, base: Base, condition_channels: int) -> None:
        """Raises UserError, with the first reason, where the adapter does not fit a base or the condition images."""

    @classmethod
    def input_channels(cls, base: Base, condition_channels: int) -> int:
        """The channels of c, which `condition` takes: those of the image, or of its latent and the mask."""
        return condition_channels + (0 if cls.condition_space == "image" else base.vae.latent_channels - 3)

    def merged(self, base: Base) -> Base:
        """The base with this adapter as a part of its UNet, for adapters that merge."""
        raise NotImplementedError

    # The network

    def condition(self, c, conditioning: Conditioning) -> list:
        """The condition features, computed once per image: a list of tensors [B, ...] of the adapter's own shapes.

        Args:
            c: a condition in the adapter's `condition_space`: its latent [B, h, w, C], or the image [B, H, W, C] in
                [-1, 1].
            conditioning: that of the prompts, of batch size 1 or B.
        """
        raise NotImplementedError

    def first_residual(self, condition_features) -> Any | None:
        """A tensor added to the output of the UNet's first convolution; None for none."""
        return None

    def residuals(self, condition_features) -> list | None:
        """One tensor for each level of the UNet's encoder, added after its last residual block; None for none."""
        return None

    def adapt(self, features, condition_features, z_t, t, conditioning: Conditioning) -> list:
        """The UNet's features (its skips and, last, the middle block's output) -> the adapted ones, in every step.

        Args:
            features: tensors [B, height, width, channels]; the result has as many, of the same shapes.
            condition_features: from `condition`.
            z_t: the noisy latents [B, h, w, 4].
            t: int32 [B] or [1].
            conditioning: that of the prompts, of batch size 1 or B.
        """
        return features

    def recompute_blocks(self, recompute: bool = True) -> None:
        """Gradient checkpointing, see `UNetEncoder.recompute_blocks`. The default does nothing."""

    # Training

    @property
    def scaled_parameters(self) -> list:
        """Variables whose learning rate is multiplied by `adaptation.mu_rate`; they have no weight decay."""
        return []

    def log_scalars(self) -> dict[str, float]:
        """Numbers for the training log."""
        return {}

    # Export: the same computations on graphs, batch 1

    def emit_condition(self, g: Graph, nets: Networks, c: Value, context: Value | None) -> list[Value]:
        """`condition` as operations. The prompt is None for adapters that do not take it.

        The features may have another form than those of `condition`; `emitted_features` then gives that form.

        Raises:
            UserError: the adapter does not define it, and so cannot be exported.
        """
        raise UserError(f"{type(self).__name__} cannot be exported: it does not define emit_condition")

    def emit_first_residual(self, condition_features: list[Value]) -> Value | None:
        """`first_residual` of emitted features."""
        return None

    def emit_residuals(self, condition_features: list[Value]) -> list[Value] | None:
        """`residuals` of emitted features."""
        return None

    def emit_adapt(
        self,
        g: Graph,
        nets: Networks,
        features: list[Value],
        condition_features: list[Value],
        z: Value,
        time: Value,
        context: Value,
    ) -> list[Value]:
        """`adapt` as operations on emitted features; `time` are the features of the time."""
        return features

    def neutral_features(self, count: int) -> list[float] | None:
        """The number that fills each of `count` emitted features where the adapter leaves the UNet as it is.

        For adapters whose effect is linear in the way from there to the features of a condition: n + K (f - n) then
        makes the condition count K times, and a step need not know K. None, the default, for others.
        """
        return None

    def emitted_features(self, condition_features: list) -> list:
        """NumPy features of `condition`, in the form that `emit_condition` gives them."""
        return condition_features


class AdaptedUNet(TrainsPart):
    """A UNet and its adapter: w_theta(z_t, c, t). Without an adapter it is the UNet itself.

    Args:
        unet: the UNet.
        adapter: its adapter, or None.
        train: "all", or only the "adapter", and the LoRA; other models may then share the UNet.
        lora: changes of the UNet's layers, or None.
        has_mask: whether a condition is an image with a mask, as its task states (`Task.has_mask`).
    """

    def __init__(
        self,
        unet: UNet,
        adapter: Adapter | None = None,
        train: Literal["all", "adapter"] = "all",
        *,
        lora: LoraWeights | None = None,
        has_mask: bool = False,
        **kwargs,
    ):
        super().__init__(dtype=unet.dtype_policy, **kwargs)
        self.unet, self.adapter, self.lora, self.has_mask = unet, adapter, lora, has_mask
        # No dict: Keras would take its layers for layers of this model, a second time.
        self._changes = MappingProxyType({} if lora is None else lora.of_layers(unet))
        self.train: Literal["all", "adapter"] = train
        self.built = True  # both parts are

    def trained_parts(self) -> list[keras.Model]:
        """The parts that are trained: the UNet, unless only its adapter is, the adapter and the LoRA."""
        parts = [self.unet if self.train == "all" else None, self.adapter, self.lora]
        return [part for part in parts if part is not None]

    def recompute_blocks(self, recompute: bool = True) -> None:
        """Gradient checkpointing in both parts: see `UNetEncoder.recompute_blocks`."""
        self.unet.recompute_blocks(recompute)
        if self.adapter is not None:
            self.adapter.recompute_blocks(recompute)

    @property
    def condition_space(self) -> ConditionSpace:
        """What `condition` takes of a condition image, see `Adapter`."""
        return "latent" if self.adapter is None else self.adapter.condition_space

    def condition(self, c, conditioning: Conditioning):
        """The condition features, see `Adapter.condition`; None without an adapter."""
        return None if self.adapter is None else self.adapter.condition(c, conditioning)

    @property
    def takes_guidance(self) -> bool:
        """Whether the guidance is an input of the network (guided distillation)."""
        return self.unet.time_cond_proj_dim is not None

    def call(self, z_t, t, condition_features, conditioning: Conditioning, guidance=None, condition_scale=None):
        """The network's output, in the parametrization of the checkpoint.

        With a scale K, a feature is h + K (h' - h), h' the adapted one. So mu counts K times in Eq. 12, and the
        residuals of ControlNet and T2I-Adapter count K times, as by diffusers' `controlnet_conditioning_scale` and
        `adapter_conditioning_scale`.

        Args:
            z_t: [B, h, w, C].
            t: int [B] or [1].
            condition_features: from `condition`.
            conditioning: of prompts and classes, of batch size 1 or B.
            guidance: float [B] or [1], for networks that take it; 1 or None for none.
            condition_scale: K, float []: 0 gives the UNet's own output. None for 1, without any operation.

        Returns:
            float32 [B, h, w, out_channels].
        """
        with applied(self._changes):
            return self._evaluate(z_t, t, condition_features, conditioning, guidance, condition_scale)

    def _evaluate(self, z_t, t, condition_features, conditioning: Conditioning, guidance, condition_scale):
        context, labels = conditioning
        if self.adapter is None:
            return self.unet(z_t, t, context, guidance, labels)
        temb, adapter = self.unet.embed_time(t, guidance, labels), self.adapter
        first, residuals = adapter.first_residual(condition_features), adapter.residuals(condition_features)
        if condition_scale is not None:
            first = None if first is None else _times(condition_scale, first)
            residuals = None if residuals is None else [_times(condition_scale, h) for h in residuals]
        skips = self.unet.encode(z_t, temb, context, first, residuals)
        features = [*skips, self.unet.middle(skips[-1], temb, context)]
        adapted = adapter.adapt(features, condition_features, z_t, t, conditioning)
        if condition_scale is not None:
            adapted = [_moved(h, own, condition_scale) for h, own in zip(features, adapted, strict=True)]
        *skips, middle = adapted
        return self.unet.decode(middle, skips, temb, context)

    def get_config(self):
        adapter = None
        if self.adapter is not None:
            adapter = {"registered": ADAPTERS.name_of(type(self.adapter)), "config": self.adapter.get_config()}
        lora = None if self.lora is None else self.lora.get_config()
        parts = {"unet": self.unet.get_config(), "adapter": adapter, "lora": lora}
        return {"name": self.name, **parts, "train": self.train, "has_mask": self.has_mask}

    @classmethod
    def from_config(cls, config):
        unet, adapter = UNet.from_config(config["unet"]), config["adapter"]
        if adapter is not None:
            adapter = ADAPTERS[adapter["registered"]].from_config(adapter["config"])
        lora = None if config.get("lora") is None else LoraWeights(**config["lora"])
        for part in (unet, adapter, lora):
            if part is not None:
                part.build()
        train, has_mask = config.get("train", "all"), config.get("has_mask", False)
        return cls(unet, adapter, train, lora=lora, has_mask=has_mask, name=config["name"])


def _times(scale, h):
    return ops.cast(scale, h.dtype) * h


def _moved(h, own, scale):
    return h if own is h else h + _times(scale, own - h)


def check_image_adapter(adapter: Adapter, base: Base, *, channels: tuple[int, int], factor: int) -> None:
    """The checks that adapters of condition images share.

    Args:
        adapter: the adapter.
        base: the base that it is to adapt.
        channels: of images, those that the adapter takes and those of the task's conditions.
        factor: how many times smaller than the image the adapter's features are.

    Raises:
        UserError: other channels, another compute format than the base's, or another factor than the autoencoder's.
    """
    assert base.unet is not None
    name = type(adapter).__name__
    if channels[0] != channels[1]:
        raise UserError(f"the {name} takes {channels[0]} channels: the task's conditions have {channels[1]}")
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
