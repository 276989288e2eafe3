"""ControlNet, the adapter of Zhang et al. 2023: the one that public checkpoints exist for."""

from __future__ import annotations

import keras
from keras import ops

from codi_tf.core.precision import built_in, make_policy
from codi_tf.models.layers import Conv2D, PointwiseConv2D
from codi_tf.models.unet import UNet, UNetEncoder

HINT_WIDTHS = (16, 32, 96, 256)


class HintNetwork(keras.layers.Layer):
    """The condition image [B, f H, f W, channels_in] -> features [B, H, W, channels_out], f = 2 ** (widths - 1)."""

    def __init__(self, channels_in: int, widths, channels_out: int, **kwargs):
        super().__init__(**kwargs)
        self.channels_in, self.widths, self.channels_out = channels_in, tuple(widths), channels_out
        self.conv_in = Conv2D(widths[0], name="conv_in")
        steps = [pair for a, b in zip(widths, widths[1:], strict=False) for pair in ((a, a, 1), (a, b, 2))]
        self.blocks = [Conv2D(b, strides=stride, name=f"blocks.{i}") for i, (_, b, stride) in enumerate(steps)]
        self.conv_out = Conv2D(channels_out, kernel_initializer="zeros", name="conv_out")

    def build(self, input_shape=None):
        channels = self.channels_in
        for conv in (self.conv_in, *self.blocks, self.conv_out):
            conv.build((None, None, None, channels))
            channels = conv.filters

    def call(self, image):
        h = image
        for conv in (self.conv_in, *self.blocks):
            h = ops.silu(conv(h))
        return self.conv_out(h)

    def get_config(self):
        keys = ("channels_in", "widths", "channels_out")
        return {**super().get_config(), **{key: getattr(self, key) for key in keys}}


class ControlNet(UNetEncoder):
    """A copy of the UNet's encoder that sees z_t, t, the prompt and the condition image; what it says is added to the
    UNet's features through 1x1 convolutions that start at zero.

    The arguments are the keys of a diffusers ControlNetModel's `config.json`, with the same meaning. The features of
    the condition image do not depend on z_t or t: `condition` computes them once, the encoder runs in every step.
    """

    condition_space = "image"

    def __init__(self, *, conditioning_channels: int = 3, conditioning_embedding_out_channels=HINT_WIDTHS, **kwargs):
        super().__init__(**kwargs)
        self.conditioning_channels = conditioning_channels
        self.conditioning_embedding_out_channels = tuple(conditioning_embedding_out_channels)
        self.hint = HintNetwork(
            conditioning_channels,
            self.conditioning_embedding_out_channels,
            self.block_out_channels[0],
            name="controlnet_cond_embedding",
        )
        self.zero_convs = [
            _zero_conv(width, f"controlnet_down_blocks.{i}") for i, width in enumerate(self.skip_channels)
        ]
        self.zero_middle = _zero_conv(self.block_out_channels[-1], "controlnet_mid_block")

    @classmethod
    def duplicate(
        cls, unet: UNet, *, factor: int = 8, condition_channels: int = 3, name: str = "adapter"
    ) -> ControlNet:
        """A ControlNet whose encoder starts as a copy of the UNet's and whose convolutions to the UNet are 0.

        It computes in the UNet's format; its weights are float32, because they are trained.

        Args:
            unet: the base's.
            factor: of the autoencoder, 2, 4 or 8: the hint network makes the image as small as a latent.
            condition_channels: of the condition image.
            name: of the adapter.
        """
        widths = HINT_WIDTHS[: factor.bit_length()]
        with built_in(make_policy(unet.compute_dtype)):
            adapter = cls(
                name=name,
                conditioning_channels=condition_channels,
                conditioning_embedding_out_channels=widths,
                **unet.encoder_config(),
            )
            adapter.build()
        adapter.copy_encoder(unet)
        return adapter

    def build(self, input_shape=None):
        super().build()
        self.hint.build()
        for conv, width in zip(self.zero_convs, self.skip_channels, strict=True):
            conv.build((None, None, None, width))
        self.zero_middle.build((None, None, None, self.block_out_channels[-1]))

    def condition(self, c, context):
        """What does not depend on z_t and t: the features [B, h, w, C] of the condition image c in [-1, 1]."""
        return [self.hint((ops.cast(c, self.compute_dtype) + 1.0) / 2.0)]  # ControlNets are trained on [0, 1]

    def adapt(self, features, condition, z_t, t, context):
        """The UNet's features -> the adapted ones: h_theta(z_t) + zero convolution of h_eta(z_t, t, c)."""
        return [h + extra for h, extra in zip(features, self(z_t, t, context, *condition), strict=True)]

    def residuals(self, condition):
        """What is added inside the UNet's encoder: nothing."""
        return None

    def call(self, z_t, t, context, hint):
        """What is added to the UNet's skips and, last, to its middle block's output."""
        temb = self.time_embedding(t)
        skips = self.encode(z_t, temb, context, hint)
        middle = self.zero_middle(self.middle(skips[-1], temb, context))
        return [*(conv(skip) for conv, skip in zip(self.zero_convs, skips, strict=True)), middle]

    def get_config(self):
        keys = ("conditioning_channels", "conditioning_embedding_out_channels")
        return {**super().get_config(), **{key: getattr(self, key) for key in keys}}


def _zero_conv(channels: int, name: str) -> Conv2D:
    return PointwiseConv2D(channels, kernel_initializer="zeros", name=name)
