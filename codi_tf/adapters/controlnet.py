"""ControlNet (Zhang et al. 2023), and its folder in diffusers' form."""

from __future__ import annotations

from pathlib import Path

import keras
from keras import ops

from codi_tf.adapters import ADAPTERS
from codi_tf.adapters.adapted import check_image_adapter
from codi_tf.adapters.diffusers_form import DiffusersAdapter
from codi_tf.checkpoints.base import Base
from codi_tf.checkpoints.kinds import ENCODER, ENCODER_FIXED, ENCODER_LISTS, ENCODER_POSITIVE, Kind
from codi_tf.core.errors import UserError
from codi_tf.core.precision import built_in, make_policy
from codi_tf.models.layers import Conv2D, PointwiseConv2D
from codi_tf.models.unet import UNet, UNetEncoder

HINT_WIDTHS = (16, 32, 96, 256)
SHARED = (  # UNet's
    "in_channels",
    "block_out_channels",
    "down_block_types",
    "mid_block_type",
    "layers_per_block",
    "cross_attention_dim",
)


class HintNetwork(keras.layers.Layer):
    """The condition image [B, f H, f W, channels_in] in [0, 1] -> features [B, H, W, channels_out].

    f = 2 ** (number of widths - 1).
    """

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


@ADAPTERS.register("controlnet")
class ControlNet(UNetEncoder, DiffusersAdapter):
    """A copy of the UNet's encoder that takes z_t, t, the prompt and the condition image. Its outputs are added to the
    UNet's features through 1x1 convolutions that start at zero.

    The arguments are the keys of a diffusers ControlNetModel's `config.json`, with the same meaning. The features of
    the condition image do not depend on z_t or t: `condition` computes them once, the encoder runs in every step.
    """

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
    def kind(cls) -> Kind:
        return CONTROLNET

    def check(self, base: Base, condition_channels: int) -> None:
        for key in SHARED:
            theirs, ours = getattr(self, key), getattr(base.unet, key)
            if theirs != ours:
                raise UserError(f"the ControlNet's {key} is {theirs}, the base's {ours}: take one made for this base")
        factor = 2 ** (len(self.conditioning_embedding_out_channels) - 1)
        check_image_adapter(self, base, channels=(self.conditioning_channels, condition_channels), factor=factor)

    @classmethod
    def duplicate(
        cls, unet: UNet, *, factor: int = 8, condition_channels: int = 3, name: str = "adapter"
    ) -> ControlNet:
        """A ControlNet whose encoder starts as a copy of the UNet's and whose convolutions to the UNet are 0.

        It computes in the UNet's format; its weights are float32, because they are trained.

        Args:
            unet: the base's.
            factor: of the autoencoder, 2, 4 or 8, by which the hint network reduces the image.
            condition_channels: of the condition image.
            name: of the adapter.

        Raises:
            UserError: the UNet takes no prompts, as ControlNets do.
        """
        if unet.cross_attention_dim is None:
            raise UserError("adapter controlnet: ControlNets take prompts, and this base takes none; use adapter mu")
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

    def condition(self, c, conditioning):
        """One feature [B, h, w, C] of the condition image c [B, f h, f w, 3 or 4] in [-1, 1]."""
        return [self.hint((ops.cast(c, self.compute_dtype) + 1.0) / 2.0)]  # ControlNets are trained on [0, 1]

    def adapt(self, features, condition_features, z_t, t, conditioning):
        """h_theta(z_t) + zero convolution of h_eta(z_t, t, c), feature by feature."""
        own = self(z_t, t, conditioning.context, *condition_features)
        return [h + extra for h, extra in zip(features, own, strict=True)]

    def call(self, z_t, t, context, hint):
        """The tensors added to the UNet's skips and, last, to its middle block's output.

        Takes z_t [B, h, w, C], t int [B] or [1], context [B, M, D] and the hint, the feature of `condition`.
        """
        temb = self.time_embedding(t)
        skips = self.encode(z_t, temb, context, hint)
        middle = self.zero_middle(self.middle(skips[-1], temb, context))
        return [*(conv(skip) for conv, skip in zip(self.zero_convs, skips, strict=True)), middle]

    def emit_condition(self, g, nets, c, context):
        h = g.affine(c, 0.5, 0.5)
        for conv in (self.hint.conv_in, *self.hint.blocks):
            h = g.silu(g.conv(h, conv))
        return [g.conv(h, self.hint.conv_out)]

    def emit_adapt(self, g, nets, features, condition_features, z, time, context):
        temb = nets.time_embedding(g, self.time_embedding, time)
        skips = nets.encode(g, self, z, temb, context, hint=condition_features[0])
        own = [*skips, nets.middle(g, self, skips[-1], temb, context)]
        return [
            g.add(h, g.conv(h_c, conv))
            for h, h_c, conv in zip(features, own, (*self.zero_convs, self.zero_middle), strict=True)
        ]

    def get_config(self):
        keys = ("conditioning_channels", "conditioning_embedding_out_channels")
        return {**super().get_config(), **{key: getattr(self, key) for key in keys}}


CONTROLNET = Kind(
    peer="ControlNetModel",
    network=ControlNet,
    file="diffusion_pytorch_model",
    ours={**ENCODER, "conditioning_channels": 3, "conditioning_embedding_out_channels": (16, 32, 96, 256)},
    fixed={**ENCODER_FIXED, "controlnet_conditioning_channel_order": ("rgb",), "global_pool_conditions": (False,)},
    inert=frozenset(("addition_embed_type_num_heads", "sample_size")),
    lists=ENCODER_LISTS,
    positive={**ENCODER_POSITIVE, "conditioning_channels": int},
)


def load_controlnet(folder: str | Path, *, compute: str = "float32") -> ControlNet:
    """Read a diffusers ControlNetModel, to be the adapter of a model: `CoDi(base, adapter=load_controlnet(folder))`.

    Arguments and errors are those of `diffusers_form.DiffusersAdapter.from_folder`.
    """
    return ControlNet.from_folder(folder, compute=compute)


def _zero_conv(channels: int, name: str) -> Conv2D:
    return PointwiseConv2D(channels, kernel_initializer="zeros", name=name)
