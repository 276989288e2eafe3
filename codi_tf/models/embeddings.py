"""Embeddings of the time and of the guidance."""

from __future__ import annotations

import math

import keras
from keras import ops

from codi_tf.models.layers import Dense


class TimeEmbedding(keras.layers.Layer):
    """Sinusoidal features of the time index, then two dense layers.

    Input: int [B] and, for a network that takes the guidance, its features float32 [B, condition_channels]. They are
    projected and added to the features of the time (diffusers' `cond_proj`). Output: [B, 4 * channels].
    `flip_sin_to_cos` and `freq_shift` are diffusers': see `time_features`.
    """

    def __init__(
        self,
        channels: int,
        condition_channels: int | None = None,
        *,
        flip_sin_to_cos: bool = True,
        freq_shift: int = 0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.channels, self.condition_channels = channels, condition_channels
        self.flip_sin_to_cos, self.freq_shift = flip_sin_to_cos, freq_shift
        self.cond_proj = None
        if condition_channels:  # zero: a new network starts out independent of the guidance
            self.cond_proj = Dense(channels, use_bias=False, kernel_initializer="zeros", name="cond_proj")
        self.linear_1 = Dense(4 * channels, name="linear_1")
        self.linear_2 = Dense(4 * channels, name="linear_2")

    def build(self, input_shape=None):
        self.linear_1.build((None, self.channels))
        self.linear_2.build((None, 4 * self.channels))
        if self.cond_proj is not None:
            self.cond_proj.build((None, self.condition_channels))

    def features(self, t):
        """`time_features` of times [B], float32 [B, channels]."""
        return time_features(t, self.channels, cosines_first=self.flip_sin_to_cos, shift=self.freq_shift)

    def call(self, t, condition=None):
        features = ops.cast(self.features(t), self.compute_dtype)
        if condition is not None and self.cond_proj is not None:
            features = features + self.cond_proj(ops.cast(condition, self.compute_dtype))
        return self.linear_2(ops.silu(self.linear_1(features)))

    def get_config(self):
        keys = ("channels", "condition_channels", "flip_sin_to_cos", "freq_shift")
        return {**super().get_config(), **{key: getattr(self, key) for key in keys}}


def time_features(t, channels: int, *, cosines_first: bool = True, shift: int = 0):
    """[cos(t f_i), sin(t f_i)], f_i = 10000^(-i / (channels / 2 - shift)): times [B] -> float32 [B, channels].

    The sinusoidal features of Vaswani et al. 2017, section 3.5; channels are even. Stable Diffusion has the cosines
    first and no shift. The first diffusion models of pixels have the sines first and a shift of 1 (Ho et al. 2020).
    """
    half = channels // 2
    frequencies = ops.exp(-math.log(10000.0) * ops.arange(half, dtype="float32") / (half - shift))
    angles = ops.reshape(ops.cast(t, "float32"), (-1, 1)) * ops.reshape(frequencies, (1, half))
    parts = [ops.cos(angles), ops.sin(angles)]
    return ops.concatenate(parts if cosines_first else parts[::-1], axis=-1)


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
