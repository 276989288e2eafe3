"""Training of the autoencoder that the latents of the small base come from."""

from __future__ import annotations

from keras import ops

from codi_tf import config
from codi_tf.checkpoints.base import make_autoencoder
from codi_tf.diffusion.losses import absolute_distance
from codi_tf.io.weights import copy_weights
from codi_tf.methods.method import Method
from codi_tf.models.autoencoder import AutoencoderKL


class AutoencoderMethod(Method):
    """Mean |image - D(E(image))| + kl_weight * mean KL(posterior || N(0, I)), decoding the posterior's mean."""

    terms = ("reconstruction", "kl")

    def __init__(self, settings: config.Autoencoder, student: AutoencoderKL):
        self.settings, self.student = settings, student

    def start_average(self) -> AutoencoderKL:
        """A second autoencoder with the student's weights."""
        average = make_autoencoder(self.settings.network, name="average_vae")
        copy_weights(self.student, average)
        return average

    def loss_terms(self, batch, draws):
        """batch["image"] [B, H, W, 3] in [-1, 1] -> {"reconstruction": [B], "kl": [B]}; no draws are made."""
        image = batch["image"]
        posterior = self.student.encode(image)
        reconstruction = absolute_distance(image, self.student.decode(posterior.mean))
        kl = 0.5 * (ops.square(posterior.mean) + ops.exp(posterior.logvar) - 1.0 - posterior.logvar)
        return {"reconstruction": reconstruction, "kl": self.settings.kl_weight * ops.mean(kl, axis=(1, 2, 3))}
