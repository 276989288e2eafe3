"""Pixel space: an autoencoder without weights, whose latents are the pixels themselves."""

from __future__ import annotations

import keras
from keras import ops

from codi_tf.core.errors import UserError
from codi_tf.models.autoencoder import Posterior

CERTAIN = -30.0  # the log-variance of a posterior that is one point, `AutoencoderKL`'s lowest


class PixelFolding(keras.Model):
    """Images [B, p h, p w, 3] in [-1, 1] <-> latents [B, h, w, 3 p p]: space to depth, exact both ways.

    With a patch size p of 1 it is the identity. A larger one gives the UNet p x p pixels as one position, so that no
    map has the size of the image; such a UNet should predict the signal, because noise of that many channels would have
    to pass through it exactly (Li and He, arXiv 2511.13720).

    Args:
        patch_size: p.
        scaling_factor: what the callers multiply latents by, as for `AutoencoderKL`.

    Raises:
        UserError: a patch size below 1.
    """

    in_channels = out_channels = 3

    def __init__(self, *, patch_size: int = 1, scaling_factor: float = 1.0, **kwargs):
        super().__init__(**kwargs)
        if patch_size < 1:
            raise UserError(f"vae: patch_size is {patch_size}: it must be at least 1")
        self.patch_size, self.scaling_factor = patch_size, scaling_factor
        self.latent_channels = self.in_channels * patch_size**2
        self.built = True  # there is nothing to build

    @property
    def factor(self) -> int:
        """Pixels per latent position along each side."""
        return self.patch_size

    @property
    def encoder_parts(self) -> list[keras.layers.Layer]:
        """The layers that encode: none."""
        return []

    @property
    def decoder_parts(self) -> list[keras.layers.Layer]:
        """The layers that decode: none."""
        return []

    def build(self, input_shape=None):
        """There is nothing to build."""

    def encode(self, images) -> Posterior:
        """Images [B, p h, p w, 3] -> posterior [B, h, w, 3 p p] whose mean are the folded pixels."""
        images = ops.cast(images, "float32")
        mean = images if self.patch_size == 1 else ops.space_to_depth(images, self.patch_size, "channels_last")
        return Posterior(mean, ops.full_like(mean, CERTAIN))

    def decode(self, latents):
        """Latents [B, h, w, 3 p p] -> images [B, p h, p w, 3], float32, not clipped."""
        latents = ops.cast(latents, "float32")
        return latents if self.patch_size == 1 else ops.depth_to_space(latents, self.patch_size, "channels_last")

    def call(self, images):
        return self.decode(self.encode(images).mean)

    def get_config(self):
        return {"name": self.name, "patch_size": self.patch_size, "scaling_factor": self.scaling_factor}
