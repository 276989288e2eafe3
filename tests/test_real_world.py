"""The Real-ESRGAN degradation: draws in their ranges, stages in their order, a function of (image, seed)."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pytest
import tensorflow as tf
from real_world_draws import assert_share, assert_uniform, draws
from scipy import ndimage, stats

from codi_tf import data
from codi_tf.core.errors import UserError
from codi_tf.tasks.degradations import RESIZES, jpeg, resized, sinc_kernel
from codi_tf.tasks.real_world import KERNELS, RealWorld

OFF = {
    "sinc_prob": 0,
    "blur_sigma": (0, 0),
    "resize_prob": (0, 0, 1),
    "gaussian_noise_prob": 1,
    "noise_range": (0, 0),
    "jpeg_range": (100, 100),
}
CLEAN = OFF | {name + "2": value for name, value in OFF.items()} | {"second_blur_prob": 0, "final_sinc_prob": 0}


def texture(height=64, width=64, seed=0):
    """An image with power at every frequency, whole 8-bit levels, float32 [H, W, 3] in [-1, 1]."""
    noise = np.random.default_rng(seed).uniform(-1, 1, (height, width, 3))
    values = (0.5 * noise + 0.5 * ndimage.gaussian_filter(noise, (3, 3, 0)) * 8).clip(-1, 1)
    return np.float32(np.rint((values + 1) * 127.5) / 127.5 - 1)


# --- the whole


@pytest.mark.parametrize(("size", "scale"), [((64, 64), 4), ((32, 48), 2), ((16, 8), 8), ((24, 40), 1)])
def test_shape_dtype_range(size, scale):
    task, image = RealWorld(scale=scale), tf.constant(np.where(texture(*size) > 0, 1, -1), tf.float32)
    conditions = draws(lambda seed: task.degrade(image, seed), 25)
    for condition in conditions:
        assert condition.shape == (*size, 3) and condition.dtype == np.float32
        assert np.isfinite(condition).all() and condition.min() >= -1 and condition.max() <= 1
    assert np.std(conditions, axis=0).min() > 0.01  # every one another
    low = task.low_resolution(image, tf.constant([5, 0])).numpy()
    assert low.shape == (size[0] // scale, size[1] // scale, 3)
    np.testing.assert_allclose(low * 255, np.rint(low * 255), atol=1e-4)


def test_shapes_are_static():
    graph = tf.function(RealWorld().degrade, autograph=False).get_concrete_function(
        tf.TensorSpec((32, 48, 3)), tf.TensorSpec((2,), tf.int32)
    )
    assert graph.output_shapes == (32, 48, 3)
    assert RealWorld.condition_channels == 3


def test_a_function_of_image_and_seed_only():
    task, image = RealWorld(), tf.constant(texture())
    in_graph = draws(lambda seed: task.degrade(image, seed), 12)
    tf.random.set_seed(3)
    np.testing.assert_array_equal(in_graph, draws(lambda seed: task.degrade(image, seed), 12))
    eager = [task.degrade(image, tf.constant([5, i])) for i in range(12)]
    difference = np.abs(np.array(in_graph) - eager)  # where a value lies between two levels, JPEG goes either way
    assert np.median(difference) == 0 and difference.mean() < 0.5 / 127.5


def test_batches_of_data():
    photos = {"a": np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)}

    def batches(**options):
        return data.batches(photos, RealWorld(), image_size=16, batch_size=4, seed=5, **options)

    dataset = batches(num_threads=1)
    assert dataset.element_spec["condition"].shape == (4, 16, 16, 3)
    whole = [batch["condition"] for batch in dataset.take(3).as_numpy_iterator()]
    resumed = next(batches(num_threads=2, start_step=2).as_numpy_iterator())["condition"]
    np.testing.assert_array_equal(whole[2], resumed)


def test_all_off_is_the_image_made_smaller_and_larger():
    """Smaller by one of three interpolations, with JPEG at quality 100 before and after it; larger bicubically."""
    task, image = RealWorld(**CLEAN), tf.constant(texture())
    once = jpeg((image + 1) / 2, 100)
    answers = np.stack([jpeg(resized(once, 16, 16, tf.constant(mode)), 100) for mode in range(3)])
    lows = np.array(draws(lambda seed: task.low_resolution(image, seed), 90))
    distance = 255 * np.abs(lows[:, None] - answers).max(axis=(2, 3, 4))  # [90, 3]
    assert distance.min(axis=1).max() < 4  # where a value lies between two levels
    assert np.sort(distance)[:, 1].min() > 5
    modes = distance.argmin(axis=1)
    for mode in range(3):
        assert_share(modes == mode, 1 / 3)
    condition = task.degrade(image, tf.constant([5, 0]))
    enlarged = tf.image.resize(answers[modes[0]], (64, 64), "bicubic")
    np.testing.assert_allclose(condition, np.clip(2 * enlarged - 1, -1, 1), atol=3 / 127.5)


def test_all_off_with_bicubic_samples():
    """For a smooth image it does not matter how it is made smaller; what remains is JPEG's rounding."""
    smooth = ndimage.gaussian_filter(texture()[..., :1].repeat(3, axis=-1), (6, 6, 0))
    smooth *= 0.8 / np.abs(smooth).max()
    condition = RealWorld(scale=2, **CLEAN).degrade(tf.constant(smooth), tf.constant([5, 3]))
    down = tf.image.resize(smooth, (32, 32), "bicubic")
    expected = tf.image.resize(down, (64, 64), "bicubic")
    np.testing.assert_allclose(condition, expected, atol=4 / 127.5)


def test_scale_keeps_brightness_and_place():
    ramp = np.tile(np.linspace(-0.9, 0.9, 64, dtype=np.float32)[:, None, None], (1, 64, 3))
    task = RealWorld(**CLEAN)
    for condition in draws(lambda seed: task.degrade(tf.constant(ramp), seed), 6):
        np.testing.assert_allclose(condition[8:-8], ramp[8:-8], atol=4 / 127.5)  # no shift by part of a pixel


# --- the other stages of a round


@pytest.mark.parametrize(
    ("which", "prob", "bounds"), [(0, (0.2, 0.7, 0.1), (0.15, 1.5)), (1, (0.3, 0.4, 0.3), (0.3, 1.2))]
)
def test_sizes(which, prob, bounds):
    side, tiny = 2000, tf.zeros([3, 3, 3])
    one = dataclasses.replace(RealWorld().rounds[which], gaussian_noise_prob=1.0)  # the faster noise
    shapes = np.array(draws(lambda seed: tf.shape(one.degrade(tiny, (side, side // 100), seed)), 300))
    factors = shapes[:, 0] / side
    assert np.abs(shapes[:, 1] - factors * side / 100).max() < 0.51
    for share, found in zip(prob, (factors > 1, factors < 1, factors == 1), strict=True):
        assert_share(found, share)
    assert_uniform(factors[factors > 1], 1, bounds[1])
    assert_uniform(factors[factors < 1], bounds[0], 1)


def test_no_size_is_0():
    one = RealWorld(resize_range=(0.01, 1), resize_prob=(0, 1, 0)).rounds[0]
    shapes = draws(lambda seed: tf.shape(one.degrade(tf.zeros([8, 8, 3]), (8, 2), seed)), 20)
    assert np.min(shapes) == 1


def test_resizes_of_a_round_are_of_three_kinds():
    one, image = RealWorld(**CLEAN | {"resize_prob": (0, 1, 0), "resize_range": (0.4, 1)}).rounds[0], texture(20, 20)
    found = []
    for small in draws(lambda seed: one.degrade(tf.constant(image), (20, 20), seed), 90):
        candidates = [np.clip(resized(tf.constant(image), *small.shape[:2], tf.constant(m)), 0, 1) for m in range(3)]
        distance = [np.abs(small - candidate).max() for candidate in candidates]
        assert min(distance) < 1e-4
        if small.shape[0] < 20:
            found.append(int(np.argmin(distance)))
    for mode in range(len(RESIZES)):
        assert_share(np.array(found) == mode, 1 / 3)


@pytest.mark.parametrize(("which", "probability"), [(0, 1.0), (1, 0.8)])
def test_how_often_a_round_blurs(which, probability):
    one = dataclasses.replace(
        RealWorld(**CLEAN).rounds[which], blur_prob=RealWorld().rounds[which].blur_prob, blur_sigma=(1, 1)
    )
    image = texture(16, 16) / 2 + 0.5
    drawn = draws(lambda seed: one.degrade(tf.constant(image), (16, 16), seed), 120)
    assert_share([np.abs(blurred - image).max() > 0.1 for blurred in drawn], probability)


@pytest.mark.parametrize(("which", "high"), [(0, 30), (1, 25)])
def test_gaussian_noise(which, high):
    one = dataclasses.replace(RealWorld().rounds[which], gaussian_noise_prob=1.0)
    drawn = draws(lambda seed: one.noise(tf.fill([48, 48, 3], 0.5), seed), 300)
    assert_share([noise.shape == (48, 48, 1) for noise in drawn], 0.4)
    assert {noise.shape[-1] for noise in drawn} == {1, 3}
    assert_uniform([255 * noise.std() for noise in drawn], 1, high)


@pytest.mark.parametrize(("which", "high"), [(0, 3.0), (1, 2.5)])
def test_poisson_noise(which, high):
    one = dataclasses.replace(RealWorld().rounds[which], gaussian_noise_prob=0.0)
    drawn = draws(lambda seed: one.noise(tf.fill([48, 48, 3], 0.5), seed), 300)
    assert_share([noise.shape == (48, 48, 1) for noise in drawn], 0.4)
    assert_uniform([noise.std() / math.sqrt(0.5 / 256) for noise in drawn], 0.05, high)


@pytest.mark.parametrize(("suffix", "high"), [("", 30), ("2", 25)])
def test_either_kind_of_noise(suffix, high):
    """Poisson noise is made nothing here: what remains is Gaussian, of all strengths and colors."""
    options = {"poisson_scale_range" + suffix: (0, 0), "gaussian_noise_prob" + suffix: 0.4}
    one = RealWorld(**options).rounds[len(suffix)]
    drawn = draws(lambda seed: one.noise(tf.fill([32, 32, 3], 0.5), seed), 400)
    gaussian = [noise for noise in drawn if noise.any()]
    assert_share([noise.any() for noise in drawn], 0.4)
    assert_uniform([255 * noise.std() for noise in gaussian], 1, high)
    assert_share([noise.shape[-1] == 1 for noise in gaussian], 0.4)
    assert_uniform([255 * noise.std() for noise in gaussian if noise.shape[-1] == 1], 1, high)


def test_noise_is_added_after_the_blur_and_kept_in_range():
    one = dataclasses.replace(RealWorld(**CLEAN).rounds[0], noise_range=(30, 30), gray_noise_prob=0, blur_sigma=(3, 3))
    for noisy in draws(lambda seed: one.degrade(tf.fill([64, 64, 3], 0.5), (64, 64), seed), 3):
        assert noisy.std() == pytest.approx(30 / 255, rel=0.05)  # a blur would have taken it away
    for noisy in draws(lambda seed: one.degrade(tf.fill([64, 64, 3], 1.0), (64, 64), seed), 3):
        assert noisy.max() == 1 and noisy.min() < 0.9


def test_strengths_say_nothing_about_one_another():
    """Every draw has its own stream: kernels, sizes and noise of a round, and the two rounds."""
    first, second = RealWorld(kernel_range=(7, 21)).rounds
    image = tf.fill([16, 16, 3], 0.5)

    def measures(seed):
        rows = []
        for one, part in zip((first, second), tf.unstack(tf.random.split(seed, 2)), strict=True):
            noise = one.noise(image, part)
            rows += [tf.reduce_max(one.kernel(part)), noise[0, 0, 0], tf.math.reduce_std(noise)]
        return tf.stack(rows)

    correlation = stats.spearmanr(np.array(draws(measures, 300))).statistic - np.eye(6)
    assert np.abs(correlation).max() < 4.5 / math.sqrt(300)


# --- JPEG and the last step


def test_jpeg_qualities_of_both_rounds():
    image = tf.constant(texture(32, 32))
    task = RealWorld(scale=1, **CLEAN | {"jpeg_range": (60, 62), "jpeg_range2": (80, 81)})
    qualities = list(itertools.product(range(58, 65), range(78, 84)))
    candidates = np.stack([jpeg(jpeg((image + 1) / 2, first), second) for first, second in qualities])
    found = []
    for low in draws(lambda seed: task.low_resolution(image, seed), 150):
        distance = np.abs(low - candidates).max(axis=(1, 2, 3))
        assert distance.min() < 1e-5
        found.append(qualities[distance.argmin()])
    assert set(found) == set(itertools.product((60, 61, 62), (80, 81)))
    for pair in set(found):
        assert_share([f == pair for f in found], 1 / 6)


def test_the_range_of_jpeg_qualities_is_the_papers():
    task = RealWorld()
    assert task.jpeg_range == task.jpeg_range2 == (30, 95)


@pytest.mark.parametrize(("probability", "size"), [(0.0, 11), (0.8, 15), (1.0, 11)])
def test_the_final_sinc_filter(probability, size):
    """The answer to an impulse at the best quality tells the cutoff: uniform in pi/3 to pi."""
    middle = 16
    impulse = np.zeros((33, 33, 3), np.float32)
    impulse[middle, middle] = 1
    task = RealWorld(scale=1, **CLEAN | {"final_sinc_prob": probability, "kernel_range": (size, size)})
    lows = np.array(draws(lambda seed: task.low_resolution(tf.constant(impulse), seed), 160))
    answers = 2 * lows[..., 1] - 1
    filtered = answers[:, middle, middle] < 0.9
    assert_share(filtered, probability)
    if probability:
        grid = np.linspace(0.9, math.pi, 500)
        kernels = np.array([sinc_kernel(size, np.float32(cutoff)) for cutoff in grid])
        window = slice(middle - size // 2, middle + size // 2 + 1)
        distance = [np.abs(kernels - answer[window, window]).max(axis=(1, 2)) for answer in answers[filtered]]
        assert np.min(distance, axis=1).max() < 4 / 127.5
        assert_uniform(grid[np.argmin(distance, axis=1)], math.pi / 3, math.pi)


@pytest.mark.parametrize("probability", [0.5, 1])
def test_jpeg_comes_before_the_final_filter_or_after_it(probability):
    """What was compressed last hardly changes when it is compressed again; the order does not depend on the filter."""
    task = RealWorld(scale=1, **CLEAN | {"jpeg_range2": (30, 30), "final_sinc_prob": probability})
    image = tf.constant(texture(48, 48))
    lows = draws(lambda seed: task.low_resolution(image, seed), 120)
    change = np.array([np.abs(jpeg(tf.constant(low), 30) - low).mean() * 255 for low in lows])
    assert ((change < 1.5) | (change > 2.5)).all()
    assert_share(change > 2, probability / 2)


# --- options


def test_the_defaults_are_the_papers():
    shared = {
        "kernel_prob": (0.45, 0.25, 0.12, 0.03, 0.12, 0.03),
        "sinc_prob": 0.1,
        "betag_range": (0.5, 4),
        "betap_range": (1, 2),
        "gaussian_noise_prob": 0.5,
        "gray_noise_prob": 0.4,
    }
    first, second = RealWorld().rounds
    for name, value in shared.items():
        assert getattr(first, name) == getattr(second, name) == value
    assert KERNELS[:2] == ("iso", "aniso") and RealWorld().scale == 4


def test_the_rounds_have_their_own_options():
    first = {
        "kernel_prob": (1, 2, 3, 4, 5, 6),
        "sinc_prob": 0.11,
        "blur_sigma": (0.3, 0.4),
        "betag_range": (0.5, 1.6),
        "betap_range": (0.7, 1.8),
        "resize_prob": (1, 2, 3),
        "resize_range": (0.9, 1.1),
        "gaussian_noise_prob": 0.12,
        "noise_range": (2, 3),
        "poisson_scale_range": (0.1, 0.2),
        "gray_noise_prob": 0.13,
    }
    second = {name: value / 2 if isinstance(value, float) else value[:-1] + (7,) for name, value in first.items()}
    task = RealWorld(second_blur_prob=0.6, **first, **{name + "2": value for name, value in second.items()})
    for one, options, blur_prob in zip(task.rounds, (first, second), (1, 0.6), strict=True):
        assert dataclasses.asdict(one) == options | {"blur_prob": blur_prob, "kernel_range": (7, 21)}


def test_a_users_photo_is_the_condition_and_the_result_is_as_made():
    image = texture()
    np.testing.assert_array_equal(RealWorld().condition_from_image(image), image)
    np.testing.assert_array_equal(RealWorld().finish(image, -image), image)


def test_side_must_be_a_multiple_of_the_scale():
    with pytest.raises(UserError, match="real_world: an image of 66x64.*scale 4"):
        RealWorld().degrade(tf.zeros([66, 64, 3]), tf.constant([1, 2]))


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("scale", 0),
        ("scale", 2.5),
        ("scale", True),
        ("kernel_range", (8, 21)),
        ("kernel_range", (7, 20)),
        ("kernel_range", (7.5, 21)),
        ("kernel_range", 21),
        ("kernel_prob", (1, 0)),
        ("kernel_prob", (0, 0, 0, 0, 0, 0)),
        ("kernel_prob2", (1, 0, 0, 0, 0, -1)),
        ("kernel_prob", "iso"),
        ("sinc_prob", 1.5),
        ("sinc_prob2", None),
        ("blur_sigma", (3, 0.2)),
        ("blur_sigma2", (0, float("inf"))),
        ("betag_range", (0, 1)),
        ("betap_range2", 1.0),
        ("resize_prob", (0.5, 0.5)),
        ("resize_prob2", (0, 0, float("nan"))),
        ("resize_range", (0, 1.5)),
        ("resize_range", (0.2, 0.9)),
        ("resize_range2", (1.1, 1.2)),
        ("gaussian_noise_prob", -0.1),
        ("noise_range", (1, 300)),
        ("poisson_scale_range2", (-1, 1)),
        ("gray_noise_prob2", "0.4"),
        ("jpeg_range", (0, 95)),
        ("jpeg_range2", (30.5, 95)),
        ("second_blur_prob", 2),
        ("final_sinc_prob", True),
    ],
)
def test_wrong_option_is_an_error_that_names_it(option, value):
    with pytest.raises(UserError, match=f"^real_world: {option} must ") as caught:
        RealWorld(**{option: value})
    assert repr(value) in str(caught.value) and "\n" not in str(caught.value)


def test_lists_of_a_configuration_file_are_taken():
    task = RealWorld(kernel_prob=[1, 0, 0, 0, 0, 0], jpeg_range=[50, 60], resize_prob2=[0, 1, 0])
    assert task == RealWorld(kernel_prob=(1, 0, 0, 0, 0, 0), jpeg_range=(50, 60), resize_prob2=(0, 1, 0))
    assert hash(task) is not None
