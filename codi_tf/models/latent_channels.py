"""Latent channels of an autoencoder, moved and scaled: the same images from latents that a diffusion model learns."""

from __future__ import annotations

import numpy as np
from keras import ops

from codi_tf.models.autoencoder import AutoencoderKL
from codi_tf.models.layers import PointwiseConv2D


def balance_channels(vae: AutoencoderKL, images, power: float) -> None:
    """Divide each latent channel by its standard deviation to the power `power`, and move its mean to 0.

    An autoencoder may give its channels standard deviations that differ by a factor of ten. One noise level then hides
    the small channels long before the large ones, and a network that predicts velocity spends the small ones on
    carrying noise. 0 leaves the ratios as they are, 1 makes all standard deviations equal; between them the large
    channels stay the ones that are decided first.

    Args:
        vae: changed in place; what it makes of images stays the same, but for rounding.
        images: float32 [N, H, W, 3] in [-1, 1], on which means and standard deviations are measured.
        power: in [0, 1].
    """
    latents = ops.convert_to_numpy(vae.encode(images).mean)
    deviation = latents.std(axis=(0, 1, 2))
    map_channels(vae, offset=latents.mean(axis=(0, 1, 2)), scale=np.maximum(deviation, 1e-6) ** -power)


def map_channels(vae: AutoencoderKL, offset: np.ndarray, scale: np.ndarray) -> None:
    """Make the latents of `vae` (z - offset) * scale, channel by channel, and its decoder take them.

    Args:
        vae: changed in place.
        offset: float [latent_channels].
        scale: positive float [latent_channels].
    """
    channels = vae.latent_channels
    twice = np.concatenate([scale, np.ones(channels)])  # means, and log-variances
    shift = np.concatenate([-offset * scale, 2 * np.log(scale)])
    kernel, bias = _arguments(vae.quant_conv)
    _set(vae.quant_conv, kernel * twice, bias * twice + shift)
    if vae.shortcut_in is not None:
        kernel, bias = _arguments(vae.shortcut_in)
        _set(vae.shortcut_in, kernel * scale, bias * scale)
    for layer in (vae.post_quant_conv, vae.shortcut_out):
        if layer is not None:
            kernel, bias = _arguments(layer)
            _set(layer, kernel / scale[:, None], bias + offset @ kernel[0, 0])


def _arguments(layer: PointwiseConv2D) -> tuple[np.ndarray, np.ndarray]:
    """The kernel [1, 1, inputs, outputs] and the bias [outputs], in float64."""
    kernel, bias = (ops.convert_to_numpy(value).astype("float64") for value in (layer.kernel, layer.bias))
    return kernel, bias


def _set(layer: PointwiseConv2D, kernel: np.ndarray, bias: np.ndarray) -> None:
    layer.kernel.assign(kernel.astype("float32"))
    layer.bias.assign(bias.astype("float32"))
