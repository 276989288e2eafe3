"""The blocks of diffusers' UNets: the residual blocks of one resolution, and transformers or self-attention."""

from __future__ import annotations

import keras
from keras import ops

from codi_tf.models.attention import SpatialAttention, SpatialTransformer
from codi_tf.models.layers import Downsample, ResnetBlock, Upsample
from codi_tf.models.recomputing import run_stage


class Block(keras.layers.Layer):
    """Residual blocks at one resolution; a transformer follows each of the first `transformers` blocks.

    In a network without prompts, it is a self-attention layer.

    Maps are [B, H, W, channels], the time embedding is [B or 1, time_channels], the prompt [B or 1, M, D].

    Args:
        channels_in: the input channels of each residual block.
        channels: the output channels of each residual block.
        time_channels: the channels of the time embedding.
        groups: the groups of group normalization.
        transformers: the number of transformers.
        transformer: the arguments of the transformers; without `context_channels`, of the self-attention.
        epsilon: of the group normalizations, but for those in transformers.
    """

    def __init__(
        self, channels_in, channels, *, time_channels, groups, transformers, transformer, epsilon=1e-5, **kwargs
    ):
        super().__init__(**kwargs)
        self.channels_in, self.channels, self.time_channels = tuple(channels_in), channels, time_channels
        self.groups, self.transformers, self.transformer = groups, transformers, dict(transformer)
        self.epsilon = epsilon
        self.resnets = [
            ResnetBlock(c, channels, groups=groups, epsilon=epsilon, time_channels=time_channels, name=f"resnets.{i}")
            for i, c in enumerate(self.channels_in)
        ]
        self.attentions = [self._attention(f"attentions.{i}") for i in range(transformers)]
        self.recompute = False  # set by `UNetEncoder.recompute_blocks`

    def _attention(self, name: str):
        options = {"groups": self.groups, "name": name, **self.transformer}
        if "context_channels" in self.transformer:
            return SpatialTransformer(self.channels, **options)
        return SpatialAttention(self.channels, epsilon=self.epsilon, **options)

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
        keys = ("channels_in", "channels", "time_channels", "groups", "transformers", "transformer", "epsilon")
        return {**super().get_config(), **{key: getattr(self, key) for key in keys}}


class DownBlock(Block):
    """Encoder block. Returns its skips for the decoder; the last one is also the input of the next block.

    `downsample`: whether that one is smaller; `symmetric_padding`: of its convolution, see `layers.Downsample`.
    """

    def __init__(self, *args, downsample: bool, symmetric_padding: bool = True, **kwargs):
        super().__init__(*args, **kwargs)
        self.downsample, self.symmetric_padding = downsample, symmetric_padding
        self.downsampler = None
        if downsample:
            self.downsampler = Downsample(self.channels, symmetric_padding=symmetric_padding, name="downsamplers.0")

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
        return {**super().get_config(), "downsample": self.downsample, "symmetric_padding": self.symmetric_padding}


class MiddleBlock(Block):
    """Residual block, transformer, residual block, at the lowest resolution; or one residual block alone."""

    def call(self, h, temb, context):
        for i in range(len(self.resnets)):
            h = self.stage(i, h, temb, context)
        return h


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
