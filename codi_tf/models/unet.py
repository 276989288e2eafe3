"""Stable Diffusion's UNet in three parts, encode / middle / decode, so that an adapter can act between them."""

from __future__ import annotations

import keras
from keras import ops

from codi_tf.errors import UserError
from codi_tf.models.layers import (
    Conv2D,
    Downsample,
    GroupNorm,
    ResnetBlock,
    SpatialTransformer,
    TimeEmbedding,
    Upsample,
)

DOWN_BLOCKS = ("DownBlock2D", "CrossAttnDownBlock2D")
UP_BLOCKS = ("UpBlock2D", "CrossAttnUpBlock2D")


class Block(keras.layers.Layer):
    """Residual blocks at one resolution, each followed by a transformer where `heads` is not 0.

    Residual block i maps `channels_in[i]` to `channels`. `transformers` tells how many of them a transformer follows.
    """

    def __init__(
        self, channels_in, channels, *, time_channels, heads, transformers, context_channels, groups, linear, **kwargs
    ):
        super().__init__(**kwargs)
        self.channels_in, self.channels, self.time_channels = tuple(channels_in), channels, time_channels
        self.heads, self.transformers, self.context_channels = heads, transformers, context_channels
        self.groups, self.linear = groups, linear
        self.resnets = [
            ResnetBlock(c, channels, groups=groups, epsilon=1e-5, time_channels=time_channels, name=f"resnets.{i}")
            for i, c in enumerate(self.channels_in)
        ]
        self.attentions = [
            SpatialTransformer(
                channels, heads, context_channels, groups=groups, linear_projection=linear, name=f"attentions.{i}"
            )
            for i in range(transformers)
        ]

    def build(self, input_shape=None):
        for layer in (*self.resnets, *self.attentions):
            layer.build()

    def get_config(self):
        keys = (
            "channels_in",
            "channels",
            "time_channels",
            "heads",
            "transformers",
            "context_channels",
            "groups",
            "linear",
        )
        return {**super().get_config(), **{key: getattr(self, key) for key in keys}}


class DownBlock(Block):
    """Encoder block. Returns the features that the decoder will take as skips, the last of them the way on."""

    def __init__(self, *args, downsample: bool, **kwargs):
        super().__init__(*args, **kwargs)
        self.downsample = downsample
        self.downsampler = Downsample(self.channels, name="downsamplers.0") if downsample else None

    def build(self, input_shape=None):
        super().build()
        if self.downsampler is not None:
            self.downsampler.build()

    def call(self, h, temb, context):
        features = []
        for i, resnet in enumerate(self.resnets):
            h = resnet(h, temb)
            if self.attentions:
                h = self.attentions[i](h, context)
            features.append(h)
        if self.downsampler is not None:
            features.append(self.downsampler(h))
        return features

    def get_config(self):
        return {**super().get_config(), "downsample": self.downsample}


class MiddleBlock(Block):
    """Residual block, transformer, residual block, at the lowest resolution."""

    def call(self, h, temb, context):
        h = self.attentions[0](self.resnets[0](h, temb), context)
        return self.resnets[1](h, temb)


class UpBlock(Block):
    """Decoder block: every residual block takes one skip, joined to the channels."""

    def __init__(self, *args, upsample: bool, **kwargs):
        super().__init__(*args, **kwargs)
        self.upsample = upsample
        self.upsampler = Upsample(self.channels, name="upsamplers.0") if upsample else None

    def build(self, input_shape=None):
        super().build()
        if self.upsampler is not None:
            self.upsampler.build()

    def call(self, h, skips, temb, context):
        for i, resnet in enumerate(self.resnets):
            h = resnet(ops.concatenate([h, skips[i]], axis=-1), temb)
            if self.attentions:
                h = self.attentions[i](h, context)
        return h if self.upsampler is None else self.upsampler(h)

    def get_config(self):
        return {**super().get_config(), "upsample": self.upsample}


class UNetEncoder(keras.Model):
    """The part of the UNet that CoDi duplicates: time embedding, encoder and middle block.

    The arguments are the keys of a diffusers `unet/config.json`, with the same meaning; `attention_head_dim` is, as
    there, the number of heads (one number, or one a level).
    """

    def __init__(
        self,
        *,
        in_channels: int = 4,
        block_out_channels=(320, 640, 1280, 1280),
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        layers_per_block: int = 2,
        attention_head_dim=8,
        cross_attention_dim: int = 768,
        norm_num_groups: int = 32,
        use_linear_projection: bool = False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        levels = len(block_out_channels)
        heads = [attention_head_dim] * levels if isinstance(attention_head_dim, int) else list(attention_head_dim)
        if len(down_block_types) != levels or len(heads) != levels:
            raise UserError(
                f"unet: block_out_channels has {levels} levels, but down_block_types {len(down_block_types)} "
                f"and attention_head_dim {len(heads)}: give one entry a level"
            )
        for kind in down_block_types:
            if kind not in DOWN_BLOCKS:
                raise UserError(f"unet: unknown down block {kind!r}: use one of {', '.join(DOWN_BLOCKS)}")
        self.in_channels, self.block_out_channels = in_channels, tuple(block_out_channels)
        self.down_block_types, self.layers_per_block = tuple(down_block_types), layers_per_block
        self.attention_head_dim, self.cross_attention_dim = attention_head_dim, cross_attention_dim
        self.norm_num_groups, self.use_linear_projection = norm_num_groups, use_linear_projection
        self._heads = heads

        self.conv_in = Conv2D(block_out_channels[0], name="conv_in")
        self.time_embedding = TimeEmbedding(block_out_channels[0], name="time_embedding")
        self.down_blocks = []
        channels = block_out_channels[0]
        for i, (kind, out) in enumerate(zip(down_block_types, block_out_channels, strict=True)):
            self.down_blocks.append(
                DownBlock(
                    [channels] + [out] * (layers_per_block - 1),
                    out,
                    transformers=layers_per_block if kind == "CrossAttnDownBlock2D" else 0,
                    heads=heads[i],
                    downsample=i + 1 < levels,
                    name=f"down_blocks.{i}",
                    **self._shared,
                )
            )
            channels = out
        self.mid_block = MiddleBlock(
            [channels] * 2, channels, transformers=1, heads=heads[-1], name="mid_block", **self._shared
        )

    @property
    def _shared(self):
        return {
            "time_channels": 4 * self.block_out_channels[0],
            "context_channels": self.cross_attention_dim,
            "groups": self.norm_num_groups,
            "linear": self.use_linear_projection,
        }

    @property
    def feature_count(self) -> int:
        """The number of encoder features: every skip and the middle block's output."""
        return 2 + sum(len(block.resnets) + int(block.downsample) for block in self.down_blocks)

    def build(self, input_shape=None):
        self.conv_in.build((None, None, None, self.in_channels))
        for layer in (self.time_embedding, *self.down_blocks, self.mid_block):
            layer.build()

    def encode(self, z_t, temb, context):
        """Latents [B, h, w, C], time embedding and prompt [B, M, D] -> list of skips, in the order of their making."""
        skips = [self.conv_in(z_t)]
        for block in self.down_blocks:
            skips.extend(block(skips[-1], temb, context))
        return skips

    def middle(self, h, temb, context):
        """The last skip -> the middle block's output, of the same shape."""
        return self.mid_block(h, temb, context)

    def call(self, z_t, t, context):
        """All encoder features: the skips and, last, the middle block's output."""
        temb = self.time_embedding(t)
        skips = self.encode(z_t, temb, context)
        return [*skips, self.middle(skips[-1], temb, context)]

    def get_config(self):
        return {"name": self.name, **self.encoder_config()}

    def encoder_config(self) -> dict:
        """The arguments that an encoder of the same shape is made with (those of the duplicate)."""
        keys = (
            "in_channels",
            "block_out_channels",
            "down_block_types",
            "layers_per_block",
            "attention_head_dim",
            "cross_attention_dim",
            "norm_num_groups",
            "use_linear_projection",
        )
        return {key: getattr(self, key) for key in keys}


class UNet(UNetEncoder):
    """The whole UNet: z_t [B, h, w, C], t int [B], context [B, M, D] -> [B, h, w, out_channels].

    What the output means (noise, velocity or signal) is the checkpoint's affair, not the network's. Height and width
    must be multiples of 2 ** (levels - 1).
    """

    def __init__(
        self,
        *,
        out_channels: int = 4,
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        **kwargs,
    ):
        super().__init__(**kwargs)
        levels = len(self.block_out_channels)
        if len(up_block_types) != levels:
            raise UserError(f"unet: up_block_types has {len(up_block_types)} entries, but there are {levels} levels")
        for kind in up_block_types:
            if kind not in UP_BLOCKS:
                raise UserError(f"unet: unknown up block {kind!r}: use one of {', '.join(UP_BLOCKS)}")
        self.out_channels, self.up_block_types = out_channels, tuple(up_block_types)

        skip_channels = [self.block_out_channels[0]]
        for block in self.down_blocks:
            skip_channels += [block.channels] * (self.layers_per_block + int(block.downsample))
        self.up_blocks = []
        channels = self.block_out_channels[-1]
        for i, (kind, out) in enumerate(zip(up_block_types, reversed(self.block_out_channels), strict=True)):
            channels_in = []
            for _ in range(self.layers_per_block + 1):
                channels_in.append(channels + skip_channels.pop())
                channels = out
            self.up_blocks.append(
                UpBlock(
                    channels_in,
                    out,
                    transformers=len(channels_in) if kind == "CrossAttnUpBlock2D" else 0,
                    heads=self._heads[-1 - i],
                    upsample=i + 1 < levels,
                    name=f"up_blocks.{i}",
                    **self._shared,
                )
            )
        self.conv_norm_out = GroupNorm(channels, self.norm_num_groups, 1e-5, name="conv_norm_out")
        self.conv_out = Conv2D(out_channels, kernel_initializer="zeros", name="conv_out")

    def build(self, input_shape=None):
        super().build()
        for layer in self.up_blocks:
            layer.build()
        self.conv_norm_out.build((None, None, None, self.block_out_channels[0]))
        self.conv_out.build((None, None, None, self.block_out_channels[0]))

    def decode(self, h, skips, temb, context):
        """The middle block's output and the skips -> the network's output [B, h, w, out_channels], float32."""
        skips = list(skips)
        for block in self.up_blocks:
            taken = [skips.pop() for _ in block.resnets]
            h = block(h, taken, temb, context)
        return ops.cast(self.conv_out(ops.silu(self.conv_norm_out(h))), "float32")

    def call(self, z_t, t, context):
        temb = self.time_embedding(t)
        skips = self.encode(z_t, temb, context)
        return self.decode(self.middle(skips[-1], temb, context), skips, temb, context)

    def get_config(self):
        return {**super().get_config(), "out_channels": self.out_channels, "up_block_types": self.up_block_types}
