"""The layers that Stable Diffusion's UNet and autoencoder are made of, channels last.

Layers carry the names that diffusers gives the same modules (dots included), so that the path of a variable is its key
in a diffusers checkpoint. Every layer knows its channels when it is made and builds its children in `build`.
"""

from __future__ import annotations

import math

import keras
from keras import ops

from codi_tf.models.convolution import doubled_convolution, prefers_phases, prefers_product, product_convolution


def gelu(x):
    """x Phi(x), exact, written with erf: Keras' own becomes Erfc, which ONNX Runtime does not load."""
    return 0.5 * x * (1.0 + ops.erf(x * 2.0**-0.5))


def _built(layer, channels: int) -> None:
    layer.build((None, None, None, channels))


class Conv2D(keras.layers.Conv2D):
    """Convolution with PyTorch's symmetric padding (Keras' "same" pads stride-2 convolutions on one side only)."""

    def __init__(self, filters, kernel_size=3, *, strides=1, symmetric_padding=True, **kwargs):
        self.symmetric_padding = symmetric_padding
        padding = "same" if strides in (1, (1, 1), [1, 1]) else "valid"  # a number, or from a config
        super().__init__(filters, kernel_size, strides=strides, padding=padding, **kwargs)

    def call(self, inputs):
        if self.strides != (1, 1):
            before = self.kernel_size[0] // 2 if self.symmetric_padding else 0
            inputs = ops.pad(inputs, [[0, 0], [before, 1], [before, 1], [0, 0]])
        elif self.use_bias and prefers_product(inputs, self.kernel):
            return product_convolution(inputs, self.kernel, self.bias)
        return super().call(inputs)

    def get_config(self):
        config = super().get_config()
        del config["padding"]
        return {**config, "symmetric_padding": self.symmetric_padding}


class PointwiseConv2D(Conv2D):
    """A 1x1 convolution, made with the arguments of a dense layer."""

    def __init__(self, filters, **kwargs):
        super().__init__(filters, 1, **kwargs)

    def get_config(self):
        config = super().get_config()
        del config["kernel_size"], config["strides"]
        return config


class GroupNorm(keras.layers.Layer):
    """Group normalisation over space and the channels of a group, in float32 whatever the policy.

    Means are taken over columns, rows and the channels of a group, one after the other: each reduction then runs along
    contiguous memory, adds few numbers at a time, and no tensor has more than four dimensions.

    Input and output: [B, H, W, C].
    """

    def __init__(self, channels: int, groups: int = 32, epsilon: float = 1e-5, **kwargs):
        super().__init__(**kwargs)
        if groups < 1 or channels % groups:
            raise ValueError(f"GroupNorm: {channels} channels cannot be split into {groups} groups")
        self.channels, self.groups, self.epsilon = channels, groups, epsilon

    def build(self, input_shape=None):
        self.gamma = self.add_weight(name="gamma", shape=(self.channels,), initializer="ones")
        self.beta = self.add_weight(name="beta", shape=(self.channels,), initializer="zeros")

    def _group_mean(self, x):  # [B, H, W, C] -> [B, 1, 1, C], the mean of each channel's group
        per_channel = ops.mean(ops.mean(x, axis=2), axis=1)  # [B, C]
        grouped = ops.reshape(per_channel, (-1, self.groups, self.channels // self.groups))
        per_group = ops.mean(grouped, axis=-1, keepdims=True)  # [B, G, 1]
        spread = per_group + ops.zeros((1, 1, self.channels // self.groups))  # broadcasts without a dynamic shape
        return ops.reshape(spread, (-1, 1, 1, self.channels))

    def call(self, inputs):
        x = ops.cast(inputs, "float32")
        x = x - self._group_mean(x)
        scale = ops.rsqrt(self._group_mean(ops.square(x)) + self.epsilon) * ops.cast(self.gamma, "float32")
        return ops.cast(x * scale + ops.cast(self.beta, "float32"), self.compute_dtype)

    def get_config(self):
        return {**super().get_config(), "channels": self.channels, "groups": self.groups, "epsilon": self.epsilon}


class TimeEmbedding(keras.layers.Layer):
    """Sinusoidal features of the time index, then two dense layers.

    Input: int [B] and, for a network that takes the guidance weight, its features float32 [B, condition_channels],
    which are projected and added to those of the time (diffusers' `cond_proj`). Output: [B, 4 * channels].
    """

    def __init__(self, channels: int, condition_channels: int | None = None, **kwargs):
        super().__init__(**kwargs)
        self.channels, self.condition_channels = channels, condition_channels
        self.cond_proj = None
        if condition_channels:  # zero: a new network starts as the one that knows no weight
            self.cond_proj = keras.layers.Dense(channels, use_bias=False, kernel_initializer="zeros", name="cond_proj")
        self.linear_1 = keras.layers.Dense(4 * channels, name="linear_1")
        self.linear_2 = keras.layers.Dense(4 * channels, name="linear_2")

    def build(self, input_shape=None):
        self.linear_1.build((None, self.channels))
        self.linear_2.build((None, 4 * self.channels))
        if self.cond_proj is not None:
            self.cond_proj.build((None, self.condition_channels))

    def call(self, t, condition=None):
        features = ops.cast(time_features(t, self.channels), self.compute_dtype)
        if condition is not None:
            features = features + self.cond_proj(ops.cast(condition, self.compute_dtype))
        return self.linear_2(ops.silu(self.linear_1(features)))

    def get_config(self):
        return {**super().get_config(), "channels": self.channels, "condition_channels": self.condition_channels}


def time_features(t, channels: int):
    """[cos(t f_i), sin(t f_i)], f_i = 10000^(-i / (channels / 2)): times [B] -> float32 [B, channels]."""
    half = channels // 2
    frequencies = ops.exp(-math.log(10000.0) * ops.arange(half, dtype="float32") / half)
    angles = ops.reshape(ops.cast(t, "float32"), (-1, 1)) * ops.reshape(frequencies, (1, half))
    return ops.concatenate([ops.cos(angles), ops.sin(angles)], axis=-1)


def guidance_features(weight, channels: int):
    """[sin(1000 w f_i), cos(1000 w f_i)], f_i = 10000^(-i / (channels / 2 - 1)): Fourier features of guidance weights.

    Meng et al. 2023, section 3.1, with the frequencies of diffusers' latent consistency models. w is guidance - 1.

    Args:
        weight: float [B].
        channels: even, at least 4.

    Returns:
        float32 [B, channels].
    """
    half = channels // 2
    frequencies = ops.exp(-math.log(10000.0) * ops.arange(half, dtype="float32") / (half - 1))
    angles = 1000.0 * ops.reshape(ops.cast(weight, "float32"), (-1, 1)) * ops.reshape(frequencies, (1, half))
    return ops.concatenate([ops.sin(angles), ops.cos(angles)], axis=-1)


class ResnetBlock(keras.layers.Layer):
    """Two normalised convolutions with a shortcut; a time embedding, where there is one, is added between them.

    Input and output: [B, H, W, in_channels] -> [B, H, W, out_channels].
    """

    def __init__(self, in_channels, out_channels, *, groups, epsilon, time_channels=None, **kwargs):
        super().__init__(**kwargs)
        self.in_channels, self.out_channels, self.time_channels = in_channels, out_channels, time_channels
        self.groups, self.epsilon = groups, epsilon
        self.norm1 = GroupNorm(in_channels, groups, epsilon, name="norm1")
        self.conv1 = Conv2D(out_channels, name="conv1")
        self.time_emb_proj = keras.layers.Dense(out_channels, name="time_emb_proj") if time_channels else None
        self.norm2 = GroupNorm(out_channels, groups, epsilon, name="norm2")
        self.conv2 = Conv2D(out_channels, name="conv2")
        self.conv_shortcut = Conv2D(out_channels, 1, name="conv_shortcut") if in_channels != out_channels else None

    def build(self, input_shape=None):
        _built(self.norm1, self.in_channels)
        _built(self.conv1, self.in_channels)
        if self.time_emb_proj is not None:
            self.time_emb_proj.build((None, self.time_channels))
        _built(self.norm2, self.out_channels)
        _built(self.conv2, self.out_channels)
        if self.conv_shortcut is not None:
            _built(self.conv_shortcut, self.in_channels)

    def call(self, x, temb=None):
        h = self.conv1(ops.silu(self.norm1(x)))
        if self.time_emb_proj is not None:
            h = h + ops.reshape(self.time_emb_proj(ops.silu(temb)), (-1, 1, 1, self.out_channels))
        h = self.conv2(ops.silu(self.norm2(h)))
        return h + (x if self.conv_shortcut is None else self.conv_shortcut(x))

    def get_config(self):
        return {
            **super().get_config(),
            "in_channels": self.in_channels,
            "out_channels": self.out_channels,
            "groups": self.groups,
            "epsilon": self.epsilon,
            "time_channels": self.time_channels,
        }


class Downsample(keras.layers.Layer):
    """Halve height and width with a stride-2 convolution; the autoencoder pads at the bottom and right only."""

    def __init__(self, channels: int, *, symmetric_padding: bool = True, **kwargs):
        super().__init__(**kwargs)
        self.channels, self.symmetric_padding = channels, symmetric_padding
        self.conv = Conv2D(channels, strides=2, symmetric_padding=symmetric_padding, name="conv")

    def build(self, input_shape=None):
        _built(self.conv, self.channels)

    def call(self, x):
        return self.conv(x)

    def get_config(self):
        return {**super().get_config(), "channels": self.channels, "symmetric_padding": self.symmetric_padding}


@ops.custom_gradient
def upsample_nearest(x):
    """Every pixel of x [B, H, W, C] twice in both directions, [B, 2H, 2W, C]; H and W must be static.

    The gradient is the sum over the four, as four times their mean: XLA cannot compile that of TensorFlow's resize.
    """
    size = (2 * x.shape[1], 2 * x.shape[2])

    def gradient(*args, upstream=None):
        upstream = args[0] if upstream is None else upstream
        return 4.0 * ops.average_pool(upstream, 2, padding="valid", data_format="channels_last")

    return ops.image.resize(x, size, interpolation="nearest", data_format="channels_last"), gradient


class Upsample(keras.layers.Layer):
    """Double height and width by repetition, then convolve. Height and width must be static."""

    def __init__(self, channels: int, **kwargs):
        super().__init__(**kwargs)
        self.channels = channels
        self.conv = Conv2D(channels, name="conv")

    def build(self, input_shape=None):
        _built(self.conv, self.channels)

    def call(self, x):
        if prefers_phases(x, self.conv.kernel):
            return doubled_convolution(x, self.conv.kernel, self.conv.bias)
        return self.conv(upsample_nearest(x))

    def get_config(self):
        return {**super().get_config(), "channels": self.channels}


class Attention(keras.layers.Layer):
    """Multi-head attention of x [B, N, C] over a context [B, M, D], or over itself where there is no context.

    `upcast` computes the weights in float32, whatever the policy.
    """

    def __init__(self, channels: int, heads: int, *, context_channels=None, qkv_bias=False, upcast=False, **kwargs):
        super().__init__(**kwargs)
        if heads < 1 or channels % heads:
            raise ValueError(f"Attention: {channels} channels cannot be split into {heads} heads")
        self.channels, self.heads, self.context_channels = channels, heads, context_channels
        self.qkv_bias, self.upcast = qkv_bias, upcast
        self.to_q = keras.layers.Dense(channels, use_bias=qkv_bias, name="to_q")
        self.to_k = keras.layers.Dense(channels, use_bias=qkv_bias, name="to_k")
        self.to_v = keras.layers.Dense(channels, use_bias=qkv_bias, name="to_v")
        self.to_out = keras.layers.Dense(channels, name="to_out.0")

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
        weights = ops.softmax(ops.matmul(q, ops.transpose(k, (0, 1, 3, 2))), axis=-1)  # [B, heads, N, M]
        out = ops.transpose(ops.matmul(ops.cast(weights, v.dtype), v), (0, 2, 1, 3))  # [B, N, heads, C / heads]
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
    """The autoencoder's attention: one head over all positions, normalised before, added to its input. [B, H, W, C]."""

    def __init__(self, channels: int, *, groups: int, epsilon: float = 1e-6, **kwargs):
        super().__init__(channels, 1, qkv_bias=True, **kwargs)
        self.groups, self.epsilon = groups, epsilon
        self.group_norm = GroupNorm(channels, groups, epsilon, name="group_norm")

    def build(self, input_shape=None):
        _built(self.group_norm, self.channels)
        super().build()

    def call(self, x):
        tokens = ops.reshape(self.group_norm(x), (-1, x.shape[1] * x.shape[2], self.channels))
        return x + ops.reshape(super().call(tokens), (-1, x.shape[1], x.shape[2], self.channels))

    def get_config(self):
        config = super().get_config()
        for inherited in ("heads", "context_channels", "qkv_bias", "upcast"):
            del config[inherited]
        return {**config, "groups": self.groups, "epsilon": self.epsilon}


class FeedForward(keras.layers.Layer):
    """GEGLU feed-forward of four times the width; `tanh_gelu`: with the tanh approximation of GELU."""

    def __init__(self, channels: int, *, tanh_gelu: bool = False, **kwargs):
        super().__init__(**kwargs)
        self.channels, self.tanh_gelu = channels, tanh_gelu
        self.proj = keras.layers.Dense(8 * channels, name="net.0.proj")
        self.out = keras.layers.Dense(channels, name="net.2")

    def build(self, input_shape=None):
        self.proj.build((None, None, self.channels))
        self.out.build((None, None, 4 * self.channels))

    def call(self, x):
        value, gate = ops.split(self.proj(x), 2, axis=-1)
        return self.out(value * (ops.gelu(gate, approximate=True) if self.tanh_gelu else gelu(gate)))

    def get_config(self):
        return {**super().get_config(), "channels": self.channels, "tanh_gelu": self.tanh_gelu}


class TransformerBlock(keras.layers.Layer):
    """Self-attention, cross-attention to the prompt, feed-forward; each normalised before and added. x is [B, N, C]."""

    def __init__(self, channels, heads, context_channels, *, upcast_attention=False, tanh_gelu=False, **kwargs):
        super().__init__(**kwargs)
        self.channels, self.heads, self.context_channels = channels, heads, context_channels
        self.upcast_attention, self.tanh_gelu = upcast_attention, tanh_gelu
        self.norm1 = keras.layers.LayerNormalization(epsilon=1e-5, name="norm1")
        self.attn1 = Attention(channels, heads, upcast=upcast_attention, name="attn1")
        self.norm2 = keras.layers.LayerNormalization(epsilon=1e-5, name="norm2")
        self.attn2 = Attention(
            channels, heads, context_channels=context_channels, upcast=upcast_attention, name="attn2"
        )
        self.norm3 = keras.layers.LayerNormalization(epsilon=1e-5, name="norm3")
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
    """A transformer over the positions of a feature map [B, H, W, C], added to it.

    `linear_projection` tells the two generations of Stable Diffusion apart: 1x1 convolutions (1.x), dense layers (2.x).
    `numerics` is "diffusers", as in the checkpoints' own training code, or "keras_cv": group normalisation with an
    epsilon of 1e-5 instead of 1e-6, GELU in its tanh approximation.
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
        self.norm = GroupNorm(channels, groups, 1e-5 if numerics == "keras_cv" else 1e-6, name="norm")
        projection = keras.layers.Dense if linear_projection else PointwiseConv2D
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
        _built(self.norm, self.channels)
        _built(self.proj_in, self.channels)
        self.block.build()
        _built(self.proj_out, self.channels)

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
