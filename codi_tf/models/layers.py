"""The layers that Stable Diffusion's UNet and autoencoder share: convolutions, normalization, residual blocks, sizes.

All maps are channels last, [B, H, W, C]. Layers have the names that diffusers gives the same modules (dots included),
so that the path of a variable is its key in a diffusers checkpoint. Every layer knows its channels when it is made and
builds its children in `build`.
"""

from __future__ import annotations

import keras
from keras import ops

from codi_tf.models import fused
from codi_tf.models.convolution import doubled_convolution, prefers_phases, prefers_product, product_convolution
from codi_tf.models.low_rank import changed, has_change


def built_for_maps(layer: keras.layers.Layer, channels: int) -> None:
    """Build a layer for maps [B, H, W, channels]."""
    layer.build((None, None, None, channels))


class Conv2D(keras.layers.Conv2D):
    """Convolution with PyTorch's symmetric padding; Keras' "same" pads stride-2 convolutions on one side only."""

    def __init__(self, filters, kernel_size=3, *, strides=1, symmetric_padding=True, **kwargs):
        self.symmetric_padding = symmetric_padding
        padding = "same" if strides in (1, (1, 1), [1, 1]) else "valid"  # an int, or a list from a config
        kwargs = {"data_format": "channels_last", **kwargs}  # whatever keras.json says
        super().__init__(filters, kernel_size, strides=strides, padding=padding, **kwargs)

    def call(self, inputs):
        if self.strides != (1, 1):
            before = self.kernel_size[0] // 2 if self.symmetric_padding else 0
            inputs = ops.pad(inputs, [[0, 0], [before, 1], [before, 1], [0, 0]])
        elif self.use_bias and prefers_product(inputs, self.kernel):
            return changed(self, inputs, product_convolution(inputs, self.kernel, self.bias))
        return changed(self, inputs, super().call(inputs))

    def get_config(self):
        config = super().get_config()
        del config["padding"]
        return {**config, "symmetric_padding": self.symmetric_padding}


class PointwiseConv2D(Conv2D):
    """A 1x1 convolution with the arguments of a dense layer."""

    def __init__(self, filters, **kwargs):
        super().__init__(filters, 1, **kwargs)

    def get_config(self):
        config = super().get_config()
        del config["kernel_size"], config["strides"]
        return config


class GroupNorm(keras.layers.Layer):
    """Group normalization (Wu & He 2018) over space and the channels of a group, in float32 with any dtype policy.

    Input and output: [B, H, W, C]. With `shift`, [B or 1, 1, 1, C], it normalizes input + shift; with `silu` it is
    followed by x sigmoid(x).

    Raises:
        ValueError: the groups do not divide the channels.
    """

    def __init__(self, channels: int, groups: int = 32, epsilon: float = 1e-5, **kwargs):
        super().__init__(**kwargs)
        if groups < 1 or channels % groups:
            raise ValueError(f"GroupNorm: {channels} channels cannot be split into {groups} groups")
        self.channels, self.groups, self.epsilon = channels, groups, epsilon

    def build(self, input_shape=None):
        self.gamma = self.add_weight(name="gamma", shape=(self.channels,), initializer="ones")
        self.beta = self.add_weight(name="beta", shape=(self.channels,), initializer="zeros")

    def call(self, inputs, shift=None, silu=False):
        options = {"groups": self.groups, "epsilon": self.epsilon, "silu": silu}
        return fused.group_norm(ops.cast(inputs, self.compute_dtype), self.gamma, self.beta, shift, **options)

    def get_config(self):
        return {**super().get_config(), "channels": self.channels, "groups": self.groups, "epsilon": self.epsilon}


class Dense(keras.layers.Dense):
    """A dense layer over the last axis, as one product of rows: TensorFlow then adds the bias within the product.

    [..., C] -> [..., units]; all axes but the first are static.
    """

    def call(self, inputs):
        rows = super().call(ops.reshape(inputs, (-1, inputs.shape[-1])))
        return changed(self, inputs, ops.reshape(rows, (-1, *inputs.shape[1:-1], self.units)))


class LayerNorm(keras.layers.LayerNormalization):
    """Layer normalization over the last axis."""

    def call(self, inputs):
        return fused.layer_norm(ops.cast(inputs, self.compute_dtype), self.gamma, self.beta, epsilon=self.epsilon)


class ResnetBlock(keras.layers.Layer):
    """Two normalized convolutions with a shortcut; an optional time embedding is added between them.

    [B, H, W, in_channels] and, if there is one, the time embedding [B or 1, time_channels] -> [B, H, W, out_channels].
    """

    def __init__(self, in_channels, out_channels, *, groups, epsilon, time_channels=None, **kwargs):
        super().__init__(**kwargs)
        self.in_channels, self.out_channels, self.time_channels = in_channels, out_channels, time_channels
        self.groups, self.epsilon = groups, epsilon
        self.norm1 = GroupNorm(in_channels, groups, epsilon, name="norm1")
        self.conv1 = Conv2D(out_channels, name="conv1")
        self.time_emb_proj = Dense(out_channels, name="time_emb_proj") if time_channels else None
        self.norm2 = GroupNorm(out_channels, groups, epsilon, name="norm2")
        self.conv2 = Conv2D(out_channels, name="conv2")
        self.conv_shortcut = Conv2D(out_channels, 1, name="conv_shortcut") if in_channels != out_channels else None

    def build(self, input_shape=None):
        built_for_maps(self.norm1, self.in_channels)
        built_for_maps(self.conv1, self.in_channels)
        if self.time_emb_proj is not None:
            self.time_emb_proj.build((None, self.time_channels))
        built_for_maps(self.norm2, self.out_channels)
        built_for_maps(self.conv2, self.out_channels)
        if self.conv_shortcut is not None:
            built_for_maps(self.conv_shortcut, self.in_channels)

    def call(self, x, temb=None):
        h = self.conv1(self.norm1(x, silu=True))
        shift = None
        if self.time_emb_proj is not None:
            shift = ops.reshape(self.time_emb_proj(ops.silu(temb)), (-1, 1, 1, self.out_channels))
        h = self.conv2(self.norm2(h, shift, silu=True))
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
    """Halve height and width with a stride-2 convolution: [B, H, W, C] -> [B, H / 2, W / 2, C].

    The autoencoder's pads at the bottom and right only.
    """

    def __init__(self, channels: int, *, symmetric_padding: bool = True, **kwargs):
        super().__init__(**kwargs)
        self.channels, self.symmetric_padding = channels, symmetric_padding
        self.conv = Conv2D(channels, strides=2, symmetric_padding=symmetric_padding, name="conv")

    def build(self, input_shape=None):
        built_for_maps(self.conv, self.channels)

    def call(self, x):
        return self.conv(x)

    def get_config(self):
        return {**super().get_config(), "channels": self.channels, "symmetric_padding": self.symmetric_padding}


@ops.custom_gradient
def upsample_nearest(x):
    """Nearest-neighbor upsampling by 2: [B, H, W, C] -> [B, 2H, 2W, C]; H and W must be static.

    The gradient is the sum over the four copies, computed as four times their mean, because XLA cannot compile the
    gradient of TensorFlow's resize.
    """
    size = (2 * x.shape[1], 2 * x.shape[2])

    def gradient(*args, upstream=None):
        upstream = args[0] if upstream is None else upstream
        return 4.0 * ops.average_pool(upstream, 2, padding="valid", data_format="channels_last")

    return ops.image.resize(x, size, interpolation="nearest", data_format="channels_last"), gradient


class Upsample(keras.layers.Layer):
    """Nearest-neighbor upsampling by 2, then a convolution: [B, H, W, C] -> [B, 2 H, 2 W, C]; H and W are static."""

    def __init__(self, channels: int, **kwargs):
        super().__init__(**kwargs)
        self.channels = channels
        self.conv = Conv2D(channels, name="conv")

    def build(self, input_shape=None):
        built_for_maps(self.conv, self.channels)

    def call(self, x):
        if prefers_phases(x, self.conv.kernel):
            doubled = doubled_convolution(x, self.conv.kernel, self.conv.bias)
            return changed(self.conv, upsample_nearest(x), doubled) if has_change(self.conv) else doubled
        return self.conv(upsample_nearest(x))

    def get_config(self):
        return {**super().get_config(), "channels": self.channels}
