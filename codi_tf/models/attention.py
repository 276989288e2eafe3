"""Attention and transformers over tokens [B, N, C] and over the positions of maps [B, H, W, C]."""

from __future__ import annotations

import keras
from keras import ops

from codi_tf.models import activations, fused
from codi_tf.models.layers import Dense, GroupNorm, LayerNorm, PointwiseConv2D, built_for_maps
from codi_tf.models.numerics import EPSILON


class Attention(keras.layers.Layer):
    """Multi-head attention of x [B, N, C] over a context [B, M, D], or over itself without a context.

    `upcast` computes the attention weights in float32 with any dtype policy. The output is [B, N, C].

    Raises:
        ValueError: the heads do not divide the channels.
    """

    def __init__(self, channels: int, heads: int, *, context_channels=None, qkv_bias=False, upcast=False, **kwargs):
        super().__init__(**kwargs)
        if heads < 1 or channels % heads:
            raise ValueError(f"Attention: {channels} channels cannot be split into {heads} heads")
        self.channels, self.heads, self.context_channels = channels, heads, context_channels
        self.qkv_bias, self.upcast = qkv_bias, upcast
        self.to_q = Dense(channels, use_bias=qkv_bias, name="to_q")
        self.to_k = Dense(channels, use_bias=qkv_bias, name="to_k")
        self.to_v = Dense(channels, use_bias=qkv_bias, name="to_v")
        self.to_out = Dense(channels, name="to_out.0")

    def build(self, input_shape=None):
        self.to_q.build((None, None, self.channels))
        self.to_k.build((None, None, self.context_channels or self.channels))
        self.to_v.build((None, None, self.context_channels or self.channels))
        self.to_out.build((None, None, self.channels))

    def _split(self, x):  # [B, N, C] -> [B, heads, N, C / heads]
        x = ops.reshape(x, (-1, x.shape[1], self.heads, self.channels // self.heads))
        return ops.transpose(x, (0, 2, 1, 3))

    def call(self, x, context=None):
        context = x if context is None else context
        q = self._split(self.to_q(x)) * (self.channels // self.heads) ** -0.5
        k, v = self._split(self.to_k(context)), self._split(self.to_v(context))
        if self.upcast:
            q, k = ops.cast(q, "float32"), ops.cast(k, "float32")
        out = ops.transpose(fused.attend(q, k, v), (0, 2, 1, 3))  # [B, N, heads, C / heads]
        return self.to_out(ops.reshape(out, (-1, x.shape[1], self.channels)))

    def get_config(self):
        return {
            **super().get_config(),
            "channels": self.channels,
            "heads": self.heads,
            "context_channels": self.context_channels,
            "qkv_bias": self.qkv_bias,
            "upcast": self.upcast,
        }


class SpatialAttention(Attention):
    """Normalization, self-attention over all positions, and a residual, [B, H, W, C], in a network without prompts.

    The autoencoder's has one head. A context is not used: blocks pass one to every kind of attention.
    """

    def __init__(self, channels: int, *, groups: int, heads: int = 1, epsilon: float = 1e-6, **kwargs):
        super().__init__(channels, heads, qkv_bias=True, **kwargs)
        self.groups, self.epsilon = groups, epsilon
        self.group_norm = GroupNorm(channels, groups, epsilon, name="group_norm")

    def build(self, input_shape=None):
        built_for_maps(self.group_norm, self.channels)
        super().build()

    def call(self, x, context=None):
        tokens = ops.reshape(self.group_norm(x), (-1, x.shape[1] * x.shape[2], self.channels))
        return x + ops.reshape(super().call(tokens), (-1, x.shape[1], x.shape[2], self.channels))

    def get_config(self):
        config = super().get_config()
        for inherited in ("context_channels", "qkv_bias", "upcast"):
            del config[inherited]
        return {**config, "groups": self.groups, "epsilon": self.epsilon}


class FeedForward(keras.layers.Layer):
    """GEGLU feed-forward network (Shazeer 2020) of four times the width, over tokens [B, N, C].

    `tanh_gelu` selects the tanh approximation of GELU.
    """

    def __init__(self, channels: int, *, tanh_gelu: bool = False, **kwargs):
        super().__init__(**kwargs)
        self.channels, self.tanh_gelu = channels, tanh_gelu
        self.proj = Dense(8 * channels, name="net.0.proj")
        self.out = Dense(channels, name="net.2")

    def build(self, input_shape=None):
        self.proj.build((None, None, self.channels))
        self.out.build((None, None, 4 * self.channels))

    def call(self, x):
        value, gate = ops.split(self.proj(x), 2, axis=-1)
        return self.out(value * activations.tanh_gelu(gate) if self.tanh_gelu else fused.geglu(value, gate))

    def get_config(self):
        return {**super().get_config(), "channels": self.channels, "tanh_gelu": self.tanh_gelu}


class TransformerBlock(keras.layers.Layer):
    """Self-attention, cross-attention to the prompt, feed-forward; each with a residual.

    Takes x [B, N, C] and the context [B, M, D]; returns [B, N, C].
    """

    def __init__(self, channels, heads, context_channels, *, upcast_attention=False, tanh_gelu=False, **kwargs):
        super().__init__(**kwargs)
        self.channels, self.heads, self.context_channels = channels, heads, context_channels
        self.upcast_attention, self.tanh_gelu = upcast_attention, tanh_gelu
        self.norm1 = LayerNorm(epsilon=1e-5, name="norm1")
        self.attn1 = Attention(channels, heads, upcast=upcast_attention, name="attn1")
        self.norm2 = LayerNorm(epsilon=1e-5, name="norm2")
        self.attn2 = Attention(
            channels, heads, context_channels=context_channels, upcast=upcast_attention, name="attn2"
        )
        self.norm3 = LayerNorm(epsilon=1e-5, name="norm3")
        self.ff = FeedForward(channels, tanh_gelu=tanh_gelu, name="ff")

    def build(self, input_shape=None):
        for norm in (self.norm1, self.norm2, self.norm3):
            norm.build((None, None, self.channels))
        for layer in (self.attn1, self.attn2, self.ff):
            layer.build()

    def call(self, x, context):
        x = x + self.attn1(self.norm1(x))
        x = x + self.attn2(self.norm2(x), context)
        return x + self.ff(self.norm3(x))

    def get_config(self):
        keys = ("channels", "heads", "context_channels", "upcast_attention", "tanh_gelu")
        return {**super().get_config(), **{key: getattr(self, key) for key in keys}}


class SpatialTransformer(keras.layers.Layer):
    """A transformer over the positions of a feature map [B, H, W, C] and a prompt [B, M, D], with a residual.

    `linear_projection` selects dense layers (Stable Diffusion 2.x) instead of 1x1 convolutions (1.x). `numerics` is
    "diffusers", as in the code that trained the checkpoints, or "keras_cv": group normalization with an epsilon of 1e-5
    instead of 1e-6, and the tanh approximation of GELU.
    """

    def __init__(
        self,
        channels,
        heads,
        context_channels,
        *,
        groups,
        linear_projection=False,
        upcast_attention=False,
        numerics="diffusers",
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.channels, self.heads, self.context_channels = channels, heads, context_channels
        self.groups, self.linear_projection = groups, linear_projection
        self.upcast_attention, self.numerics = upcast_attention, numerics
        self.norm = GroupNorm(channels, groups, EPSILON[numerics], name="norm")
        projection = Dense if linear_projection else PointwiseConv2D
        self.proj_in = projection(channels, name="proj_in")
        self.block = TransformerBlock(
            channels,
            heads,
            context_channels,
            upcast_attention=upcast_attention,
            tanh_gelu=numerics == "keras_cv",
            name="transformer_blocks.0",
        )
        self.proj_out = projection(channels, name="proj_out")

    def build(self, input_shape=None):
        built_for_maps(self.norm, self.channels)
        built_for_maps(self.proj_in, self.channels)
        self.block.build()
        built_for_maps(self.proj_out, self.channels)

    def call(self, x, context):
        height, width = x.shape[1], x.shape[2]
        tokens = ops.reshape(self.proj_in(self.norm(x)), (-1, height * width, self.channels))
        tokens = self.block(tokens, context)
        return x + self.proj_out(ops.reshape(tokens, (-1, height, width, self.channels)))

    def get_config(self):
        keys = (
            "channels",
            "heads",
            "context_channels",
            "groups",
            "linear_projection",
            "upcast_attention",
            "numerics",
        )
        return {**super().get_config(), **{key: getattr(self, key) for key in keys}}
