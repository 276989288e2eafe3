"""The feature network: what its distance sees, its feature maps, its file."""

from __future__ import annotations

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from codi_tf import data
from codi_tf.core.errors import UserError
from codi_tf.diffusion.losses import perceptual_distance
from codi_tf.evaluation.features import (
    FeatureNetwork,
    labeled_crops,
    load_features,
    save_features,
    train_feature_network,
)
from codi_tf.evaluation.numerics import frechet_distance
from codi_tf.tasks import make_task
from codi_tf.tasks.super_resolution import gaussian_blur

S = 32


@pytest.fixture(scope="module")
def photos():
    """Few photos and, for them, a few crops: the network is then trained in seconds."""
    return data.load_photos("heldout")


@pytest.fixture(scope="module")
def trained(photos):
    return train_feature_network(photos, image_size=S, steps=400, seed=0)


def untrained(seed: int = 0) -> FeatureNetwork:
    keras.utils.set_random_seed(seed)
    network = FeatureNetwork(num_photos=3, name="features")
    network.build()
    return network


def random_images(seed: int = 0):
    return np.random.default_rng(seed).uniform(-1, 1, (2, 24, 16, 3)).astype("float32")


def test_distance_sees_degradation(photos, trained):
    """FD-photos of degraded crops is far above that of other crops of the same photos; it grows with blur."""
    shared = {"image_size": S, "count": 200}
    first, second = (data.evaluation_set(photos, make_task("super_resolution"), seed=s, **shared) for s in (8, 9))
    clean = trained.features(first["image"])

    def distance(images):
        return frechet_distance(clean, trained.features(images))

    def blurred(sigma):
        return np.stack([gaussian_blur(tf.constant(x), tf.constant(sigma), radius=8) for x in first["image"]])

    other = distance(second["image"])
    assert distance(first["condition"]) > 5 * other
    by_blur = [distance(blurred(sigma)) for sigma in (0.5, 0.8, 1.2, 1.8, 2.6)]
    assert by_blur == sorted(by_blur) and by_blur[2] > 2 * other
    detail = first["image"] - blurred(1.0)
    by_sharpening = [distance(first["image"] + factor * detail) for factor in (0.5, 1.0, 2.0)]
    assert by_sharpening == sorted(by_sharpening) and by_sharpening[2] > 2 * other


def test_heads_tell_photo_and_degradation(photos, trained):
    crops, labels = labeled_crops(photos, image_size=S, count=30, seed=5)
    photo, degraded = trained(np.concatenate([crops[:, 0], crops[:, 1]]))
    assert photo.shape == (240, 4) and degraded.shape == (240,)
    assert np.mean(np.argmax(photo, -1) == np.tile(labels, 2)) > 0.7
    assert np.mean((np.array(degraded) > 0) == np.repeat([False, True], 120)) > 0.7


def test_labeled_crops_come_from_their_photo():
    photos = {"dark": np.full((40, 40, 3), 10, np.uint8), "light": np.full((50, 40, 3), 200, np.uint8)}
    crops, labels = labeled_crops(photos, image_size=16, count=3, seed=0)
    assert crops.shape == (6, 2, 16, 16, 3)
    np.testing.assert_array_equal(labels, [0, 0, 0, 1, 1, 1])
    np.testing.assert_allclose(crops[:, 0].mean(axis=(1, 2, 3)), np.array([10, 200])[labels] / 127.5 - 1, atol=1e-6)
    assert np.abs(crops[:, 1] - crops[:, 0]).max() > 0.02  # noise and JPEG


def test_training_repeats():
    photos, x = dict(list(data.load_photos("heldout").items())[:2]), random_images()
    runs = [train_feature_network(photos, image_size=16, steps=3, seed=seed).features(x) for seed in (1, 1, 2)]
    np.testing.assert_array_equal(runs[0], runs[1])
    assert np.abs(runs[0] - runs[2]).max() > 1e-3


def test_training_reports_and_refuses():
    photos = dict(list(data.load_photos("heldout").items())[:2])
    done = []
    train_feature_network(photos, image_size=16, steps=3, report=done.append)
    assert done == [1, 2, 3]
    with pytest.raises(UserError, match="two or more photos to tell apart, not 1"):
        train_feature_network({"one": photos["coffee"]}, steps=1)


def test_shapes():
    network, x = untrained(), random_images()
    assert network.features(x).shape == (2, 64)
    assert [tuple(h.shape) for h in network.maps(x)] == [
        (2, 24, 16, 16),
        (2, 12, 8, 32),
        (2, 6, 4, 64),
        (2, 3, 2, 64),
        (2, 3, 2, 64),
    ]
    assert 80_000 < network.count_params() < 120_000


def test_maps_have_unit_channels_and_finite_gradients():
    network, x = untrained(), random_images()
    for h in network.maps(x):
        np.testing.assert_allclose(np.linalg.norm(h, axis=-1), 1, rtol=1e-3)
    # Black without bias: all activations are 0, and gradients must stay finite.
    black = tf.zeros((1, 16, 16, 3))
    with tf.GradientTape() as tape:
        tape.watch(black)
        total = sum(tf.reduce_sum(h) for h in network.maps(black))
    assert np.isfinite(tape.gradient(total, black)).all()


def test_maps_serve_the_perceptual_guidance(base):
    network = untrained()
    distance = perceptual_distance(base.decode, network.maps)
    x = np.random.default_rng(0).normal(size=(3, 4, 4, 4)).astype("float32")
    np.testing.assert_allclose(distance(x, x), 0, atol=1e-9)
    x_hat = x.copy()
    x_hat[1] += 1
    assert (np.array(distance(x, x_hat)) > 1e-6).tolist() == [False, True, False]


def test_file(tmp_path):
    network = untrained(seed=4)
    save_features(network, tmp_path / "features")
    again = load_features(tmp_path / "features")
    np.testing.assert_array_equal(again.features(random_images()), network.features(random_images()))
    assert again.num_photos == 3
    save_features(network, tmp_path / "features")  # in place of the first


def test_file_of_something_else(tmp_path, bundle):
    with pytest.raises(UserError, match="no such file"):
        load_features(tmp_path / "none")
    with pytest.raises(UserError, match="no feature network"):
        load_features(bundle / "vae")
    save_features(untrained(), tmp_path / "features")
    config = tmp_path / "features" / "config.json"
    config.write_text(json.dumps({"_class_name": "FeatureNetwork", "widths": [8, 8]}))
    with pytest.raises(UserError, match="num_photos is missing"):
        load_features(tmp_path / "features")
