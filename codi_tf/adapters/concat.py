"""Concatenation (Rombach et al. 2022, section 3.3): the condition's latent beside z_t, at the UNet's input.

Stable Diffusion inpainting (9 input channels) and InstructPix2Pix (8) are such models.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import tensorflow as tf
from keras import ops

from codi_tf.adapters import ADAPTERS
from codi_tf.adapters.adapted import Adapter
from codi_tf.checkpoints.base import Base, make_unet
from codi_tf.core.errors import UserError
from codi_tf.core.precision import built_in, make_policy
from codi_tf.io.weights import make_copy
from codi_tf.models.layers import Conv2D
from codi_tf.models.unet import UNet


@ADAPTERS.register("concat")
class Concat(Adapter):
    """conv_in of [z_t, c], computed as conv_in(z_t) + W c: W is the part of a widened conv_in that takes c.

    A convolution of concatenated maps is the sum of their convolutions. So the UNet stays that of the base, W c is
    computed once per image, and a step costs what a step of the base costs. W starts at zero.

    c is what diffusers' pipelines of the same number of channels concatenate, so that their checkpoints can be read
    and written (`separated`, `merged`). With a mask that is the scaled latent, and the mask at the nearest pixel of
    each position (StableDiffusionInpaintPipeline). Without one it is the latent before it is scaled
    (StableDiffusionInstructPix2PixPipeline).

    Args:
        in_channels: of c.
        channels: of the UNet's first level.
        scale: by which c is multiplied.
    """

    condition_space = "latent_nearest"
    merges = True
    takes_scale = False

    def __init__(self, in_channels: int, channels: int, scale: float = 1.0, **kwargs):
        super().__init__(**kwargs)
        self.in_channels, self.channels, self.scale = in_channels, channels, scale
        self.conv = Conv2D(channels, use_bias=False, kernel_initializer="zeros", name="conv")

    @classmethod
    def for_base(cls, base: Base, condition_channels: int) -> Concat:
        assert base.unet is not None
        scale = 1.0 if condition_channels == 4 else 1.0 / base.vae.scaling_factor
        channels = cls.input_channels(base, condition_channels), base.unet.block_out_channels[0]
        with built_in(make_policy(base.unet.compute_dtype)):
            adapter = cls(*channels, scale, name="adapter")
            adapter.build()
        return adapter

    def check(self, base: Base, condition_channels: int) -> None:
        assert base.unet is not None
        wanted, widths = self.input_channels(base, condition_channels), base.unet.block_out_channels
        if self.in_channels != wanted:
            raise UserError(
                f"the adapter takes {self.in_channels} channels, the task's condition has {wanted}: make another one"
            )
        if self.channels != widths[0]:
            raise UserError(
                f"the adapter gives {self.channels} channels, the base's first level has {widths[0]}: "
                "take one made for this base"
            )

    def build(self, input_shape=None):
        self.conv.build((None, None, None, self.in_channels))

    def condition(self, c, conditioning):
        """W c, [B, h, w, channels of the first level]."""
        return [self.conv(c * self.scale)]

    def first_residual(self, condition_features):
        return condition_features[0]

    def merged(self, base: Base) -> Base:
        """The base with a UNet that takes [z_t, mask, latent] or [z_t, latent]; the base stays as it is."""
        assert base.unet is not None
        own, latents = ops.convert_to_numpy(self.conv.kernel), base.vae.latent_channels
        parts = [ops.convert_to_numpy(base.unet.conv_in.kernel), own[:, :, latents:], own[:, :, :latents]]
        return dataclasses.replace(base, unet=_with_conv_in(base.unet, np.concatenate(parts, axis=2)), path=None)

    def emit_condition(self, g, nets, c, context):
        return [g.conv(c if self.scale == 1.0 else g.affine(c, self.scale, 0.0), self.conv)]

    def emit_first_residual(self, condition_features):
        return condition_features[0]

    def get_config(self):
        return {"name": self.name, "in_channels": self.in_channels, "channels": self.channels, "scale": self.scale}


def separated(base: Base) -> tuple[Base, Concat]:
    """A base whose UNet takes the condition, in two: the base for latents alone, and the adapter.

    The inverse of `Concat.merged`, bit for bit. The given base stays as it is.

    Raises:
        UserError: the base has no UNet, or one with input channels for something else.
    """
    latents, unet = base.vae.latent_channels, base.unet
    extra = 0 if unet is None else unet.in_channels - latents
    if unet is None or extra not in (latents, latents + 1):
        takes = "there is no UNet" if unet is None else f"the UNet takes {unet.in_channels} channels"
        raise UserError(
            f"{takes}: a condition beside latents of {latents} channels makes them {2 * latents}, and "
            f"{2 * latents + 1} with a mask"
        )
    masks = extra - latents
    kernel = ops.convert_to_numpy(unet.conv_in.kernel)
    of_latents, beside = kernel[:, :, :latents], kernel[:, :, latents:]
    base = dataclasses.replace(base, unet=_with_conv_in(unet, of_latents), path=None)
    adapter = Concat.for_base(base, 3 + masks)
    adapter.conv.kernel.assign(np.concatenate([beside[:, :, masks:], beside[:, :, :masks]], axis=2).astype("float32"))
    return base, adapter


def _with_conv_in(unet: UNet, kernel: np.ndarray) -> UNet:
    """A copy of a UNet with another kernel [3, 3, C, D] of its first convolution."""
    config = {key: value for key, value in unet.get_config().items() if key != "name"}
    with built_in(unet.dtype_policy):
        return make_copy(
            lambda: make_unet({**config, "in_channels": kernel.shape[2]}, unet.name),
            unet,
            {"conv_in.weight": tf.constant(kernel)},
        )
