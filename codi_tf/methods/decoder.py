"""Training of a small decoder of a frozen autoencoder's latents."""

from __future__ import annotations

from keras import ops

from codi_tf import config
from codi_tf.checkpoints.base import Base, make_network
from codi_tf.diffusion.losses import absolute_distance, latent_distance, perceptual_distance
from codi_tf.io.weights import copy_weights
from codi_tf.methods.method import Method
from codi_tf.models.tiny_decoder import TinyDecoder

DISTANCES = {"absolute": absolute_distance, "squared": latent_distance}


class DecoderMethod(Method):
    """d(y, D(z)) + perceptual_weight * sum_l ||F_l(y) - F_l(D(z))||^2, z a latent, y as `settings.target` says.

    Args:
        settings: the loss.
        base: whose autoencoder encodes, and decodes the target where that is asked for; nothing of it is trained.
        student: D.
        perceptual: F, images -> list of feature maps; for a perceptual_weight above 0.
    """

    def __init__(self, settings: config.Decoder, base: Base, student: TinyDecoder, perceptual=None):
        self.settings, self.base, self.student = settings, base, student
        self.distance, self.perceptual = DISTANCES[settings.distance], None
        if settings.perceptual_weight:
            self.perceptual = perceptual_distance(lambda images: images, perceptual)

    @property
    def terms(self) -> tuple[str, ...]:
        """Names of the loss's terms."""
        return ("pixels",) if self.perceptual is None else ("pixels", "perceptual")

    def start_average(self) -> TinyDecoder:
        """A second decoder with the student's weights."""
        average = make_network(TinyDecoder, self.settings.network, "average_decoder")
        copy_weights(self.student, average)
        return average

    def loss_terms(self, batch, draws):
        """batch["image"] [B, H, W, 3] in [-1, 1] -> {"pixels": [B], "perceptual": [B]}; no draws are made."""
        y = batch["image"]
        z = ops.stop_gradient(self.base.encode(y))
        if self.settings.target == "decoding":
            y = ops.stop_gradient(ops.clip(self.base.decode(z), -1.0, 1.0))
        made = self.student(z)
        terms = {"pixels": self.distance(y, made)}
        if self.perceptual is not None:
            terms["perceptual"] = self.settings.perceptual_weight * self.perceptual(y, made)
        return terms
