"""Inpainting: masks distributed as the options say, conditions that hide the unknown, known pixels kept."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf
from inpainting_masks import KINDS, S, assert_uniform, is_box, is_half, masks, only

from codi_tf import data
from codi_tf.core.errors import UserError
from codi_tf.tasks import make_task
from codi_tf.tasks.inpainting import Inpainting, half_mask
from codi_tf.tasks.super_resolution import SuperResolution


def photo(height=S, width=S):
    """Float32 [H, W, 3] in [-1, 1] without zeros."""
    values = np.random.default_rng(0).uniform(0.01, 1, (height, width, 3))
    return np.float32(values * np.random.default_rng(1).choice([-1, 1], values.shape))


# --- conditions


@pytest.mark.parametrize("kind", [*KINDS, None])
@pytest.mark.parametrize("size", [(64, 64), (17, 40), (8, 8)])
def test_a_condition_is_the_known_part_and_the_mask(kind, size):
    task, image = Inpainting() if kind is None else only(kind), photo(*size)
    degrade = tf.function(lambda seed: task.degrade(tf.constant(image), seed), autograph=False)
    assert degrade(tf.constant([0, 0])).shape == (*size, 4)
    for i in range(40):
        condition = degrade(tf.constant([1, i])).numpy()
        assert condition.dtype == np.float32 and condition.shape == (*size, 4)
        rgb, mask = condition[..., :3], condition[..., 3]
        assert set(np.unique(mask)) == {0, 1}  # known and unknown pixels, and nothing between
        np.testing.assert_array_equal(rgb[mask == 0], image[mask == 0])
        np.testing.assert_array_equal(rgb[mask == 1], 0)


def test_shapes_are_static():
    graph = tf.function(Inpainting().degrade).get_concrete_function(
        tf.TensorSpec((24, 32, 3)), tf.TensorSpec((2,), tf.int32)
    )
    assert graph.output_shapes == (24, 32, 4)
    assert Inpainting.condition_channels == 4


def test_same_seed_same_mask_other_seed_other_mask():
    drawn = masks(Inpainting(), 30)
    np.testing.assert_array_equal(drawn, masks(Inpainting(), 30))
    strokes = masks(only("free_form"), 30)
    assert len(np.unique(strokes.reshape(30, -1), axis=0)) == 30
    eager = [Inpainting().mask(S, S, tf.constant([5, i]))[..., 0] for i in range(30)]
    np.testing.assert_array_equal(drawn, eager)


def test_independent_of_the_global_generator():
    drawn = []
    for seed in (1, 2):
        tf.random.set_seed(seed)
        drawn.append(masks(Inpainting(), 5))
    np.testing.assert_array_equal(*drawn)


def test_the_mask_does_not_depend_on_the_photo():
    task, seed = Inpainting(), tf.constant([3, 4])
    first, second = (task.degrade(tf.constant(image), seed)[..., 3] for image in (photo(), -photo()))
    np.testing.assert_array_equal(first, second)


# --- the mixture


@pytest.mark.parametrize("weights", [(0.6, 0.3, 0.1), (0, 1, 3), (5, 0, 5), (0, 0, 2)])
def test_kinds_are_drawn_by_their_weights(weights):
    count = 400
    drawn = masks(Inpainting(**dict(zip(KINDS, weights, strict=True)), box_side=(0.2, 0.6)), count, 32, 32)
    halves = np.array([is_half(mask) for mask in drawn])
    boxes = np.array([is_box(mask) for mask in drawn]) & ~halves
    shares = np.array([(~boxes & ~halves).mean(), boxes.mean(), halves.mean()])
    expected = np.array(weights) / sum(weights)
    np.testing.assert_allclose(shares, expected, atol=4 * 0.5 / math.sqrt(count))
    np.testing.assert_array_equal(shares[expected == 0], 0)


def test_area_of_the_defaults():
    """A photo of which 20 to 30 % is unknown is what Palette is measured with."""
    strokes = masks(only("free_form"), 300).mean(axis=(1, 2))
    assert 0.2 < strokes.mean() < 0.3 and strokes.min() < 0.05 and 0.4 < strokes.max() < 0.75
    mixed = masks(Inpainting(), 300).mean(axis=(1, 2))
    expected = 0.6 * strokes.mean() + 0.3 * 0.25 + 0.1 * 0.5
    assert abs(mixed.mean() - expected) < 4 * 0.14 * math.sqrt(2 / 300)


# --- halves


def test_halves_are_equally_likely_and_exact():
    drawn = masks(only("half"), 400, 6, 10)
    expected = np.zeros((4, 6, 10))
    expected[0, :3], expected[1, 3:], expected[2, :, :5], expected[3, :, 5:] = 1, 1, 1, 1
    which = (drawn[:, None] == expected).all(axis=(2, 3))  # [400, 4]
    assert (which.sum(axis=1) == 1).all()
    np.testing.assert_allclose(which.mean(axis=0), 0.25, atol=4 * math.sqrt(0.25 * 0.75 / 400))


def test_half_of_an_odd_side_is_rounded_down():
    sums = {int(half_mask(5, 7, tf.constant([0, i])).numpy().sum()) for i in range(40)}
    assert sums == {2 * 7, 5 * 3}


# --- boxes


def test_boxes_have_sides_and_places_of_the_options():
    height, width, low, high = 200, 300, 0.2, 0.7
    drawn = masks(only("box", box_side=(low, high)), 500, height, width)
    assert all(is_box(mask) for mask in drawn)
    rows, columns = drawn.any(axis=2), drawn.any(axis=1)
    sides = {}
    for side, size in ((rows, height), (columns, width)):
        share = side.mean(axis=1)
        assert_uniform(share, low, high)
        assert abs(share.min() - low) < 0.01 and abs(share.max() - high) < 0.01
        place = side.argmax(axis=1) / (size - side.sum(axis=1))
        assert_uniform(place, 0, 1)
        assert place.min() < 0.01 and place.max() == 1  # up to the last row
        sides[size] = share
        assert abs(np.corrcoef(share, place)[0, 1]) < 4 / math.sqrt(500)
    assert abs(np.corrcoef(*sides.values())[0, 1]) < 4 / math.sqrt(500)  # height and width are drawn apart


@pytest.mark.parametrize(("side", "area"), [((0, 0), 1), ((1, 1), 7 * 11)])
def test_a_box_is_never_nothing_and_never_everything(side, area):
    assert {mask.sum() for mask in masks(only("box", box_side=side), 50, 8, 12)} == {area}


# --- a user's photo


def test_a_users_photo_and_mask_become_a_condition():
    pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 4), np.uint8)
    pixels[0, 0, :2, 3] = 127, 128
    condition = Inpainting().condition_from_image(np.float32(2 * (pixels / np.float32(255)) - 1)).numpy()
    assert condition.shape == (2, 8, 8, 4) and condition.dtype == np.float32
    unknown = pixels[..., 3] > 127
    np.testing.assert_array_equal(condition[..., 3], unknown)
    assert (condition[0, 0, 0, 3], condition[0, 0, 1, 3]) == (0, 1)
    np.testing.assert_array_equal(condition[unknown][:, :3], 0)
    np.testing.assert_array_equal(condition[~unknown][:, :3], (2 * (pixels / np.float32(255)) - 1)[~unknown][:, :3])
    np.testing.assert_array_equal(Inpainting().condition_from_image(condition), condition)


def test_what_a_condition_hides_leaves_no_trace():
    rgba = np.concatenate([photo(), np.where(photo()[..., :1] > 0, 1, -1)], axis=-1).astype(np.float32)
    other = rgba.copy()
    other[rgba[..., 3] > 0, :3] *= -1
    first, second = (Inpainting().condition_from_image(image) for image in (rgba, other))
    np.testing.assert_array_equal(first, second)


def test_known_pixels_stay_exactly():
    task, image = Inpainting(), photo()
    condition = np.stack([task.degrade(tf.constant(image), tf.constant([0, i])) for i in range(4)])
    made = np.random.default_rng(1).uniform(-1, 1, (4, S, S, 3)).astype(np.float32)
    finished = task.finish(made, condition).numpy()
    assert finished.dtype == np.float32
    known = condition[..., 3] == 0
    np.testing.assert_array_equal(finished[known], np.broadcast_to(image, made.shape)[known])
    np.testing.assert_array_equal(finished[~known], made[~known])
    levels = np.arange(256, dtype=np.float32) / 255  # through [-1, 1] and back every byte is itself
    row = np.stack([2 * levels - 1] * 3 + [0 * levels], axis=-1)[None]
    back = (task.finish(np.zeros((1, 256, 3), np.float32), row) + 1) / 2
    np.testing.assert_array_equal(np.rint(255 * back)[0, :, 0], np.arange(256))


# --- data


PHOTOS = {"a": np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)}


def batches(count, **options):
    options = {"image_size": 16, "batch_size": 4, "seed": 5, **options}
    return list(data.batches(PHOTOS, Inpainting(), **options).take(count).as_numpy_iterator())


def test_batches_have_conditions_of_four_channels():
    spec = data.batches(PHOTOS, Inpainting(), image_size=16, batch_size=4, seed=0).element_spec
    assert {key: value.shape for key, value in spec.items()} == {"image": (4, 16, 16, 3), "condition": (4, 16, 16, 4)}
    whole = batches(3)
    for batch in whole:
        known = batch["condition"][..., 3] == 0
        np.testing.assert_array_equal(batch["condition"][known][:, :3], batch["image"][known])
        assert all(0 < k.mean() < 1 for k in known)
    resumed = batches(1, start_step=2)[0]
    for key, value in whole[2].items():
        np.testing.assert_array_equal(resumed[key], value)
    drawn = np.concatenate([batch["condition"][..., 3] for batch in whole])
    assert len(np.unique(drawn, axis=0)) >= 10  # of 12: two may be the same half


def test_photos_are_the_same_whatever_the_task():
    ours, theirs = (
        data.evaluation_set(PHOTOS, task, image_size=16, count=6, seed=5) for task in (Inpainting(), SuperResolution())
    )
    np.testing.assert_array_equal(ours["image"], theirs["image"])
    assert ours["condition"].shape == (6, 16, 16, 4) and theirs["condition"].shape == (6, 16, 16, 3)


# --- options


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("free_form", -1),
        ("box", "0.5"),
        ("half", float("inf")),
        ("half", None),
        ("strokes", (0, 3)),
        ("strokes", (1, 1000)),
        ("strokes", (1.5, 3)),
        ("stroke_segments", (5, 4)),
        ("stroke_segments", 4),
        ("stroke_angle", (0, 181)),
        ("stroke_length", (-0.1, 0.3)),
        ("stroke_length", (0, 3)),
        ("stroke_width", (0, 1.5)),
        ("stroke_width", (float("nan"), 1)),
        ("box_side", (0.5, 1.1)),
        ("box_side", (True, 1)),
    ],
)
def test_wrong_option_is_an_error_that_names_it(option, value):
    with pytest.raises(UserError, match=f"inpainting: {option} must be") as caught:
        Inpainting(**{option: value})
    assert repr(value) in str(caught.value) and "\n" not in str(caught.value)


def test_one_kind_must_be_drawn():
    with pytest.raises(UserError, match="free_form, box and half are all 0"):
        Inpainting(free_form=0, box=0, half=0)


def test_lists_of_a_configuration_file_are_taken():
    task = make_task("inpainting", strokes=[1, 2], box_side=[0, 1])
    assert task == Inpainting(strokes=(1, 2), box_side=(0, 1)) and hash(task) is not None
