"""Stable Diffusion's autoencoder (Rombach et al. 2022; diffusers' AutoencoderKL): images <-> unscaled latents."""

from __future__ import annotations

from typing import NamedTuple

import keras
from keras import ops

from codi_tf.core.errors import UserError
from codi_tf.models.attention import SpatialAttention
from codi_tf.models.cosine import cosine_transform
from codi_tf.models.layers import Conv2D, Downsample, GroupNorm, PointwiseConv2D, ResnetBlock, Upsample
from codi_tf.models.numerics import EPSILON, check_numerics
from codi_tf.models.recomputing import run_stage


class Posterior(NamedTuple):
    """The diagonal Gaussian of an image's latent: both float32 [B, h, w, latent_channels], logvar in [-30, 20]."""

    mean: object
    logvar: object


class Level(keras.layers.Layer):
    """Residual blocks at one resolution, then a change of resolution ("down", "up" or None).

    [B, H, W, channels_in] -> [B, H, W, channels], or half or twice H and W.
    """

    def __init__(
        self,
        channels_in: int,
        channels: int,
        *,
        count: int,
        groups: int,
        epsilon: float,
        resample: str | None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.channels_in, self.channels, self.count = channels_in, channels, count
        self.groups, self.epsilon, self.resample = groups, epsilon, resample
        self.resnets = [
            ResnetBlock(channels if i else channels_in, channels, groups=groups, epsilon=epsilon, name=f"resnets.{i}")
            for i in range(count)
        ]
        self.resampler = None
        if resample == "down":
            self.resampler = Downsample(channels, symmetric_padding=False, name="downsamplers.0")
        elif resample == "up":
            self.resampler = Upsample(channels, name="upsamplers.0")
        self.recompute = False  # set by `AutoencoderKL.recompute_blocks`

    def build(self, input_shape=None):
        for layer in self.resnets:
            layer.build()
        if self.resampler is not None:
            self.resampler.build()

    def call(self, h):
        for resnet in self.resnets:
            h = run_stage(resnet.__call__, h, recompute=self.recompute)
        return h if self.resampler is None else self.resampler(h)

    def get_config(self):
        keys = ("channels_in", "channels", "count", "groups", "epsilon", "resample")
        return {**super().get_config(), **{key: getattr(self, key) for key in keys}}


class Middle(keras.layers.Layer):
    """Residual block, optional attention, residual block. [B, H, W, channels]."""

    def __init__(self, channels: int, *, groups: int, epsilon: float, attention: bool, **kwargs):
        super().__init__(**kwargs)
        self.channels, self.groups, self.epsilon, self.attention = channels, groups, epsilon, attention
        self.resnets = [
            ResnetBlock(channels, channels, groups=groups, epsilon=epsilon, name=f"resnets.{i}") for i in range(2)
        ]
        self.attentions = (
            [SpatialAttention(channels, groups=groups, epsilon=epsilon, name="attentions.0")] if attention else []
        )

    def build(self, input_shape=None):
        for layer in (*self.resnets, *self.attentions):
            layer.build()

    def call(self, h):
        h = self.resnets[0](h)
        for attention in self.attentions:
            h = attention(h)
        return self.resnets[1](h)

    def get_config(self):
        keys = ("channels", "groups", "epsilon", "attention")
        return {**super().get_config(), **{key: getattr(self, key) for key in keys}}


class Coder(keras.layers.Layer):
    """The common structure of encoder and decoder: convolution, levels and middle in either order, convolution."""

    def __init__(
        self, channels_in, channels_out, widths, *, layers_per_block, groups, epsilon, attention, up, **kwargs
    ):
        super().__init__(**kwargs)
        self.channels_in, self.channels_out, self.widths = channels_in, channels_out, tuple(widths)
        self.layers_per_block, self.groups, self.epsilon = layers_per_block, groups, epsilon
        self.attention, self.up = attention, up
        self.conv_in = Conv2D(widths[0], name="conv_in")
        previous = (widths[0], *widths[:-1])
        self.levels = [
            Level(
                before,
                width,
                count=layers_per_block,
                groups=groups,
                epsilon=epsilon,
                resample=("up" if up else "down") if i + 1 < len(widths) else None,
                name=f"{'up' if up else 'down'}_blocks.{i}",
            )
            for i, (before, width) in enumerate(zip(previous, widths, strict=True))
        ]
        self.mid_block = Middle(
            widths[0] if up else widths[-1], groups=groups, epsilon=epsilon, attention=attention, name="mid_block"
        )
        self.conv_norm_out = GroupNorm(widths[-1], groups, epsilon, name="conv_norm_out")
        self.conv_out = Conv2D(channels_out, name="conv_out")

    def build(self, input_shape=None):
        self.conv_in.build((None, None, None, self.channels_in))
        for layer in (*self.levels, self.mid_block):
            layer.build()
        self.conv_norm_out.build((None, None, None, self.widths[-1]))
        self.conv_out.build((None, None, None, self.widths[-1]))

    def call(self, h):
        h = self.conv_in(h)
        for layer in (self.mid_block, *self.levels) if self.up else (*self.levels, self.mid_block):
            h = layer(h)
        return self.conv_out(self.conv_norm_out(h, silu=True))

    def get_config(self):
        keys = ("channels_in", "channels_out", "widths", "layers_per_block", "groups", "epsilon", "attention", "up")
        return {**super().get_config(), **{key: getattr(self, key) for key in keys}}


class AutoencoderKL(keras.Model):
    """Images [B, f h, f w, 3] in [-1, 1] <-> latents [B, h, w, 4], f = p 2 ** (levels - 1) (8 for Stable Diffusion).

    The arguments are the keys of a diffusers `vae/config.json`. `scaling_factor` is stored for the callers: neither
    `encode` nor `decode` applies it. Of our own: `numerics` is "diffusers", as in the code that trained the
    checkpoints, or "keras_cv", which has an epsilon of 1e-5 instead of 1e-6 in group normalization. `patch_size` is p:
    the networks see p x p pixels as one position of 3 p p channels, and never a map of the image's size, whose
    convolutions would take most of the time of a small autoencoder. With `linear_shortcut` both networks add to a
    linear map between f x f pixels and a latent position, which starts as the discrete cosine transform while they
    start at 0: a small autoencoder then learns what the transform misses (compare DC-AE's residual autoencoding, Chen
    et al., arXiv 2410.10733).

    Raises:
        UserError: unknown numerics, or a patch size below 1.
    """

    def __init__(
        self,
        *,
        in_channels: int = 3,
        out_channels: int = 3,
        latent_channels: int = 4,
        block_out_channels=(128, 256, 512, 512),
        layers_per_block: int = 2,
        norm_num_groups: int = 32,
        mid_block_add_attention: bool = True,
        scaling_factor: float = 0.18215,
        numerics: str = "diffusers",
        patch_size: int = 1,
        linear_shortcut: bool = False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_numerics("vae: numerics", numerics)
        if patch_size < 1:
            raise UserError(f"vae: patch_size is {patch_size}: it must be at least 1")
        self.in_channels, self.out_channels, self.latent_channels = in_channels, out_channels, latent_channels
        self.block_out_channels, self.layers_per_block = tuple(block_out_channels), layers_per_block
        self.norm_num_groups, self.mid_block_add_attention = norm_num_groups, mid_block_add_attention
        self.scaling_factor, self.numerics = scaling_factor, numerics
        self.patch_size, self.linear_shortcut = patch_size, linear_shortcut
        shared = {"groups": norm_num_groups, "epsilon": EPSILON[numerics], "attention": mid_block_add_attention}
        self.encoder = Coder(
            in_channels * patch_size**2,
            2 * latent_channels,
            self.block_out_channels,
            layers_per_block=layers_per_block,
            up=False,
            name="encoder",
            **shared,
        )
        self.decoder = Coder(
            latent_channels,
            out_channels * patch_size**2,
            self.block_out_channels[::-1],
            layers_per_block=layers_per_block + 1,
            up=True,
            name="decoder",
            **shared,
        )
        self.quant_conv = PointwiseConv2D(2 * latent_channels, name="quant_conv")
        self.post_quant_conv = PointwiseConv2D(latent_channels, name="post_quant_conv")
        self.shortcut_in = self.shortcut_out = None
        if linear_shortcut:
            self.shortcut_in = PointwiseConv2D(latent_channels, name="shortcut_in")
            self.shortcut_out = PointwiseConv2D(out_channels * self.factor**2, name="shortcut_out")

    @property
    def factor(self) -> int:
        """Pixels per latent position along each side."""
        return self.patch_size * 2 ** (len(self.block_out_channels) - 1)

    def build(self, input_shape=None):
        self.encoder.build()
        self.decoder.build()
        self.quant_conv.build((None, None, None, 2 * self.latent_channels))
        self.post_quant_conv.build((None, None, None, self.latent_channels))
        if self.shortcut_in is not None and self.shortcut_out is not None:
            analysis, synthesis = cosine_transform(self.factor, self.latent_channels)
            for layer, kernel in ((self.shortcut_in, analysis), (self.shortcut_out, synthesis)):
                layer.build((None, None, None, len(kernel)))
                layer.kernel.assign(kernel[None, None])
            for network in (self.encoder, self.decoder):
                network.conv_out.kernel.assign(ops.zeros_like(network.conv_out.kernel))

    @property
    def encoder_parts(self) -> list[keras.layers.Layer]:
        """The layers that encode."""
        return [self.encoder, self.quant_conv, *([] if self.shortcut_in is None else [self.shortcut_in])]

    @property
    def decoder_parts(self) -> list[keras.layers.Layer]:
        """The layers that decode."""
        return [self.decoder, self.post_quant_conv, *([] if self.shortcut_out is None else [self.shortcut_out])]

    def recompute_blocks(self, recompute: bool = True) -> None:
        """Gradient checkpointing: the backward pass recomputes the activations inside residual blocks.

        Those of the middle blocks, which are few, are stored.
        """
        for level in (*self.encoder.levels, *self.decoder.levels):
            level.recompute = recompute

    def encode(self, images) -> Posterior:
        """Images [B, f h, f w, 3] in [-1, 1] -> posterior with mean and log-variance [B, h, w, latent_channels]."""
        patches = images if self.patch_size == 1 else ops.space_to_depth(images, self.patch_size, "channels_last")
        moments = ops.cast(self.quant_conv(self.encoder(patches)), "float32")
        mean, logvar = ops.split(moments, 2, axis=-1)
        if self.shortcut_in is not None:
            blocks = ops.space_to_depth(images, self.factor, "channels_last")
            mean = mean + ops.cast(self.shortcut_in(blocks), "float32")
        return Posterior(mean, ops.clip(logvar, -30.0, 20.0))

    def decode(self, latents):
        """Latents [B, h, w, latent_channels], unscaled -> images [B, f h, f w, 3], about [-1, 1], not clipped."""
        patches = ops.cast(self.decoder(self.post_quant_conv(latents)), "float32")
        images = patches if self.patch_size == 1 else ops.depth_to_space(patches, self.patch_size, "channels_last")
        if self.shortcut_out is not None:
            blocks = ops.cast(self.shortcut_out(latents), "float32")
            images = images + ops.depth_to_space(blocks, self.factor, "channels_last")
        return images

    def call(self, images):
        return self.decode(self.encode(images).mean)

    def get_config(self):
        keys = (
            "name",
            "in_channels",
            "out_channels",
            "latent_channels",
            "block_out_channels",
            "layers_per_block",
            "norm_num_groups",
            "mid_block_add_attention",
            "scaling_factor",
            # no keys of diffusers: omitted if they have the default
            *(["numerics"] if self.numerics != "diffusers" else []),
            *(["patch_size"] if self.patch_size != 1 else []),
            *(["linear_shortcut"] if self.linear_shortcut else []),
        )
        return {key: getattr(self, key) for key in keys}
