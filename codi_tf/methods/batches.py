"""Checks of batches: of their shapes when a step is traced, of the first one's values before it is used."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from codi_tf.core.errors import UserError

IMAGES, NUMBERS = ("image", "condition", "latent", "condition_latent", "context"), ("tokens", "class")
TEXTS = ("prompt", "prompts", "caption", "captions", "text", "texts", "token", "ids")
TOLERANCE = 0.05  # beyond [-1, 1]: a resized image may overshoot
UNIT = "fit takes [-1, 1], 2 * x - 1 of an image in [0, 1]; generate alone takes [0, 1]"


def as_batch(batch: Any) -> dict:
    """A batch as a dictionary of tensors, whatever Keras wrapped it into. The tensors of IMAGES become float32.

    Raises:
        UserError: it is no dictionary, or a value is of another type.
    """
    if isinstance(batch, tuple | list) and batch and all(part is None for part in batch[1:]):
        batch = batch[0]
    if not isinstance(batch, Mapping):
        kind = "tensor" if tf.is_tensor(batch) else type(batch).__name__
        kind += f" of {len(batch)}" if isinstance(batch, tuple | list) else ""
        raise UserError(f"a batch is a {kind}: it must be a dictionary, as {{'image': ..., 'condition': ...}}")
    return {key: _as_tensor(key, value) for key, value in batch.items()}


def _as_tensor(name: str, value: Any):
    if name not in IMAGES + NUMBERS:
        return value
    tensor = tf.convert_to_tensor(value)
    if name in NUMBERS and not tensor.dtype.is_integer:
        source = "labels" if name == "class" else "of base.tokenizer(prompts)"
        raise UserError(f"{name} is of type {tensor.dtype.name}: it must be int32, {source}")
    if name in IMAGES and not tensor.dtype.is_floating:
        remedy = "; x / 127.5 - 1 of an image in [0, 255]" if tensor.dtype == tf.uint8 else ""
        raise UserError(f"{name} is of type {tensor.dtype.name}: it must be float32, images in [-1, 1]{remedy}")
    return tf.cast(tensor, tf.float32) if name in IMAGES else tensor


def size_of(batch: Mapping) -> int | None:
    """B of a batch, None where it is not known when the step is traced. Raises UserError where its parts differ."""
    sizes = {key: value.shape[0] for key, value in batch.items() if key in IMAGES + NUMBERS and value.shape.rank}
    known = {key: size for key, size in sizes.items() if size is not None}
    if len(set(known.values())) > 1:
        listed = ", ".join(f"{size} of {key}" for key, size in known.items())
        raise UserError(f"a batch has {listed}: it must have as many of each")
    if 0 in known.values():
        raise UserError("a batch has no example: leave empty batches out")
    return next(iter(known.values())) if len(known) == len(sizes) and known else None


def check_parts(size: int | None, accumulate: int, replicas: int) -> None:
    """Raises UserError for a batch of `size` on each of the replicas that cannot be divided into micro-batches."""
    if size is None and accumulate * replicas > 1:
        what = f"{replicas} replicas" if replicas > 1 else f"accumulate={accumulate}"
        raise UserError(
            f"the size of a batch is not known, or changed since compile, and {what} must divide it: use "
            ".batch(N, drop_remainder=True), with one N"
        )
    if size is not None and size % accumulate:
        raise UserError(f"accumulate is {accumulate}: it must divide the {size} examples of a batch")


def require(batch: Mapping, *names: str) -> str:
    """The first of these names that a batch has. Raises UserError where it has none."""
    for name in names:
        if name in batch:
            return name
    raise UserError(f"a batch has no {names[0]}: it has {', '.join(map(str, batch)) or 'nothing'}")


def check_images(batch: Mapping, name: str, *, channels: int, multiple: int = 1, size: tuple | None = None) -> None:
    """Checks the shape [B, H, W, channels] of what a batch has under a name.

    Args:
        batch: the batch.
        name: "image", "condition", or a latent.
        channels: the last axis.
        multiple: H and W must be multiples of it.
        size: (H, W) that it must have; None for any.

    Raises:
        UserError: another shape, or one that is not known when the step is traced.
    """
    shape = batch[name].shape
    if shape.rank is not None and (shape.rank != 4 or shape[-1] not in (channels, None)):
        raise UserError(f"{name} has shape {tuple(shape)}: it must be [B, H, W, {channels}]")
    if shape.rank is None or None in shape[1:]:
        raise UserError(
            f"the size of {name} is not known, or changed since compile: use tf.ensure_shape(x, [None, H, W, "
            f"{channels}]), or compile again"
        )
    found = tuple(shape[1:3])
    if size is not None and found != size:
        raise UserError(f"{name} is {found[0]} x {found[1]}, it must be {size[0]} x {size[1]}, to fit the image")
    if found[0] % multiple or found[1] % multiple:
        raise UserError(f"{name} is {found[0]} x {found[1]}: for this base both must be multiples of {multiple}")


def check_condition(batch: Mapping, *, channels: int, adapter_channels: int, space: str, factor: int) -> None:
    """Checks "condition", or "condition_latent", which fits the image or the latent beside it.

    Args:
        batch: the batch, whose image or latent is checked.
        channels: of the task's conditions.
        adapter_channels: of what the adapter takes.
        space: in which the adapter takes it, see `adapters.adapted.Adapter`.
        factor: how many times smaller than images latents are.

    Raises:
        UserError: there is none, or it has another shape.
    """
    latent = "image" not in batch
    size = tuple(n * (factor if latent else 1) for n in batch["latent" if latent else "image"].shape[1:3])
    if require(batch, "condition", "condition_latent") == "condition":
        check_images(batch, "condition", channels=channels, size=size)
    if "condition_latent" in batch:
        made = tuple(n // (1 if space == "image" else factor) for n in size)
        check_images(batch, "condition_latent", channels=adapter_channels, size=made)


def check_prompts(batch: Mapping, base: Any) -> None:
    """Raises UserError for "tokens" or "context" that do not fit the base, and for other texts, which are not used."""
    for name in batch:
        if str(name).lower() in TEXTS:
            raise UserError(f"a batch has {name}, which is not used: give tokens=base.tokenizer(prompts), or no texts")
    if "tokens" in batch and "context" not in batch:
        if base.text_encoder is None:
            raise UserError("a batch has tokens, but the base has no text encoder: leave them out")
        if batch["tokens"].shape.rank != 2:
            raise UserError(f"tokens have shape {batch['tokens'].shape}: they must be [B, 77], of base.tokenizer")
    if "context" in batch and base.unet.cross_attention_dim is None:
        raise UserError("a batch has context, but the base's UNet takes no prompts: leave it out")
    if "context" in batch:
        wanted, shape = base.unet.cross_attention_dim, batch["context"].shape
        if shape.rank != 3 or shape[-1] != wanted:
            raise UserError(f"context has shape {shape}: it must be [B, 77, {wanted}], of base.embed(prompts)")


def check_values(batch: Mapping[str, Any]) -> None:
    """Checks the values of images and conditions. Passes over NaN: updates that meet it are skipped.

    Warns of an image in [0, 1], which may also be a bright one.

    Raises:
        UserError: an image, a condition or a mask beyond [-1, 1], a mask of -1 and 1, or a condition in [0, 1] beside
            an image in [-1, 1], to which it is closer in [-1, 1].
    """
    ranges = {}
    for name in ("image", "condition"):
        value = np.asarray(batch[name]) if name in batch else np.zeros(0)
        for part, values in {name: value[..., :3], f"the mask of {name}": value[..., 3:]}.items():
            if not values.size or not np.isfinite(values).all():
                continue
            found = ranges[part] = float(values.min()), float(values.max())
            minus_one = part != name and found[0] < 0 and bool((abs(values) == 1).all())  # a mask of -1 and 1
            if found[0] < -1 - TOLERANCE or found[1] > 1 + TOLERANCE or minus_one:
                remedy = UNIT if part == name else "it is 1 where the image is unknown, 0 elsewhere"
                raise UserError(f"{part} lies in [{found[0]:.3g}, {found[1]:.3g}]: {remedy}")
    image, condition = ranges.get("image"), ranges.get("condition")
    if image and condition and image[0] < -TOLERANCE and condition[0] >= 0 and _is_halved(batch):
        raise UserError(f"condition lies in [{condition[0]:.3g}, {condition[1]:.3g}], image in [-1, 1]: {UNIT}")
    if image and image[0] >= 0 and image[1] > TOLERANCE:
        warnings.warn(f"image lies in [{image[0]:.3g}, {image[1]:.3g}]: {UNIT}", stacklevel=2)


def _is_halved(batch: Mapping[str, Any]) -> bool:
    """Whether 2 c - 1 is closer to the image than the condition c is: it is not just a bright one."""
    image, condition = np.asarray(batch["image"])[..., :3], np.asarray(batch["condition"])[..., :3]
    if image.shape != condition.shape or condition.max() <= TOLERANCE:
        return False  # another shape is refused elsewhere
    return bool(abs(2 * condition - 1 - image).mean() < abs(condition - image).mean())
