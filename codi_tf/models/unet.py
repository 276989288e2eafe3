"""Stable Diffusion's UNet (Rombach et al. 2022) in three parts, encode / middle / decode. Adapters act between them."""

from __future__ import annotations

import keras
import numpy as np
from keras import ops

from codi_tf.core.errors import UserError
from codi_tf.models.embeddings import TimeEmbedding, guidance_features
from codi_tf.models.layers import Conv2D, GroupNorm
from codi_tf.models.numerics import check_numerics
from codi_tf.models.unet_blocks import Block, DownBlock, MiddleBlock, UpBlock
from codi_tf.models.unet_options import (
    OPTIONS,
    check_block_types,
    check_options,
    heads_of_levels,
    middle_of,
    per_level,
)


class UNetEncoder(keras.Model):
    """The part of the UNet that CoDi duplicates: time embedding, encoder and middle block.

    The arguments are the keys of a diffusers `unet/config.json`, with the same meaning. `attention_head_dim` is, as
    there, the number of heads; it and `layers_per_block`, the encoder's residual blocks of a level, are one number, or
    one per level. `mid_block_type` is None for no middle block. `numerics` is our own: see `SpatialTransformer`.

    With a `cross_attention_dim` of None the network takes no prompts, and is diffusers' UNet2DModel: self-attention in
    place of transformers, and `attention_head_dim` is the channels of a head, None for one head. `add_attention`: in
    the middle block.

    Raises:
        UserError: lists of different lengths, a level without a residual block, an unknown kind of block, or an option
            out of its range.
    """

    def __init__(
        self,
        *,
        in_channels: int = 4,
        block_out_channels=(320, 640, 1280, 1280),
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        mid_block_type: str | None = "UNetMidBlock2DCrossAttn",
        layers_per_block=2,
        attention_head_dim=8,
        cross_attention_dim: int | None = 768,
        norm_num_groups: int = 32,
        use_linear_projection: bool = False,
        upcast_attention: bool = False,
        time_cond_proj_dim: int | None = None,
        numerics: str = "diffusers",
        downsample_padding: int = 1,
        norm_eps: float = 1e-5,
        flip_sin_to_cos: bool = True,
        freq_shift: int = 0,
        add_attention: bool = True,
        **kwargs,
    ):
        super().__init__(**kwargs)
        levels, prompted = len(block_out_channels), cross_attention_dim is not None
        heads = heads_of_levels(attention_head_dim, block_out_channels, prompted=prompted)
        layers = per_level(layers_per_block, levels)
        if len(down_block_types) != levels or len(heads) != levels or len(layers) != levels:
            raise UserError(
                f"unet: block_out_channels has {levels} levels, but down_block_types {len(down_block_types)}, "
                f"attention_head_dim {len(heads)} and layers_per_block {len(layers)}: give one entry per level"
            )
        if min(layers) < 1:
            raise UserError(f"unet: layers_per_block is {layers_per_block}: every level needs at least 1")
        check_block_types("down", down_block_types, prompted=prompted)
        mid_block_type, middle = middle_of(mid_block_type, add_attention, prompted=prompted)
        check_numerics("unet: numerics", numerics)
        self.in_channels, self.block_out_channels = in_channels, tuple(block_out_channels)
        self.down_block_types, self.mid_block_type = tuple(down_block_types), mid_block_type
        self.layers_per_block = layers[0] if len(set(layers)) == 1 else tuple(layers)
        self.attention_head_dim, self.cross_attention_dim = attention_head_dim, cross_attention_dim
        self.norm_num_groups, self.use_linear_projection = norm_num_groups, use_linear_projection
        self.upcast_attention, self.numerics = upcast_attention, numerics
        self.time_cond_proj_dim = time_cond_proj_dim
        self.downsample_padding, self.norm_eps, self.add_attention = downsample_padding, norm_eps, add_attention
        self.flip_sin_to_cos, self.freq_shift = flip_sin_to_cos, freq_shift
        check_options({name: getattr(self, name) for name in OPTIONS}, prompted=prompted)
        self.heads, self.layers_of_levels = heads, layers

        self.conv_in = Conv2D(block_out_channels[0], name="conv_in")
        times = {"flip_sin_to_cos": flip_sin_to_cos, "freq_shift": freq_shift}
        self.time_embedding = TimeEmbedding(block_out_channels[0], time_cond_proj_dim, name="time_embedding", **times)
        self.down_blocks = []
        channels = block_out_channels[0]
        for i, (kind, out, count) in enumerate(zip(down_block_types, block_out_channels, layers, strict=True)):
            self.down_blocks.append(
                DownBlock(
                    [channels] + [out] * (count - 1),
                    out,
                    transformers=count if "Attn" in kind else 0,
                    downsample=i + 1 < levels,
                    symmetric_padding=downsample_padding == 1,
                    name=f"down_blocks.{i}",
                    **self._block(heads[i]),
                )
            )
            channels = out
        self.mid_block = None
        if mid_block_type is not None:
            count, transformers = middle
            options = {"transformers": transformers, **self._block(heads[-1])}
            self.mid_block = MiddleBlock([channels] * count, channels, name="mid_block", **options)

    def _block(self, heads: int) -> dict:
        """The common arguments of blocks with this number of heads."""
        transformer = {
            "context_channels": self.cross_attention_dim,
            "linear_projection": self.use_linear_projection,
            "upcast_attention": self.upcast_attention,
            "numerics": self.numerics,
        }
        return {
            "time_channels": 4 * self.block_out_channels[0],
            "groups": self.norm_num_groups,
            "epsilon": self.norm_eps,
            "transformer": {"heads": heads, **(transformer if self.cross_attention_dim is not None else {})},
        }

    @property
    def blocks(self) -> list[Block]:
        """All blocks, in the order of the forward pass."""
        return [*self.down_blocks, *([] if self.mid_block is None else [self.mid_block])]

    @property
    def skip_channels(self) -> list[int]:
        """The channels of the skips, in the order of the forward pass."""
        widths = [self.block_out_channels[0]]
        for block in self.down_blocks:
            widths += [block.channels] * (len(block.resnets) + int(block.downsample))
        return widths

    @property
    def feature_count(self) -> int:
        """The number of encoder features: all skips, and the decoder's input (the middle block's output)."""
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
        for layer in (self.time_embedding, *self.blocks):
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
        """The last skip -> the middle block's output, of the same shape; without a middle block, the skip itself."""
        return h if self.mid_block is None else self.mid_block(h, temb, context)

    def ends_of_levels(self, skips) -> list:
        """Of all skips, the outputs of each level's last stage: one for each level, before it is made smaller."""
        places = np.cumsum([len(block.resnets) + int(block.downsample) for block in self.down_blocks])
        return [skips[place - int(block.downsample)] for place, block in zip(places, self.down_blocks, strict=True)]

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
            "mid_block_type",
            "layers_per_block",
            "attention_head_dim",
            "cross_attention_dim",
            "norm_num_groups",
            *(["use_linear_projection", "upcast_attention"] if self.cross_attention_dim is not None else []),
            *(
                ["numerics"] if self.numerics != "diffusers" else []
            ),  # no key of diffusers: omitted if it is the default
            *(key for key, default in OPTIONS.items() if getattr(self, key) != default),
        )
        return {key: getattr(self, key) for key in keys}


class UNet(UNetEncoder):
    """The whole UNet: z_t [B, h, w, C], t int [B], context [B, M, D] -> float32 [B, h, w, out_channels].

    A network without prompts takes any context, and does not use it.

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
        check_block_types("up", up_block_types, prompted=self.cross_attention_dim is not None)
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
            for _ in range(self.layers_of_levels[-1 - i] + 1):
                channels_in.append(channels + skip_channels.pop())
                channels = out
            self.up_blocks.append(
                UpBlock(
                    channels_in,
                    out,
                    transformers=len(channels_in) if "Attn" in kind else 0,
                    upsample=i + 1 < levels,
                    name=f"up_blocks.{i}",
                    **self._block(self.heads[-1 - i]),
                )
            )
        self.conv_norm_out = GroupNorm(channels, self.norm_num_groups, self.norm_eps, name="conv_norm_out")
        self.conv_out = Conv2D(out_channels, kernel_initializer="zeros", name="conv_out")

    def build(self, input_shape=None):
        super().build()
        if self.class_embedding is not None:
            self.class_embedding.build()
        self.conv_norm_out.build((None, None, None, self.block_out_channels[0]))
        self.conv_out.build((None, None, None, self.block_out_channels[0]))

    @property
    def blocks(self) -> list[Block]:
        return [*super().blocks, *self.up_blocks]

    def decode(self, h, skips, temb, context):
        """The middle block's output and the skips -> the network's output [B, h, w, out_channels], float32."""
        return self._output(self._levels(h, skips, temb, context)[-1])

    def _levels(self, h, skips, temb, context) -> list:
        """The middle block's output and the skips -> the output of each level of the decoder, lowest resolution first.

        All but the last are as large as the next level's maps.
        """
        skips, outputs = list(skips), []
        for block in self.up_blocks:
            taken = [skips.pop() for _ in block.resnets]
            h = block(h, taken, temb, context)
            outputs.append(h)
        return outputs

    def _output(self, h):
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

    def with_features(self, z_t, t, context, labels=None):
        """The output, and what it comes from: the maps at the end of each level, of the encoder, then of the decoder.

        Arguments as of a call; for networks that take no guidance. Maps are [B, height, width, channels].
        """
        temb = self.embed_time(t, None, labels)
        skips = self.encode(z_t, temb, context)
        levels = self._levels(self.middle(skips[-1], temb, context), skips, temb, context)
        return self._output(levels[-1]), [*self.ends_of_levels(skips), *levels]

    def get_config(self):
        keys = ("sample_size", "out_channels", "up_block_types")
        keys += ("time_cond_proj_dim",) if self.cross_attention_dim is not None or self.time_cond_proj_dim else ()
        keys += ("num_class_embeds",) if self.num_class_embeds else ()
        return {**super().get_config(), **{key: getattr(self, key) for key in keys}}


def path_below(layer: keras.layers.Layer, variable) -> str:
    """The path of a variable below a layer that contains it."""
    return variable.path.split(f"{layer.name}/", 1)[1]
