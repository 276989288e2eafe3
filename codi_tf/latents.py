"""Examples encoded once, before the first step: for a frozen autoencoder the work of every later epoch is saved."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tensorflow as tf


def encode_once(
    base, dataset: tf.data.Dataset, count: int, report: Callable[[int], None], *, see: Callable | None = None
) -> dict[str, np.ndarray]:
    """The latents of the first `count` examples of a dataset of batches.

    Args:
        base: the model whose autoencoder encodes the images.
        dataset: batches {"image": [B, S, S, 3], "condition": [B, S, S, 3 or 4]} or {"image"}, in [-1, 1].
        count: examples wanted; rounded up to whole batches.
        report: called with the number of examples done, after each batch.
        see: condition images -> c, what the adapter takes of them, see `methods.networks.seen`.

    Returns:
        {"latent": float32 [N, h, w, 4], scaled; "condition_latent": c, float32 [N, ...]}.
    """

    @tf.function
    def encode(batch):
        encoded = {"latent": base.encode(batch["image"])}
        return encoded | ({"condition_latent": see(batch["condition"])} if "condition" in batch else {})

    done, parts = 0, []
    for batch in dataset:
        parts.append({key: value.numpy() for key, value in encode(batch).items()})
        done += len(parts[-1]["latent"])
        report(min(done, count))
        if done >= count:
            break
    return {key: np.concatenate([part[key] for part in parts])[:count] for key in parts[0]}


def latent_batches(
    latents: dict[str, np.ndarray], *, batch_size: int, seed: int, start_step: int = 0
) -> tf.data.Dataset:
    """Infinite batches of encoded examples, drawn without replacement within an epoch; batch k depends on (seed, k).

    Returns:
        What `encode_once` gives, B examples of it.
    """
    count = len(latents["latent"])
    per_epoch = count // batch_size
    tables = {key: tf.constant(value) for key, value in latents.items()}

    def batch(step):
        epoch, place = step // per_epoch, step % per_epoch
        # A sort of stateless random numbers is a permutation that depends on (seed, epoch) alone.
        order = tf.argsort(tf.random.stateless_uniform((count,), (tf.cast(seed, tf.int64), epoch)))
        chosen = order[place * batch_size : (place + 1) * batch_size]
        return {key: tf.ensure_shape(tf.gather(t, chosen), (batch_size, *t.shape[1:])) for key, t in tables.items()}

    steps = tf.data.Dataset.range(start_step, np.iinfo(np.int64).max)
    return steps.map(batch, num_parallel_calls=1, deterministic=True).prefetch(2)
