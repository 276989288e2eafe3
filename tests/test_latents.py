"""Examples encoded once: the autoencoder's latents, and batches of them that resume."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from tiny import tiny_base

from codi_tf.data.precompute import encode_once, latent_batches

TABLE = {
    "latent": np.arange(10, dtype="float32").reshape(10, 1, 1, 1),
    "condition_latent": 100 + np.arange(10, dtype="float32").reshape(10, 1, 1, 1),
}


def taken(count, **options):
    batches = latent_batches(TABLE, **{"batch_size": 3, "seed": 0, **options}).take(count)
    return [{key: value.ravel() for key, value in batch.items()} for batch in batches.as_numpy_iterator()]


@pytest.mark.parametrize("names", [("image",), ("image", "condition")])
def test_each_example_is_encoded_as_the_base_encodes_it(names):
    base = tiny_base()
    random = np.random.default_rng(0)
    images = {name: random.uniform(-1, 1, (5, 8, 8, 3)).astype("float32") for name in names}
    reported = []
    dataset = tf.data.Dataset.from_tensor_slices(images).batch(2)
    latents = encode_once(base, dataset, 3, reported.append, encode_condition=base.encode)
    assert reported == [2, 3]
    assert set(latents) == {{"image": "latent", "condition": "condition_latent"}[name] for name in names}
    for name in names:
        key = "latent" if name == "image" else "condition_latent"
        expected = np.asarray(base.vae.encode(images[name][:3]).mean) * base.vae.scaling_factor
        assert latents[key].shape == (3, 2, 2, 4)
        np.testing.assert_allclose(latents[key], expected, rtol=0, atol=1e-5)


def test_of_a_condition_is_kept_what_the_adapter_sees():
    """Of another number of channels than the image; the batch itself for an adapter that sees images."""
    base, random = tiny_base(), np.random.default_rng(0)
    examples = {
        "image": random.uniform(-1, 1, (3, 8, 8, 3)).astype("float32"),
        "condition": random.uniform(-1, 1, (3, 8, 8, 4)).astype("float32"),
    }
    dataset = tf.data.Dataset.from_tensor_slices(examples).batch(3)
    kept = encode_once(base, dataset, 3, [].append, encode_condition=tf.identity)
    np.testing.assert_array_equal(kept["condition_latent"], examples["condition"])
    halved = encode_once(base, dataset, 3, [].append, encode_condition=lambda condition: condition[:, ::2, ::2, 3:])
    np.testing.assert_array_equal(halved["condition_latent"], examples["condition"][:, ::2, ::2, 3:])


def test_conditions_stay_with_their_examples():
    for batch in taken(7):
        np.testing.assert_array_equal(batch["condition_latent"], batch["latent"] + 100)


def test_within_an_epoch_no_example_comes_twice():
    batches = [batch["latent"] for batch in taken(6)]
    epochs = [np.concatenate(batches[:3]), np.concatenate(batches[3:])]
    assert [len(set(epoch)) for epoch in epochs] == [9, 9]  # 10 examples make 3 whole batches of 3
    assert not np.array_equal(*epochs)


def test_over_the_epochs_every_example_comes():
    assert {int(x) for batch in taken(30) for x in batch["latent"]} == set(range(10))


def test_batches_depend_on_seed_and_step_only():
    straight = taken(7)
    for start in (2, 3, 5):
        for expected, batch in zip(straight[start:], taken(7 - start, start_step=start), strict=True):
            np.testing.assert_array_equal(batch["latent"], expected["latent"])
    assert any(not np.array_equal(a["latent"], b["latent"]) for a, b in zip(straight, taken(7, seed=1), strict=True))


def test_shapes_are_static():
    spec = latent_batches(TABLE, batch_size=3, seed=0).element_spec
    assert {key: s.shape for key, s in spec.items()} == dict.fromkeys(TABLE, (3, 1, 1, 1))
