"""A small decoder of Stable Diffusion's latents: that of TAESD (Ollin Boer Bohan 2023), diffusers' AutoencoderTiny."""

from __future__ import annotations

import keras
from keras import ops

from codi_tf.core.errors import UserError
from codi_tf.models.layers import Conv2D, upsample_nearest

BOUND = 3.0  # latents are limited to BOUND tanh(z / BOUND)


class TinyBlock(keras.layers.Layer):
    """relu(x + conv(relu(conv(relu(conv(x)))))), without normalization. [B, H, W, channels]."""

    def __init__(self, channels: int, **kwargs):
        super().__init__(**kwargs)
        self.channels = channels
        self.convs = [Conv2D(channels, name=f"conv.{i}") for i in (0, 2, 4)]

    def build(self, input_shape=None):
        for conv in self.convs:
            conv.build((None, None, None, self.channels))

    def call(self, x):
        first, second, third = self.convs
        return ops.relu(x + third(ops.relu(second(ops.relu(first(x))))))

    def get_config(self):
        return {**super().get_config(), "channels": self.channels}


class DoubledConv2D(Conv2D):
    """A convolution of the map after nearest-neighbor upsampling by 2; height and width must be static."""

    def call(self, inputs):
        return super().call(upsample_nearest(inputs))


class TinyDecoder(keras.Model):
    """Scaled latents [B, h, w, latent_channels] -> images [B, f h, f w, out_channels], about [-1, 1], not clipped.

    f is 2 ** (levels - 1), 8 for Stable Diffusion. The arguments are the decoder's keys in the `config.json` of
    diffusers' AutoencoderTiny; latents are scaled, as there.

    Args:
        latent_channels, out_channels: channels of latents and images.
        decoder_block_out_channels: the width of each level, smallest map first; all must be equal.
        num_decoder_blocks: the number of residual blocks of each level.

    Raises:
        UserError: the widths differ, do not match the number of levels, or a number of blocks is invalid.
    """

    def __init__(
        self,
        *,
        latent_channels: int = 4,
        out_channels: int = 3,
        decoder_block_out_channels=(64, 64, 64, 64),
        num_decoder_blocks=(3, 3, 3, 1),
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.latent_channels, self.out_channels = latent_channels, out_channels
        self.decoder_block_out_channels = tuple(decoder_block_out_channels)
        self.num_decoder_blocks = tuple(num_decoder_blocks)
        _check(self.decoder_block_out_channels, self.num_decoder_blocks)
        width = self.width = self.decoder_block_out_channels[0]
        self.conv_in, self.body = Conv2D(width, name="decoder.layers.0"), []
        place = 2  # index in diffusers' list of layers, which includes activations and upsampling
        for level, blocks in enumerate(self.num_decoder_blocks):
            if level:
                self.body.append(DoubledConv2D(width, use_bias=False, name=f"decoder.layers.{place + 1}"))
                place += 2
            self.body += [TinyBlock(width, name=f"decoder.layers.{place + i}") for i in range(blocks)]
            place += blocks
        self.conv_out = Conv2D(out_channels, name=f"decoder.layers.{place}")

    @property
    def factor(self) -> int:
        """Pixels per latent position along each side."""
        return 2 ** (len(self.num_decoder_blocks) - 1)

    def build(self, input_shape=None):
        self.conv_in.build((None, None, None, self.latent_channels))
        for layer in (*self.body, self.conv_out):
            layer.build((None, None, None, self.width))

    def call(self, latents):
        h = ops.relu(self.conv_in(BOUND * ops.tanh(latents / BOUND)))
        for layer in self.body:
            h = layer(h)
        return 2.0 * ops.cast(self.conv_out(h), "float32") - 1.0

    def get_config(self):
        keys = ("name", "latent_channels", "out_channels", "decoder_block_out_channels", "num_decoder_blocks")
        return {key: getattr(self, key) for key in keys}


def _check(widths: tuple, blocks: tuple) -> None:
    if not blocks or not all(type(n) is int and n >= 0 for n in blocks):
        raise UserError(
            f"num_decoder_blocks is {blocks}: it must be the number of blocks of each level, such as (3, 3, 3, 1)"
        )
    if len(widths) != len(blocks):
        raise UserError(
            f"decoder_block_out_channels is {widths}, num_decoder_blocks {blocks}: they must have the same length"
        )
    if not all(type(n) is int and n > 0 for n in widths) or len(set(widths)) > 1:
        raise UserError(f"decoder_block_out_channels is {widths}: all levels must have the same width")
