"""The super-resolution degradation: a function of (image, seed), each stage against an oracle, strengths in range."""

from __future__ import annotations

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from scipy import ndimage

from codi_tf.core.errors import UserError
from codi_tf.tasks import TASKS, make_task
from codi_tf.tasks.super_resolution import SuperResolution, gaussian_blur, jpeg

CLEAN = {"blur_sigma": (0, 0), "noise_std": (0, 0), "jpeg_quality": (100, 100)}
LUMA = np.float32([0.299, 0.587, 0.114])  # JPEG halves the resolution of color: measure brightness


def texture(size=64, seed=0):
    """An image with power at every frequency, float32 [S, S, 3] in [-1, 1]."""
    noise = np.random.default_rng(seed).uniform(-1, 1, (size, size, 3))
    return (0.6 * noise + 0.4 * ndimage.gaussian_filter(noise, (4, 4, 0)) * 10).clip(-1, 1).astype(np.float32)


def degrade_many(task, image, count):
    """Conditions [count, S, S, 3] of one image under seeds (5, 0), (5, 1), ..."""
    degrade = tf.function(lambda seed: task.degrade(tf.constant(image), seed))
    return np.stack([degrade(tf.constant([5, i], tf.int32)) for i in range(count)])


def test_shape_dtype_range():
    image = np.where(texture() > 0, 1, -1).astype(np.float32)  # extreme values: everything overshoots
    condition = SuperResolution().degrade(tf.constant(image), tf.constant([1, 2]))
    assert condition.shape == (64, 64, 3) and condition.dtype == tf.float32
    assert -1 <= condition.numpy().min() < condition.numpy().max() <= 1


def test_rectangular_image():
    assert SuperResolution().degrade(tf.zeros([32, 64, 3]), tf.constant([1, 2])).shape == (32, 64, 3)


def test_same_seed_same_condition_other_seed_other_condition():
    task, image = SuperResolution(), tf.constant(texture())
    first, again, other = (task.degrade(image, tf.constant(seed)) for seed in ([1, 2], [1, 2], [1, 3]))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.02


def test_independent_of_the_global_generator():
    task, image = SuperResolution(), tf.constant(texture())
    conditions = []
    for seed in (1, 2):
        tf.random.set_seed(seed)
        conditions.append(task.degrade(image, tf.constant([3, 4])))
    np.testing.assert_array_equal(*conditions)


def test_without_degradation_only_jpeg_rounding_remains():
    smooth = ndimage.gaussian_filter(texture(), (5, 5, 0))
    condition = SuperResolution(scale=1, **CLEAN).degrade(tf.constant(smooth), tf.constant([1, 2]))
    np.testing.assert_allclose(condition, smooth, atol=4 / 127.5)


# --- blur


@pytest.mark.parametrize("sigma", [0.2, 0.7, 1.2, 3.0])
def test_blur_is_a_gaussian(sigma):
    image = texture(24)
    expected = ndimage.gaussian_filter(image, (sigma, sigma, 0), radius=(6, 6, 0), mode="reflect")
    np.testing.assert_allclose(gaussian_blur(tf.constant(image), sigma, radius=6), expected, atol=1e-5)


def test_no_blur_at_sigma_zero():
    image = texture(16)
    np.testing.assert_array_equal(gaussian_blur(tf.constant(image), 0.0, radius=0), image)
    np.testing.assert_allclose(gaussian_blur(tf.constant(image), 0.0, radius=4), image, atol=1e-6)


def test_more_blur_less_detail():
    def energy(sigma):
        task = SuperResolution(scale=1, **{**CLEAN, "blur_sigma": (sigma, sigma)})
        condition = task.degrade(tf.constant(texture()), tf.constant([1, 2])).numpy() @ LUMA
        return np.square(np.diff(condition, axis=0)).mean()

    energies = [energy(sigma) for sigma in (0, 0.4, 0.6, 0.8, 1.2, 2.0)]
    assert all(more > 1.1 * less for more, less in zip(energies, energies[1:], strict=False))


def test_blur_sigma_is_drawn_uniformly_in_its_range():
    impulse = np.full((17, 17, 3), -1, np.float32)
    impulse[8, 8] = 1
    low, high = 0.4, 1.2
    grid = np.linspace(0.3, 1.3, 101)
    distance = np.arange(-4, 5)
    peak = [np.square(1 / np.exp(-0.5 * (distance / sigma) ** 2).sum()) for sigma in grid]  # falls with sigma
    conditions = degrade_many(SuperResolution(scale=1, **{**CLEAN, "blur_sigma": (low, high)}), impulse, 200)
    sigma = np.interp(-(conditions[:, 8, 8] @ LUMA + 1) / 2, -np.array(peak), grid)
    assert low - 0.03 < sigma.min() < low + 0.04 and high - 0.04 < sigma.max() < high + 0.03
    assert abs(sigma.mean() - (low + high) / 2) < 4 * (high - low) / np.sqrt(12 * 200)


# --- scale


@pytest.mark.parametrize("scale", [2, 4, 8])
def test_scale_removes_what_the_low_resolution_cannot_carry(scale):
    def contrast(period):
        wave = 0.8 * np.sin(2 * np.pi * (np.arange(64) + 0.5) / period)
        image = np.tile(wave[None, :, None], (64, 1, 3)).astype(np.float32)
        condition = SuperResolution(scale=scale, **CLEAN).degrade(tf.constant(image), tf.constant([1, 2])).numpy()
        return condition[:, 16:-16].std() / image[:, 16:-16].std()

    assert contrast(1.25 * scale) < 0.1  # a period below the low resolution's limit, 2 scale: gone, not folded back
    assert contrast(8 * scale) > 0.9


def test_scale_keeps_brightness_and_place():
    ramp = np.tile(np.linspace(-0.9, 0.9, 64)[:, None, None], (1, 64, 3)).astype(np.float32)
    condition = SuperResolution(**CLEAN).degrade(tf.constant(ramp), tf.constant([1, 2])).numpy()
    np.testing.assert_allclose(condition[8:-8], ramp[8:-8], atol=3 / 127.5)  # no shift by part of a pixel


# --- noise


def measured_noise(task, count, size=64):
    conditions = degrade_many(task, np.zeros((size, size, 3), np.float32), count)
    return (conditions @ LUMA).std(axis=(1, 2)) / 2 / np.linalg.norm(LUMA)  # in [0, 1] units


@pytest.mark.parametrize("std", [0.01, 0.04, 0.1])
def test_noise_has_the_given_strength(std):
    task = SuperResolution(scale=1, **{**CLEAN, "noise_std": (std, std)})
    assert measured_noise(task, 1, size=256)[0] == pytest.approx(std, rel=0.03, abs=0.0007)  # 8-bit rounding


def test_noise_strength_is_drawn_uniformly_in_its_range():
    std = measured_noise(SuperResolution(scale=1, **{**CLEAN, "noise_std": (0.01, 0.05)}), 200)
    assert 0.0095 < std.min() < 0.012 and 0.048 < std.max() < 0.0525
    assert abs(std.mean() - 0.03) < 4 * 0.04 / np.sqrt(12 * 200)


def test_noise_is_independent_of_the_strengths():
    """Strengths and noise come from different streams: the sign of the noise says nothing about its strength."""
    task = SuperResolution(scale=1, **{**CLEAN, "noise_std": (0.01, 0.05)})
    conditions = degrade_many(task, np.zeros((8, 8, 3), np.float32), 500)
    strength = conditions.std(axis=(1, 2, 3))
    correlation = [np.corrcoef(strength, conditions[:, 0, 0, channel])[0, 1] for channel in range(3)]
    assert np.abs(correlation).max() < 4 / np.sqrt(500)


# --- jpeg


def test_jpeg_quality_is_drawn_from_its_range_both_ends_included():
    image = texture(32)
    task = SuperResolution(scale=1, **{**CLEAN, "jpeg_quality": (60, 63)})
    conditions = degrade_many(task, image, 120)
    qualities = list(range(56, 68))
    candidates = np.stack([2 * jpeg(tf.constant((image + 1) / 2), q) - 1 for q in qualities])
    distance = np.abs(conditions[:, None] - candidates[None]).max(axis=(2, 3, 4))  # [120, 12]
    assert distance.min(axis=1).max() < 1e-5  # each is exactly one of them
    drawn = [qualities[i] for i in distance.argmin(axis=1)]
    assert set(drawn) == {60, 61, 62, 63}
    assert min(drawn.count(q) for q in (60, 61, 62, 63)) >= 15  # expected 30


@pytest.mark.parametrize("quality", [30, 60, 95, 100])
def test_jpeg_is_as_accurate_as_another_coder(quality):
    pixels = np.rint(ndimage.gaussian_filter(texture() * 0.5 + 0.5, (3, 3, 0)) * 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "jpeg", quality=quality)
    ours = 255 * jpeg(tf.constant(pixels / np.float32(255)), quality)
    assert np.abs(ours - np.asarray(Image.open(file), np.float32)).max() < 1.01


def test_jpeg_error_falls_with_quality():
    image = tf.constant((texture() + 1) / 2)
    errors = [np.square(jpeg(image, q) - image).mean() for q in (10, 40, 70, 95)]
    assert all(more > 1.1 * less for more, less in zip(errors, errors[1:], strict=False))


def test_jpeg_rounds_to_the_nearest_of_256_levels():
    gray = np.tile(np.linspace(0, 1, 9, dtype=np.float32)[:, None, None, None], (1, 16, 16, 3))
    for image in gray:  # flat images: the coder itself loses nothing
        expected = np.rint(255 * image) / 255
        np.testing.assert_allclose(jpeg(tf.constant(image), 100), expected, atol=1e-6)


# --- the rest of the task


def test_a_users_photo_is_the_condition():
    image = texture()
    np.testing.assert_array_equal(SuperResolution().condition_from_image(image), image)


def test_the_whole_image_is_made_anew():
    image = texture()
    np.testing.assert_array_equal(SuperResolution().finish(image, -image), image)
    assert SuperResolution.condition_channels == 3


def test_side_must_be_a_multiple_of_the_scale():
    with pytest.raises(UserError, match="66x64.*scale 4"):
        SuperResolution().degrade(tf.zeros([66, 64, 3]), tf.constant([1, 2]))


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("scale", 0),
        ("scale", 2.5),
        ("scale", True),
        ("scale", "4"),
        ("blur_sigma", (-0.1, 1)),
        ("blur_sigma", (1, 0.5)),
        ("blur_sigma", 1.0),
        ("blur_sigma", (1, float("inf"))),
        ("blur_sigma", (0.1, 0.2, 0.3)),
        ("noise_std", (0, 1.5)),
        ("noise_std", (float("nan"), 0.1)),
        ("noise_std", ("0", "1")),
        ("jpeg_quality", (0, 50)),
        ("jpeg_quality", (50, 101)),
        ("jpeg_quality", (50.5, 60)),
        ("jpeg_quality", None),
    ],
)
def test_wrong_option_is_an_error_that_names_it(option, value):
    with pytest.raises(UserError, match=f"super_resolution: {option} must be") as caught:
        SuperResolution(**{option: value})
    assert repr(value) in str(caught.value)


def test_lists_of_a_configuration_file_are_taken():
    task = SuperResolution(blur_sigma=[0, 1], noise_std=[0, 0.1], jpeg_quality=[50, 60])
    assert task == SuperResolution(blur_sigma=(0, 1), noise_std=(0, 0.1), jpeg_quality=(50, 60))
    assert hash(task) is not None


def test_make_task():
    assert make_task("super_resolution", scale=2) == SuperResolution(scale=2)
    assert set(TASKS) == {"super_resolution", "real_world", "bicubic", "inpainting", "depth", "editing", "pairs"}


def test_make_task_lists_what_is_valid():
    with pytest.raises(
        UserError,
        match="unknown task 'sharpen': known are bicubic, depth, editing, inpainting, pairs, real_world, ",
    ):
        make_task("sharpen")
    with pytest.raises(UserError, match="'factor'; valid options: scale, blur_sigma, noise_std, jpeg_quality"):
        make_task("super_resolution", factor=4)
