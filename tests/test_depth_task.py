"""Depth to image: nearness by each image's own extremes, whatever its unit; maps of all kinds of files."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from codi_tf.core.errors import UserError
from codi_tf.tasks.depth import Depth

SEED = tf.constant([0, 0])


def near_map(height=12, width=20, seed=0):
    return np.random.default_rng(seed).uniform(3, 60, (height, width, 1)).astype(np.float32)


def test_a_condition_is_the_map_between_its_extremes():
    near = near_map()
    condition = Depth().degrade(tf.constant(near), SEED).numpy()
    assert condition.shape == (12, 20, 3) and condition.dtype == np.float32
    exact = near.astype(np.float64)
    exact = 2 * (exact - exact.min()) / (exact.max() - exact.min()) - 1
    np.testing.assert_allclose(condition, np.repeat(exact, 3, axis=-1), atol=1e-6)
    assert condition.min() == -1 and condition.max() == 1
    assert np.unravel_index(condition[..., 0].argmax(), (12, 20)) == np.unravel_index(near[..., 0].argmax(), (12, 20))


def test_a_condition_is_what_midas_gives_to_stable_diffusion():
    """Its depth-to-image pipeline: 2 (d - min) / (max - min) - 1 in torch."""
    torch = pytest.importorskip("torch")
    near = torch.from_numpy(near_map()[None])
    low, high = (reduce(near, dim=[1, 2, 3], keepdim=True) for reduce in (torch.amin, torch.amax))
    theirs = 2.0 * (near - low) / (high - low) - 1.0
    np.testing.assert_allclose(Depth().condition_from_image(near.numpy())[..., :1], theirs, atol=1e-6)


@pytest.mark.parametrize(("scale", "offset"), [(1e-3, 0), (7.0, 100.0), (65535.0, -3e5)])
def test_neither_unit_nor_offset_matters(scale, offset):
    near = near_map()
    condition = Depth().degrade(tf.constant(near), SEED)
    np.testing.assert_allclose(Depth().degrade(tf.constant(scale * near + offset), SEED), condition, atol=1e-4)


def test_each_image_of_a_batch_has_extremes_of_its_own():
    maps = np.stack([near_map(seed=0), 1e3 + near_map(seed=1)])
    conditions = Depth().condition_from_image(maps).numpy()
    for one, near in zip(conditions, maps, strict=True):
        np.testing.assert_array_equal(one, Depth().degrade(tf.constant(near), SEED))
        assert one.min() == -1 and one.max() == 1


@pytest.mark.parametrize("percentiles", [(0, 100), (2, 97), (0, 50)])
def test_a_condition_is_its_own_condition(percentiles):
    """Through [0, 1] and back too, as it goes through `generate`."""
    task = Depth(percentiles=percentiles)
    condition = task.degrade(tf.constant(near_map()), SEED).numpy()
    np.testing.assert_allclose(task.condition_from_image(condition), condition, atol=1e-6)
    np.testing.assert_allclose(task.condition_from_image(2 * ((condition + 1) / 2) - 1), condition, atol=1e-6)


@pytest.mark.parametrize("percentiles", [(0, 100), (5, 95)])
def test_what_is_equally_near_everywhere_is_gray(percentiles):
    near = tf.fill((8, 8, 1), 4.2)
    np.testing.assert_array_equal(Depth(percentiles=percentiles).degrade(near, SEED), np.zeros((8, 8, 3)))


def test_percentiles_keep_wrong_pixels_from_setting_the_scale():
    near = np.arange(1000, dtype=np.float32).reshape(20, 50, 1)
    spoiled = near.copy()
    spoiled[0, 0], spoiled[-1, -1] = -1e6, 1e6
    task = Depth(percentiles=(1, 98))
    condition = task.degrade(tf.constant(spoiled), SEED).numpy()[..., 0]
    low, high = 9, 980  # floor(0.01 * 999), ceil(0.98 * 999): pixels, sorted
    expected = np.clip(2 * (near[..., 0] - low) / (high - low) - 1, -1, 1)
    expected[0, 0], expected[-1, -1] = -1, 1
    np.testing.assert_allclose(condition, expected, atol=1e-6)
    assert np.ptp(Depth().degrade(tf.constant(spoiled), SEED)[1:-1]) < 0.01  # without them: one gray


def test_percentiles_of_batches_in_a_graph():
    task, maps = Depth(percentiles=(3, 90)), np.stack([near_map(seed=i) for i in range(3)])
    graph = tf.function(task.condition_from_image).get_concrete_function(tf.TensorSpec((None, 12, 20, 3)))
    conditions = graph(tf.constant(np.repeat(maps, 3, axis=-1)))
    for one, near in zip(conditions, maps, strict=True):
        np.testing.assert_allclose(one, task.degrade(tf.constant(near), SEED), atol=1e-6)


def test_shapes_are_static():
    graph = tf.function(Depth().degrade).get_concrete_function(
        tf.TensorSpec((24, 32, 1)), tf.TensorSpec((2,), tf.int32)
    )
    assert graph.output_shapes == (24, 32, 3)
    assert (Depth.condition_channels, Depth.condition_key, Depth.prompted) == (3, "depth", False)


def test_images_are_made_anew():
    images = tf.random.stateless_uniform((2, 4, 4, 3), (0, 0))
    assert Depth().finish(images, -images) is images


def test_a_users_map_becomes_an_image():
    disparity = near_map()[..., 0]
    image = Depth().as_image(disparity)
    assert image.shape == (12, 20, 3) and image.dtype == np.float32 and (image.min(), image.max()) == (0, 1)
    condition = Depth().degrade(tf.constant(disparity[..., None]), SEED)
    np.testing.assert_allclose(2 * image - 1, condition, atol=1e-6)
    of_depth = Depth(kind="depth").as_image(np.rint(1e6 / disparity).astype(np.uint32))  # in any unit
    np.testing.assert_allclose(of_depth, image, atol=1e-3)


@pytest.mark.parametrize(
    ("depth", "message"),
    [
        (np.zeros((0, 4)), r"shape \(0, 4\)"),
        (np.ones((4, 4, 3)), r"shape \(4, 4, 3\)"),
        (np.array([["near"]]), "type <U4"),
        (np.full((4, 4), 7), "constant"),
        (np.full((4, 4), np.nan), "unknown everywhere"),
        (np.where(np.eye(4) > 0, np.inf, 2.0), "unknown .* in 4 of 16 pixels"),
    ],
)
def test_useless_maps_are_an_error(depth, message):
    with pytest.raises(UserError, match=message) as caught:
        Depth().as_image(depth)
    assert "\n" not in str(caught.value)


def test_a_distance_of_zero_is_unknown_but_a_disparity_of_zero_is_far():
    values = np.arange(16).reshape(4, 4)
    assert Depth().as_image(values)[0, 0, 0] == 0
    with pytest.raises(UserError, match="in 1 of 16 pixels"):
        Depth(kind="depth").as_image(values)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "metres"}, "depth: kind must be disparity or depth, not 'metres'"),
        ({"kind": None}, "kind must be"),
        ({"kind": ["depth"]}, "kind must be"),
        ({"percentiles": (5, 101)}, "depth: percentiles must be"),
        ({"percentiles": (-1, 50)}, "percentiles must be"),
        ({"percentiles": (60, 50)}, "percentiles must be"),
        ({"percentiles": (50, 50)}, "two different numbers"),
        ({"percentiles": 5}, "percentiles must be"),
        ({"percentiles": (float("nan"), 100)}, "percentiles must be"),
    ],
)
def test_wrong_option_is_an_error_that_names_it(options, message):
    with pytest.raises(UserError, match=message) as caught:
        Depth(**options)
    assert "\n" not in str(caught.value)


def test_lists_of_a_configuration_file_are_taken():
    task = Depth(percentiles=[1, 99])
    assert task == Depth(percentiles=(1, 99)) and hash(task) is not None
