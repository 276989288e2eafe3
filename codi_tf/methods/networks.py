"""What the latent diffusion methods share: their networks as denoisers, their draws, their moving averages."""

from __future__ import annotations

import tensorflow as tf
from keras import ops

from codi_tf.base import Base, make_unet
from codi_tf.diffusion import Denoise, bounded, coefficients, predict
from codi_tf.models.adapter import AdaptedUNet
from codi_tf.precision import built_in
from codi_tf.seeds import fold
from codi_tf.weights import copy_weights


def seen(base: Base, network: AdaptedUNet, images):
    """c, what the network's adapter takes of condition images [B, H, W, 3] in [-1, 1]: their latents or themselves."""
    return images if network.sees == "image" else base.encode(images)


def denoiser(base: Base, network: AdaptedUNet, c, context) -> Denoise:
    """The network as a function (z_t, t) -> Prediction; the condition's features are computed here, once."""
    return denoiser_with(base, network, network.condition(c, context), context)


def denoiser_with(base: Base, network: AdaptedUNet, features, context, *, boundary: bool = False) -> Denoise:
    """The network as a function (z_t, t) -> Prediction, for given features of the condition.

    `boundary` applies the boundary scalings (Eq. 17) that the network was trained with; the loss applies them itself.
    """

    def denoise(z_t, t):
        alpha_t, sigma_t = coefficients(base.schedule, t)
        output = network(z_t, ops.reshape(t, (-1,)), features, context)
        return predict(output, z_t, alpha_t, sigma_t, base.prediction_type)

    return bounded(denoise, base.schedule) if boundary else denoise


def moving_average_of(network: AdaptedUNet) -> AdaptedUNet:
    """A second network with the same weights: theta-. Parts that are not trained are shared, not copied."""
    unet, adapter = network.unet, network.adapter
    if unet.trainable:
        unet = clone_unet(unet, "average_unet")
    if adapter is not None:
        config = {**adapter.get_config(), "name": "average_adapter"}
        with built_in(adapter.dtype_policy):
            adapter = type(adapter).from_config(config)
            adapter.build()
        copy_weights(network.adapter, adapter)
    return AdaptedUNet(unet, adapter, name="average")


def clone_unet(unet, name: str):
    """A UNet of the same shape with the same weights."""
    with built_in(unet.dtype_policy):
        clone = make_unet({key: value for key, value in unet.get_config().items() if key != "name"}, name)
    copy_weights(unet, clone)
    return clone


def draw_noise(like, seed, step):
    """Standard normal noise [B, ...], different on every replica."""
    return tf.random.stateless_normal(tf.shape(like), fold(seed, step, _replica(), "noise"))


def draw_times(like, seed, step, *, low: int, high: int, shared: bool):
    """Times uniform in low .. high - 1: int32 [] equal on all replicas if shared, else [B]."""
    if shared:
        return tf.random.stateless_uniform((), fold(seed, step, 0, "t"), low, high, tf.int32)
    return tf.random.stateless_uniform(tf.shape(like)[:1], fold(seed, step, _replica(), "t"), low, high, tf.int32)


def latents_of(base: Base, network: AdaptedUNet, batch):
    """(x, c) of a batch, encoded beforehand or here by the frozen autoencoder; c is None without a condition."""
    x = batch["latent"] if "latent" in batch else tf.stop_gradient(base.encode(batch["image"]))
    if "condition_latent" in batch:
        return x, batch["condition_latent"]
    return x, None if "condition" not in batch else tf.stop_gradient(seen(base, network, batch["condition"]))


def _replica():
    context = tf.distribute.get_replica_context()
    return 0 if context is None else context.replica_id_in_sync_group
