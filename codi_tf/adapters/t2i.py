"""T2I-Adapter (Mou et al. 2023): a small network that runs once per image. And its folder in diffusers' form."""

from __future__ import annotations

from pathlib import Path

import keras
from keras import ops

from codi_tf.adapters import ADAPTERS
from codi_tf.adapters.adapted import check_image_adapter
from codi_tf.adapters.diffusers_form import DiffusersAdapter
from codi_tf.checkpoints.base import Base
from codi_tf.checkpoints.kinds import Kind
from codi_tf.core.errors import UserError
from codi_tf.core.precision import built_in, make_policy
from codi_tf.models.layers import Conv2D, PointwiseConv2D
from codi_tf.models.unet import UNet

RES_BLOCKS = {"full_adapter": 2, "light_adapter": 4}  # adapter_type -> residual blocks a level, as published


class ResidualBlock(keras.layers.Layer):
    """x + conv(relu(conv_3x3(x))), without normalization. [B, H, W, channels].

    Args:
        channels: of input and output.
        second: the second convolution's kernel size: 1 in full adapters, 3 in light ones.
    """

    def __init__(self, channels: int, second: int, **kwargs):
        super().__init__(**kwargs)
        self.channels, self.second = channels, second
        self.block1 = Conv2D(channels, name="block1")
        self.block2 = Conv2D(channels, second, name="block2")

    def build(self, input_shape=None):
        for conv in (self.block1, self.block2):
            conv.build((None, None, None, self.channels))

    def call(self, x):
        return x + self.block2(ops.relu(self.block1(x)))

    def get_config(self):
        return {**super().get_config(), "channels": self.channels, "second": self.second}


class AdapterBlock(keras.layers.Layer):
    """One level: the mean of 2x2 pixels where the level halves the resolution, then residual blocks.

    A light block computes with a quarter of its output's channels, between two 1x1 convolutions; a full block with all
    of them, after a 1x1 convolution where their number changes. [B, H, W, channels_in] -> [B, H, W, channels], or half
    of H and W.

    Args:
        channels_in, channels: of input and output.
        res_blocks: the number of residual blocks.
        light: whether it is a light block.
        down: whether the level halves the resolution.
        zero: whether its first 1x1 convolution starts at zero.
    """

    def __init__(
        self, channels_in: int, channels: int, *, res_blocks: int, light: bool, down: bool, zero: bool, **kwargs
    ):
        super().__init__(**kwargs)
        self.channels_in, self.channels, self.res_blocks = channels_in, channels, res_blocks
        self.light, self.down, self.zero = light, down, zero
        self.width = channels // 4 if light else channels  # of the residual blocks
        self.in_conv, self.out_conv = None, None
        if light or channels_in != channels:
            first = "zeros" if zero else "glorot_uniform"
            self.in_conv = PointwiseConv2D(self.width, kernel_initializer=first, name="in_conv")
        self.resnets = [ResidualBlock(self.width, 3 if light else 1, name=f"resnets.{i}") for i in range(res_blocks)]
        if light:
            self.out_conv = PointwiseConv2D(channels, name="out_conv")

    def build(self, input_shape=None):
        if self.in_conv is not None:
            self.in_conv.build((None, None, None, self.channels_in))
        for resnet in self.resnets:
            resnet.build()
        if self.out_conv is not None:
            self.out_conv.build((None, None, None, self.width))

    def call(self, x):
        if self.down:
            # At an odd edge: the mean of fewer pixels.
            x = ops.average_pool(x, 2, strides=2, padding="same", data_format="channels_last")
        if self.in_conv is not None:
            x = self.in_conv(x)
        for resnet in self.resnets:
            x = resnet(x)
        return x if self.out_conv is None else self.out_conv(x)

    def get_config(self):
        keys = ("channels_in", "channels", "res_blocks", "light", "down", "zero")
        return {**super().get_config(), **{key: getattr(self, key) for key in keys}}


@ADAPTERS.register("t2i")
class T2IAdapter(DiffusersAdapter):
    """Features of the condition image, one for each level of the UNet's encoder, which are added there.

    The arguments are the keys of the `config.json` of diffusers' T2IAdapter, with the same meaning. A "full_adapter"
    has one feature for each of `channels`; a "light_adapter" has one more, with as many channels as the last.

    The first convolution and all biases start at zero: the features of a new adapter are 0, and every weight has a
    gradient after the first update. Zeros at the end would not work: a full adapter ends in sums, and each level of a
    light one continues from the output of the level before.

    Raises:
        UserError: for an unknown adapter_type; "full_adapter_xl" is for UNets that are not supported.
    """

    def __init__(
        self,
        *,
        in_channels: int = 3,
        channels=(320, 640, 1280, 1280),
        num_res_blocks: int = 2,
        downscale_factor: int = 8,
        adapter_type: str = "full_adapter",
        **kwargs,
    ):
        super().__init__(**kwargs)
        if adapter_type not in RES_BLOCKS:
            raise UserError(f"adapter_type is {adapter_type!r}, which is not supported: use {' or '.join(RES_BLOCKS)}")
        self.in_channels, self.channels, self.num_res_blocks = in_channels, tuple(channels), num_res_blocks
        self.downscale_factor, self.adapter_type = downscale_factor, adapter_type

        light = adapter_type == "light_adapter"
        width = in_channels * downscale_factor**2
        self.conv_in = None
        if not light:
            self.conv_in = Conv2D(self.channels[0], kernel_initializer="zeros", name="adapter.conv_in")
            width = self.channels[0]
        self.body = []
        for i, channels in enumerate(self.feature_channels):
            options = {"light": light, "down": i > 0, "zero": light and i == 0}
            self.body.append(
                AdapterBlock(width, channels, res_blocks=num_res_blocks, name=f"adapter.body.{i}", **options)
            )
            width = channels

    @classmethod
    def kind(cls) -> Kind:
        return T2I_ADAPTER

    def check(self, base: Base, condition_channels: int) -> None:
        assert base.unet is not None
        if tuple(self.feature_channels) != tuple(base.unet.block_out_channels):
            raise UserError(
                f"the T2IAdapter's features have {tuple(self.feature_channels)} channels, the base's levels "
                f"{tuple(base.unet.block_out_channels)}: take one made for this base"
            )
        channels = (self.in_channels, condition_channels)
        check_image_adapter(self, base, channels=channels, factor=self.downscale_factor)

    @classmethod
    def duplicate(
        cls, unet: UNet, *, kind: str | None = None, factor: int, condition_channels: int = 3, name: str = "adapter"
    ) -> T2IAdapter:
        """A new adapter for this UNet, whose output it leaves unchanged until it is trained.

        It computes in the UNet's format; its weights are float32, because they are trained.

        Args:
            unet: the base's.
            kind: "light_adapter" or "full_adapter"; None: light if the UNet's last two levels have equally many
                channels, as in Stable Diffusion, which a light adapter requires.
            factor: of the autoencoder, by which the adapter reduces the image.
            condition_channels: of the condition image.
            name: of the adapter.

        Raises:
            UserError: for an unknown kind, or a light one that does not fit.
        """
        widths = unet.block_out_channels
        fits = widths[-1:] == widths[-2:-1]
        if kind is None:
            kind = "light_adapter" if fits else "full_adapter"
        elif kind == "light_adapter" and not fits:
            raise UserError(
                f"a light_adapter's last two features are equally wide, but the UNet has {widths} channels: "
                "use full_adapter"
            )
        with built_in(make_policy(unet.compute_dtype)):
            adapter = cls(
                name=name,
                in_channels=condition_channels,
                channels=widths[:-1] if kind == "light_adapter" else widths,
                num_res_blocks=RES_BLOCKS.get(kind, 2),
                downscale_factor=factor,
                adapter_type=kind,
            )
            adapter.build()
        return adapter

    @property
    def feature_channels(self) -> tuple[int, ...]:
        """The channels of the features: those of the UNet's levels, if the two fit."""
        return (*self.channels, self.channels[-1]) if self.adapter_type == "light_adapter" else self.channels

    def build(self, input_shape=None):
        if self.conv_in is not None:
            self.conv_in.build((None, None, None, self.in_channels * self.downscale_factor**2))
        for block in self.body:
            block.build()

    def call(self, image):
        """Image [B, f h, f w, in_channels] in [0, 1] -> features [B, h, w, channels], [B, h/2, w/2, channels], ..."""
        h = pixel_unshuffle(ops.cast(image, self.compute_dtype), self.downscale_factor)
        if self.conv_in is not None:
            h = self.conv_in(h)
        features = []
        for block in self.body:
            h = block(h)
            features.append(h)
        return features

    def condition(self, c, conditioning):
        """The features of the condition image c [B, f h, f w, 3 or 4] in [-1, 1]: all that this adapter computes."""
        return self((ops.cast(c, self.compute_dtype) + 1.0) / 2.0)  # T2I-Adapters are trained on [0, 1]

    def residuals(self, condition_features):
        return condition_features

    def emit_condition(self, g, nets, c, context):
        h = g.pixel_unshuffle(g.affine(c, 0.5, 0.5), self.downscale_factor)
        h = h if self.conv_in is None else g.conv(h, self.conv_in)
        features = []
        for block in self.body:
            h = g.downsample_mean(h) if block.down else h
            h = h if block.in_conv is None else g.conv(h, block.in_conv)
            for resnet in block.resnets:
                h = g.add(h, g.conv(g.relu(g.conv(h, resnet.block1)), resnet.block2))
            h = h if block.out_conv is None else g.conv(h, block.out_conv)
            features.append(h)
        return features

    def emit_residuals(self, condition_features):
        return condition_features

    def neutral_features(self, count):
        return [0.0] * count

    def get_config(self):
        keys = ("in_channels", "channels", "num_res_blocks", "downscale_factor", "adapter_type")
        return {"name": self.name, **{key: getattr(self, key) for key in keys}}


T2I_ADAPTER = Kind(
    peer="T2IAdapter",
    network=T2IAdapter,
    file="diffusion_pytorch_model",
    ours={
        "in_channels": 3,
        "channels": (320, 640, 1280, 1280),
        "num_res_blocks": 2,
        "downscale_factor": 8,
        "adapter_type": "full_adapter",
    },
    fixed={},
    inert=frozenset(),
    positive=dict.fromkeys(("in_channels", "num_res_blocks", "downscale_factor"), int),
)


def load_t2i_adapter(folder: str | Path, *, compute: str = "float32") -> T2IAdapter:
    """Read a diffusers T2IAdapter, to be the adapter of a model: `CoDi(base, adapter=load_t2i_adapter(folder))`.

    Arguments and errors are those of `diffusers_form.DiffusersAdapter.from_folder`.
    """
    return T2IAdapter.from_folder(folder, compute=compute)


def pixel_unshuffle(image, factor: int):
    """[B, f H, f W, C] -> [B, H, W, C f f], in PyTorch's order: the pixels of one channel are adjacent."""
    height, width, channels = image.shape[1] // factor, image.shape[2] // factor, image.shape[3]
    blocks = ops.reshape(image, (-1, height, factor, width, factor, channels))
    return ops.reshape(ops.transpose(blocks, (0, 1, 3, 5, 2, 4)), (-1, height, width, channels * factor * factor))
