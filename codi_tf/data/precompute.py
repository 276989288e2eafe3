"""Encoding examples once, before the first update, because a frozen autoencoder gives the same latents every time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from codi_tf.core.errors import user_errors
from codi_tf.data.counts import Counts
from codi_tf.data.pipeline import REPLACED

MAX_PROMPTS = 4096  # different prompts whose embeddings stay in memory: 1 GB at Stable Diffusion's size
EMBEDDED = 32  # at a time


def encode_once(
    base,
    dataset: tf.data.Dataset,
    count: int,
    report: Callable[[int], None],
    *,
    encode_condition: Callable | None = None,
    counts: Counts | None = None,
) -> dict[str, np.ndarray]:
    """The latents of the first `count` examples of a dataset of batches.

    Args:
        base: the model whose autoencoder encodes the images.
        dataset: batches {"image": [B, S, S, 3], "condition": [B, S, S, 3 or 4]} or {"image"}, in [-1, 1].
        count: examples wanted; rounded up to whole batches.
        report: called with the number of examples done, after each batch.
        encode_condition: conditions -> c, the adapter's input, see `methods.networks.encode_condition`.
        counts: counts the damaged records that were replaced.

    Returns:
        {"latent": float32 [N, h, w, 4], scaled; "condition_latent": c, float32 [N, ...]}, and the batches' "tokens",
        int32 [N, M], and "class", int32 [N].

    Raises:
        UserError: of the dataset: an example cannot be read.
    """
    encode = encoder(base, encode_condition)
    done, parts = 0, []
    with user_errors():
        for batch in dataset:
            parts.append({key: value.numpy() for key, value in encode(batch).items()})
            count_of_batch = len(parts[-1]["latent"])
            if counts is not None:
                counts.add(count_of_batch, first=done, replaced=float(np.sum(batch.get(REPLACED, 0))))
            done += count_of_batch
            report(min(done, count))
            if done >= count:
                break
    return {key: np.concatenate([part[key] for part in parts])[:count] for key in parts[0]}


def encoder(base, encode_condition: Callable | None) -> Callable[[dict], dict]:
    """The compiled function from a batch to its encoded examples; the arguments are those of `encode_once`."""
    return tf.function(_encode(base, encode_condition))


def encoder_on_each(base, encode_condition: Callable | None, strategy) -> Callable[[list[dict]], list[dict]]:
    """The function from batches of one size, at most one for each replica, to their encoded examples.

    Each replica encodes a whole batch: what an example becomes does not depend on the number of replicas.
    """
    encode, count = _encode(base, encode_condition), strategy.num_replicas_in_sync

    @tf.function
    def on_each(batch):
        return strategy.run(encode, args=(batch,))

    def run(batches: list[dict]) -> list[dict]:
        padded = [*batches, *batches[-1:] * (count - len(batches))]
        given = strategy.experimental_distribute_values_from_function(lambda one: padded[one.replica_id_in_sync_group])
        found = {key: strategy.experimental_local_results(value) for key, value in on_each(given).items()}
        return [{key: values[i] for key, values in found.items()} for i in range(len(batches))]

    return run


def _encode(base, encode_condition: Callable | None) -> Callable[[dict], dict]:
    def encode(batch):
        kept = {key: batch[key] for key in ("tokens", "class") if key in batch}
        encoded = {"latent": base.encode(batch["image"])} | kept
        if encode_condition is not None and "condition" in batch:
            encoded["condition_latent"] = encode_condition(batch["condition"])
        return encoded

    return encode


def embed_once(base, latents: dict[str, Any]) -> tuple[dict[str, Any], np.ndarray | None]:
    """Embed the prompts of encoded examples: the examples get prompt numbers in place of tokens.

    Examples without tokens, or with more than MAX_PROMPTS different prompts, are returned unchanged.

    Returns:
        (latents with "prompt" int32 [N], contexts float32 [U, M, D]), or (latents, None).
    """
    if "tokens" not in latents:
        return latents, None
    texts, numbers = np.unique(latents["tokens"], axis=0, return_inverse=True)
    if len(texts) > MAX_PROMPTS:
        return latents, None
    contexts = [base.embed_tokens(texts[i : i + EMBEDDED]) for i in range(0, len(texts), EMBEDDED)]
    others = {key: value for key, value in latents.items() if key != "tokens"}
    return others | {"prompt": numbers.reshape(-1).astype(np.int32)}, np.concatenate(contexts)


def latent_batches(
    latents: dict[str, np.ndarray],
    *,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    contexts: np.ndarray | None = None,
    shard: tuple[int, int] = (0, 1),
    count: int | None = None,
) -> tf.data.Dataset:
    """Infinite batches of encoded examples, drawn without replacement within an epoch; batch k depends on (seed, k).

    Args:
        latents: from `encode_once` or `embed_once`.
        batch_size: B, of this host.
        seed: of the order.
        start_step: the first batch.
        contexts: from `embed_once`.
        shard: (i, n): this is host i of n, whose batches are the i-th part of batches of n B examples.
        count: the number of batches; None: they do not end.

    Returns:
        B examples of what `encode_once` gives; with contexts "context", float32 [B, M, D], in place of "tokens".
    """
    total, (host, hosts) = len(latents["latent"]), shard
    per_epoch = total // (batch_size * hosts)
    with tf.init_scope():  # within a function, arrays in memory do not belong to it
        tables = {key: tf.constant(value) for key, value in latents.items()}
        embedded = None if contexts is None else tf.constant(contexts)

    def batch(step):
        epoch, place = step // per_epoch, step % per_epoch
        # A sort of stateless random numbers is a permutation that depends on (seed, epoch) alone.
        order = tf.argsort(tf.random.stateless_uniform((total,), tf.stack([tf.cast(seed, tf.int64), epoch])))
        first = (place * hosts + host) * batch_size
        chosen = order[first : first + batch_size]
        examples = {key: tf.ensure_shape(tf.gather(t, chosen), (batch_size, *t.shape[1:])) for key, t in tables.items()}
        if embedded is not None:
            examples["context"] = tf.gather(embedded, examples.pop("prompt"))
        return examples

    steps = tf.data.Dataset.range(start_step, np.iinfo(np.int64).max)
    steps = steps if count is None else steps.take(count)
    return steps.map(batch, num_parallel_calls=1, deterministic=True).prefetch(2)
