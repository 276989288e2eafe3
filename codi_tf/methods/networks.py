"""Functions that the latent diffusion methods share: networks as denoisers, copies, moving averages."""

from __future__ import annotations

import dataclasses
from typing import Any

import tensorflow as tf
from keras import ops

from codi_tf.adapters.adapted import AdaptedUNet, Adapter
from codi_tf.adapters.lora import clone_lora, new_lora
from codi_tf.checkpoints.base import Base, check_takes_latents, make_unet
from codi_tf.checkpoints.made_for import MadeFor
from codi_tf.core import replicas
from codi_tf.core.errors import UserError
from codi_tf.core.precision import built_in
from codi_tf.diffusion.conditioning import Conditioning
from codi_tf.diffusion.process import Boundary, Denoise, bounded, coefficients, predict
from codi_tf.diffusion.scheduler_config import is_reverse
from codi_tf.io.weights import copy_weights, key_of, make_copy
from codi_tf.methods.sharing import is_trained, is_used
from codi_tf.models.low_rank import LoraWeights

GUIDANCE_FEATURES = 256  # Fourier features of the guidance, as many as latent consistency models have


def encode_condition(base: Base, network: AdaptedUNet, images):
    """c, what the network's adapter takes of condition images [B, H, W, 3], or 4 with a mask, in [-1, 1]."""
    return encode_in_space(base, images, network.condition_space, has_mask=network.has_mask)


def encode_in_space(base: Base, images, condition_space: str, *, has_mask: bool):
    """Condition images in an adapter's `condition_space`: their latents, or the images as they are.

    A mask, the channel after RGB, is reduced to the size of the latents and appended to them: by its mean in "latent",
    by its nearest pixel, as diffusers does, in "latent_nearest".

    Args:
        base: encodes the images.
        images: float [B, H, W, 3], or 4 with a mask, in [-1, 1].
        condition_space: "latent", "latent_nearest" or "image".
        has_mask: what the task states, `Task.has_mask`.

    Returns:
        The images, or scaled latents [B, h, w, 4], or 5 with a mask.
    """
    if condition_space == "image":
        return images
    if not has_mask:
        return base.encode(images)
    latents, mask, factor = base.encode(images[..., :3]), images[..., 3:], base.vae.factor
    if condition_space == "latent_nearest":
        mask = mask[:, ::factor, ::factor]
    else:  # a share of pixels
        mask = ops.average_pool(mask, factor, padding="valid", data_format="channels_last")
    return ops.concatenate([latents, mask], axis=-1)  # the mask is [B, h, w, 1]


def denoiser(base: Base, network: AdaptedUNet, c, conditioning: Conditioning, *, guidance=None) -> Denoise:
    """The network as a function (z_t, t) -> Prediction; the condition's features are computed here, once.

    `c` is a condition, see `encode_condition`, or None for a network without an adapter. `guidance`: see
    `denoiser_with`.
    """
    return denoiser_with(base, network, network.condition(c, conditioning), conditioning, guidance=guidance)


def denoiser_with(
    base: Base,
    network: AdaptedUNet,
    features,
    conditioning: Conditioning,
    *,
    guidance=None,
    boundary: Boundary = False,
    condition_scale=None,
) -> Denoise:
    """The network as a function (z_t, t) -> Prediction, for given features of the condition.

    `guidance`, a number or float [B], is for networks that take it as an input; None is 1, no guidance. `boundary`
    are the boundary scalings (Eq. 17) that the network was trained with; losses apply them themselves.
    `condition_scale`: see `AdaptedUNet.call`.
    """

    taken, knobs = None, {} if condition_scale is None else {"condition_scale": condition_scale}
    if network.takes_guidance:
        taken = ops.reshape(ops.convert_to_tensor(1.0 if guidance is None else guidance, "float32"), (-1,))

    def denoise(z_t, t):
        alpha_t, sigma_t = coefficients(base.schedule, t)
        output = network(z_t, ops.reshape(t, (-1,)), features, conditioning, taken, **knobs)
        return predict(output, z_t, alpha_t, sigma_t, base.prediction_type)

    return bounded(denoise, base.schedule, boundary)


def check_adaptable(base: Base, train: str) -> None:
    """Raises UserError for a base that cannot be adapted; `train` is "all" or "adapter"."""
    if base.unet is None:
        raise UserError("the base has an autoencoder but no UNet: pre-train one first, or name another base")
    remedy = "start from a text-to-image model, whose adapter brings the condition, or from the bundle that "
    check_takes_latents(base, "the base's", remedy + "codi convert BASE BUNDLE --task NAME makes")
    if is_reverse(base.scheduler):
        raise UserError("the base leads from images to noise: start from the base that it was distilled from")
    if train == "all" and base.unet.variable_dtype != "float32":
        raise UserError(
            f"the base's weights are {base.unet.variable_dtype}: load it with weights='float32' to train it, "
            "or train='adapter'"
        )


def copy_of(network: AdaptedUNet, name: str) -> AdaptedUNet:
    """A second network with the same weights. Both share a UNet that is not trained."""
    unet, adapter, lora = network.unet, network.adapter, network.lora
    if network.train == "all":
        unet = clone_unet(unet, f"{name}_unet")
    if adapter is not None:
        adapter = clone_adapter(adapter, f"{name}_adapter")
    if lora is not None:  # a copy is not trained: it leaves nothing out
        lora = clone_lora(lora, unet, f"{name}_lora", dropout=0.0)
    return AdaptedUNet(unet, adapter, network.train, lora=lora, has_mask=network.has_mask, name=name)


def assign_network(source: AdaptedUNet, target: AdaptedUNet) -> None:
    """Set the target's weights to the source's inside a step, except for shared ones."""
    for value, variable in zip(source.variables, target.variables, strict=True):
        if variable is not value:
            replicas.assign(variable, value.value)


def clone_unet(unet, name: str):
    """A UNet of the same shape with the same weights."""
    return make_copy(lambda: fresh_unet(unet, name), unet)


def clone_adapter(adapter: Adapter, name: str) -> Adapter:
    """An adapter of the same shape with the same weights."""
    with built_in(adapter.dtype_policy):
        clone = type(adapter).from_config({**adapter.get_config(), "name": name})
        clone.build()
    copy_weights(adapter, clone)
    return clone


def networks_of(
    base: Base, adapter: Adapter | None, train: str, *, lora: Any = None, copy: bool
) -> tuple[Base, Adapter | None, LoraWeights | None]:
    """The base, the adapter and the LoRA of a new model: its own, where it trains them, else those that are given.

    Args:
        base: the base that is given.
        adapter: an adapter that another model, or the caller, has already; None for a new one.
        train: "all" or "adapter".
        lora: changes of the UNet that another model, or the caller, has already; the options of new ones
            (`config.Lora`); or None.
        copy: whether what is trained is copied; False: it is taken as it is, and no other model may use it. A UNet that
            stays as it is, is copied where another model trains it.

    Raises:
        UserError: without a copy, another model uses what is to be trained.
    """
    assert base.unet is not None
    trained = [base.unet] if train == "all" else []
    trained += [part for part in (adapter, lora) if isinstance(part, Adapter | LoraWeights)]
    if not copy and any(map(is_used, trained)):
        raise UserError("copy is False, but another model uses these networks: leave copy=False out")
    if copy and adapter is not None:
        adapter = clone_adapter(adapter, adapter.name)
    if copy if train == "all" else is_trained(base.unet):
        base = dataclasses.replace(base, unet=clone_unet(base.unet, base.unet.name), path=None)
    if train == "all":  # training changes what was read from there
        base = dataclasses.replace(base, path=None, made_for=MadeFor())
    unet = base.unet
    assert unet is not None
    if lora is not None and not isinstance(lora, LoraWeights):
        lora = new_lora(unet, lora.settings())
    elif copy and lora is not None:
        lora = clone_lora(lora, unet, lora.name)
    return base, adapter, lora


def fresh_unet(unet, name: str, **changes):
    """A UNet of the same shape with new weights; `changes` replace arguments."""
    config = {key: value for key, value in unet.get_config().items() if key != "name"}
    with built_in(unet.dtype_policy):
        return make_unet({**config, **changes}, name)


def with_guidance(unet, name: str):
    """A UNet with the same weights that takes the guidance as an input. Before training, that has no effect."""
    clone = fresh_unet(unet, name, time_cond_proj_dim=GUIDANCE_FEATURES)
    own = {key_of(variable, clone): variable for variable in clone.variables}
    for variable in unet.variables:
        own[key_of(variable, unet)].assign(variable)
    return clone


def encoded(base: Base, network: AdaptedUNet, batch) -> tuple[Any, Any, Conditioning]:
    """(x, c, conditioning) of a batch: as the batch has them, or encoded here by the frozen networks of the base.

    x are scaled latents [B, h, w, 4]. c is a condition, see `encode_condition`, or None without one. Without prompts,
    conditioning is that of the empty prompt, of batch size 1; without classes in the batch, that of the null class.
    """
    x = batch["latent"] if "latent" in batch else tf.stop_gradient(base.encode(batch["image"]))
    c = batch.get("condition_latent")
    if c is None and "condition" in batch:
        c = tf.stop_gradient(encode_condition(base, network, batch["condition"]))
    context = batch.get("context")
    if context is None:
        if "tokens" in batch:
            assert base.text_encoder is not None
            context = tf.stop_gradient(base.text_encoder(batch["tokens"]))
        else:
            context = base.context
    labels = batch.get("class", base.class_labels(None))
    return x, c, Conditioning(tf.cast(context, tf.float32), labels)


def dropped(values, empty, u, low: float, high: float):
    """`values`, with `empty` in place of examples whose u is in [low, high): about the share high - low of them.

    Args:
        values: [B, ...], or [1, ...] for the same value in all examples; or a `Conditioning` of such.
        empty: [1, ...] or a number; or a `Conditioning`.
        u: float32 [B], see `draws.Draws.uniform`.
        low, high: the range of u, in [0, 1].
    """
    if low == high:
        return values
    gone = (u >= low) & (u < high)  # [B]

    def without(value, nothing):
        if value is None:  # a network without classes
            return None
        return tf.where(tf.reshape(gone, (-1,) + (1,) * (len(value.shape) - 1)), nothing, value)

    return tf.nest.map_structure(without, values, empty)
