"""Stable Diffusion's UNet (Rombach et al. 2022) in three parts, encode / middle / decode. Adapters act between them."""

from __future__ import annotations

import keras
import numpy as np
from keras import ops

from codi_tf.core.errors import UserError
from codi_tf.models.attention import SpatialTransformer
from codi_tf.models.embeddings import TimeEmbedding, guidance_features
from codi_tf.models.layers import Conv2D, Downsample, GroupNorm, ResnetBlock, Upsample
from codi_tf.models.numerics import check_numerics
from codi_tf.models.recomputing import run_stage

DOWN_BLOCKS = ("DownBlock2D", "CrossAttnDownBlock2D")
UP_BLOCKS = ("UpBlock2D", "CrossAttnUpBlock2D")


class Block(keras.layers.Layer):
    """Residual blocks at one resolution; a transformer follows each of the first `transformers` blocks.

    Maps are [B, H, W, channels], the time embedding is [B or 1, time_channels], the prompt [B or 1, M, D].

    Args:
        channels_in: the input channels of each residual block.
        channels: the output channels of each residual block.
        time_channels: the channels of the time embedding.
        groups: the groups of group normalization.
        transformers: the number of transformers.
        transformer: the arguments of the transformers.
    """

    def __init__(self, channels_in, channels, *, time_channels, groups, transformers, transformer, **kwargs):
        super().__init__(**kwargs)
        self.channels_in, self.channels, self.time_channels = tuple(channels_in), channels, time_channels
        self.groups, self.transformers, self.transformer = groups, transformers, dict(transformer)
        self.resnets = [
            ResnetBlock(c, channels, groups=groups, epsilon=1e-5, time_channels=time_channels, name=f"resnets.{i}")
            for i, c in enumerate(self.channels_in)
        ]
        self.attentions = [
            SpatialTransformer(channels, groups=groups, name=f"attentions.{i}", **self.transformer)
            for i in range(transformers)
        ]
        self.recompute = False  # set by `UNetEncoder.recompute_blocks`

    def build(self, input_shape=None):
        for layer in (*self.resnets, *self.attentions):
            layer.build()

    def stage(self, i: int, h, temb, context):
        """Residual block i and the transformer after it; the backward pass recomputes them if `recompute` is set."""

        def run(h, temb, context):
            h = self.resnets[i](h, temb)
            return self.attentions[i](h, context) if i < self.transformers else h

        separate = self.variable_dtype != self.compute_dtype
        return run_stage(run, h, temb, context, recompute=self.recompute, separate=separate)

    def get_config(self):
        keys = ("channels_in", "channels", "time_channels", "groups", "transformers", "transformer")
        return {**super().get_config(), **{key: getattr(self, key) for key in keys}}


class DownBlock(Block):
    """Encoder block. Returns its skips for the decoder; the last one is also the input of the next block."""

    def __init__(self, *args, downsample: bool, **kwargs):
        super().__init__(*args, **kwargs)
        self.downsample = downsample
        self.downsampler = Downsample(self.channels, name="downsamplers.0") if downsample else None

    def build(self, input_shape=None):
        super().build()
        if self.downsampler is not None:
            self.downsampler.build()

    def call(self, h, temb, context, residual=None):
        features = []
        for i in range(len(self.resnets)):
            h = self.stage(i, h, temb, context)
            if residual is not None and i + 1 == len(self.resnets):
                h = h + ops.cast(residual, h.dtype)
            features.append(h)
        if self.downsampler is not None:
            features.append(self.downsampler(h))
        return features

    def get_config(self):
        return {**super().get_config(), "downsample": self.downsample}


class MiddleBlock(Block):
    """Residual block, transformer, residual block, at the lowest resolution."""

    def call(self, h, temb, context):
        return self.stage(1, self.stage(0, h, temb, context), temb, context)


class UpBlock(Block):
    """Decoder block: each residual block takes one skip, concatenated to the channels."""

    def __init__(self, *args, upsample: bool, **kwargs):
        super().__init__(*args, **kwargs)
        self.upsample = upsample
        self.upsampler = Upsample(self.channels, name="upsamplers.0") if upsample else None

    def build(self, input_shape=None):
        super().build()
        if self.upsampler is not None:
            self.upsampler.build()

    def call(self, h, skips, temb, context):
        for i, skip in enumerate(skips):
            h = self.stage(i, ops.concatenate([h, skip], axis=-1), temb, context)
        return h if self.upsampler is None else self.upsampler(h)

    def get_config(self):
        return {**super().get_config(), "upsample": self.upsample}


class UNetEncoder(keras.Model):
    """The part of the UNet that CoDi duplicates: time embedding, encoder and middle block.

    The arguments are the keys of a diffusers `unet/config.json`, with the same meaning; `attention_head_dim` is, as
    there, the number of heads (one number, or one per level). `numerics` is our own: see `SpatialTransformer`.

    Raises:
        UserError: lists of different lengths, an unknown kind of block, or unknown numerics.
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
        upcast_attention: bool = False,
        time_cond_proj_dim: int | None = None,
        numerics: str = "diffusers",
        **kwargs,
    ):
        super().__init__(**kwargs)
        levels = len(block_out_channels)
        heads = [attention_head_dim] * levels if isinstance(attention_head_dim, int) else list(attention_head_dim)
        if len(down_block_types) != levels or len(heads) != levels:
            raise UserError(
                f"unet: block_out_channels has {levels} levels, but down_block_types {len(down_block_types)} "
                f"and attention_head_dim {len(heads)}: give one entry per level"
            )
        for kind in down_block_types:
            if kind not in DOWN_BLOCKS:
                raise UserError(f"unet: unknown down block {kind!r}: use one of {', '.join(DOWN_BLOCKS)}")
        check_numerics("unet: numerics", numerics)
        self.in_channels, self.block_out_channels = in_channels, tuple(block_out_channels)
        self.down_block_types, self.layers_per_block = tuple(down_block_types), layers_per_block
        self.attention_head_dim, self.cross_attention_dim = attention_head_dim, cross_attention_dim
        self.norm_num_groups, self.use_linear_projection = norm_num_groups, use_linear_projection
        self.upcast_attention, self.numerics = upcast_attention, numerics
        self.time_cond_proj_dim = time_cond_proj_dim
        self.heads = heads

        self.conv_in = Conv2D(block_out_channels[0], name="conv_in")
        self.time_embedding = TimeEmbedding(block_out_channels[0], time_cond_proj_dim, name="time_embedding")
        self.down_blocks = []
        channels = block_out_channels[0]
        for i, (kind, out) in enumerate(zip(down_block_types, block_out_channels, strict=True)):
            self.down_blocks.append(
                DownBlock(
                    [channels] + [out] * (layers_per_block - 1),
                    out,
                    transformers=layers_per_block if kind == "CrossAttnDownBlock2D" else 0,
                    downsample=i + 1 < levels,
                    name=f"down_blocks.{i}",
                    **self._block(heads[i]),
                )
            )
            channels = out
        self.mid_block = MiddleBlock(
            [channels] * 2, channels, transformers=1, name="mid_block", **self._block(heads[-1])
        )

    def _block(self, heads: int) -> dict:
        """The common arguments of blocks with this number of heads."""
        return {
            "time_channels": 4 * self.block_out_channels[0],
            "groups": self.norm_num_groups,
            "transformer": {
                "heads": heads,
                "context_channels": self.cross_attention_dim,
                "linear_projection": self.use_linear_projection,
                "upcast_attention": self.upcast_attention,
                "numerics": self.numerics,
            },
        }

    @property
    def blocks(self) -> list[Block]:
        """All blocks, in the order of the forward pass."""
        return [*self.down_blocks, self.mid_block]

    @property
    def skip_channels(self) -> list[int]:
        """The channels of the skips, in the order of the forward pass."""
        widths = [self.block_out_channels[0]]
        for block in self.down_blocks:
            widths += [block.channels] * (self.layers_per_block + int(block.downsample))
        return widths

    @property
    def feature_count(self) -> int:
        """The number of encoder features: all skips and the output of the middle block."""
        return len(self.skip_channels) + 1

    def copy_encoder(self, unet: UNet) -> None:
        """Copy the weights that this encoder shares with a UNet.

        If this encoder has more input channels (for a mask), the first convolution's kernel is zero for the additional
        ones; if it has fewer, it takes the UNet's first ones.
        """
        own = {path_below(self, v): v for v in self.variables}
        for variable in unet.variables:
            target = own.get(path_below(unet, variable))
            if target is None:  # a part of the decoder
                continue
            value = ops.convert_to_tensor(variable)
            if tuple(value.shape) != tuple(target.shape):  # conv_in alone
                value = value[:, :, : target.shape[2]]
                value = ops.pad(value, [(0, 0), (0, 0), (0, target.shape[2] - value.shape[2]), (0, 0)])
            target.assign(value)

    def build(self, input_shape=None):
        self.conv_in.build((None, None, None, self.in_channels))
        for layer in (self.time_embedding, *self.down_blocks, self.mid_block):
            layer.build()

    def recompute_blocks(self, recompute: bool = True) -> None:
        """Gradient checkpointing: the backward pass recomputes the activations inside blocks instead of storing them.

        It costs about one more forward pass.
        """
        for block in self.blocks:
            block.recompute = recompute

    def encode(self, z_t, temb, context, hint=None, residuals=None):
        """Latents [B, h, w, C], time embedding and prompt [B, M, D] -> list of skips, in the order of the forward pass.

        A hint [B, h, w, channels of the first level] is added to the first skip; residuals, one per level, are added to
        the output of the level's last residual block.
        """
        first = self.conv_in(z_t)
        skips = [first if hint is None else first + hint]
        for block, residual in zip(self.down_blocks, residuals or [None] * len(self.down_blocks), strict=True):
            skips.extend(block(skips[-1], temb, context, residual))
        return skips

    def middle(self, h, temb, context):
        """The last skip -> the middle block's output, of the same shape."""
        return self.mid_block(h, temb, context)

    def call(self, z_t, t, context):
        """z_t [B, h, w, C], t int [B] or [1], context [B, M, D] -> the skips and, last, the middle block's output."""
        temb = self.time_embedding(t)
        skips = self.encode(z_t, temb, context)
        return [*skips, self.middle(skips[-1], temb, context)]

    def get_config(self):
        return {"name": self.name, **self.encoder_config()}

    def encoder_config(self) -> dict:
        """The arguments of an encoder of the same shape, without the guidance input."""
        keys = (
            "in_channels",
            "block_out_channels",
            "down_block_types",
            "layers_per_block",
            "attention_head_dim",
            "cross_attention_dim",
            "norm_num_groups",
            "use_linear_projection",
            "upcast_attention",
            *(
                ["numerics"] if self.numerics != "diffusers" else []
            ),  # no key of diffusers: omitted if it is the default
        )
        return {key: getattr(self, key) for key in keys}


class UNet(UNetEncoder):
    """The whole UNet: z_t [B, h, w, C], t int [B], context [B, M, D] -> float32 [B, h, w, out_channels].

    The checkpoint decides what the output is: noise, velocity or signal. h and w must be multiples of
    2 ** (levels - 1); `sample_size` is the side of the latents that the checkpoint was trained for, if known. A network
    with `time_cond_proj_dim` takes the guidance, float [B] or [1]; 1 means no guidance. One with `num_class_embeds`
    takes labels, int [B] or [1]; the last is the null class, no class.

    Raises:
        UserError: see `UNetEncoder`; also for the up blocks.
    """

    def __init__(
        self,
        *,
        sample_size: int | None = None,
        out_channels: int = 4,
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        num_class_embeds: int | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        levels = len(self.block_out_channels)
        if len(up_block_types) != levels:
            raise UserError(f"unet: up_block_types has {len(up_block_types)} entries, but there are {levels} levels")
        for kind in up_block_types:
            if kind not in UP_BLOCKS:
                raise UserError(f"unet: unknown up block {kind!r}: use one of {', '.join(UP_BLOCKS)}")
        self.sample_size, self.out_channels, self.up_block_types = sample_size, out_channels, tuple(up_block_types)

        self.num_class_embeds, self.class_embedding = num_class_embeds, None
        if num_class_embeds:
            width = 4 * self.block_out_channels[0]
            self.class_embedding = keras.layers.Embedding(num_class_embeds, width, name="class_embedding")
        skip_channels = self.skip_channels
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
                    upsample=i + 1 < levels,
                    name=f"up_blocks.{i}",
                    **self._block(self.heads[-1 - i]),
                )
            )
        self.conv_norm_out = GroupNorm(channels, self.norm_num_groups, 1e-5, name="conv_norm_out")
        self.conv_out = Conv2D(out_channels, kernel_initializer="zeros", name="conv_out")

    def build(self, input_shape=None):
        super().build()
        for layer in (*self.up_blocks, *([self.class_embedding] if self.class_embedding is not None else [])):
            layer.build()
        self.conv_norm_out.build((None, None, None, self.block_out_channels[0]))
        self.conv_out.build((None, None, None, self.block_out_channels[0]))

    @property
    def blocks(self) -> list[Block]:
        return [*super().blocks, *self.up_blocks]

    def decode(self, h, skips, temb, context):
        """The middle block's output and the skips -> the network's output [B, h, w, out_channels], float32."""
        skips = list(skips)
        for block in self.up_blocks:
            taken = [skips.pop() for _ in block.resnets]
            h = block(h, taken, temb, context)
        return ops.cast(self.conv_out(self.conv_norm_out(h, silu=True)), "float32")

    def embed_time(self, t, guidance=None, labels=None):
        """Times int [B] or [1], guidance float and labels int, [B] or [1], if the network takes them -> time embedding.

        It is [B or 1, 4 C], C the channels of the first level.
        """
        features = None
        if self.time_cond_proj_dim is not None:
            weight = ops.zeros((1,), "float32") if guidance is None else guidance - 1.0
            features = guidance_features(weight, self.time_cond_proj_dim)
        temb = self.time_embedding(t, features)
        if self.class_embedding is None or self.num_class_embeds is None:
            return temb
        return temb + self.class_embedding(np.array([self.num_class_embeds - 1]) if labels is None else labels)

    def call(self, z_t, t, context, guidance=None, labels=None):
        temb = self.embed_time(t, guidance, labels)
        skips = self.encode(z_t, temb, context)
        return self.decode(self.middle(skips[-1], temb, context), skips, temb, context)

    def get_config(self):
        keys = ("sample_size", "out_channels", "up_block_types", "time_cond_proj_dim")
        keys += ("num_class_embeds",) if self.num_class_embeds else ()
        return {**super().get_config(), **{key: getattr(self, key) for key in keys}}


def path_below(layer: keras.layers.Layer, variable) -> str:
    """The path of a variable below a layer that contains it."""
    return variable.path.split(f"{layer.name}/", 1)[1]
