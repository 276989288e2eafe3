"""Degradations: kernels against closed forms, filters and resizes against other programs, noise by its moments."""

from __future__ import annotations

import io
import itertools
import math

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from scipy import ndimage, special, stats

from codi_tf.tasks import super_resolution
from codi_tf.tasks.degradations import (
    FAST_LENGTHS,
    QUANTILES,
    RESIZES,
    _poisson_quantiles,
    filtered,
    gaussian_kernel,
    gaussian_noise,
    jpeg,
    plateau_kernel,
    poisson_noise,
    resized,
    sinc_kernel,
)

KERNELS = {
    "gaussian": lambda size: gaussian_kernel(size, (1.5, 0.8), 0.7),
    "generalised": lambda size: gaussian_kernel(size, (2.0, 0.8), 2.0, beta=0.6),
    "plateau": lambda size: plateau_kernel(size, (2.0, 1.0), -0.4, beta=1.7),
    "sinc": lambda size: sinc_kernel(size, 1.9),
}


def new_image(height=24, width=31, seed=0):
    """Float32 [H, W, 3] in [0, 1] with power at every frequency."""
    return np.random.default_rng(seed).uniform(0, 1, (height, width, 3)).astype(np.float32)


def offsets(size):
    """(y, x) of every pixel from the middle."""
    return np.mgrid[:size, :size] - size // 2


def quadratic(size, sigma, angle):
    """d^T Sigma^-1 d with the matrix written out."""
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])  # of (x, y)
    inverse = np.linalg.inv(turn @ np.diag(np.square(sigma)) @ turn.T)
    xy = offsets(size)[::-1]
    return np.einsum("iyx,ij,jyx->yx", xy, inverse, xy)


def bessel_j1(x):
    """J_1(x) = mean over tau in [0, pi] of cos(tau - x sin tau): the trapezoid rule is exact to rounding."""
    tau = (np.arange(200) + 0.5) * math.pi / 200
    return np.cos(tau - np.asarray(x)[..., None] * np.sin(tau)).mean(axis=-1)


def moments(kernel):
    """The covariance of (x, y) under the kernel."""
    xy = offsets(len(kernel))[::-1]
    return np.einsum("iyx,jyx,yx->ij", xy, xy, kernel)


# --- kernels


@pytest.mark.parametrize("size", [1, 3, 7, 21])
@pytest.mark.parametrize("kind", KERNELS)
def test_kernels_have_energy_1_and_the_same_backwards(kind, size):
    kernel = KERNELS[kind](size).numpy()
    assert kernel.shape == (size, size) and kernel.dtype == np.float32
    assert kernel.sum(dtype=np.float64) == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(kernel, kernel[::-1, ::-1], atol=1e-7)
    in_graph = tf.function(KERNELS[kind])(tf.constant(size))
    np.testing.assert_allclose(in_graph, kernel, atol=1e-7)


@pytest.mark.parametrize("beta", [0.5, 1.0, 2.3, 4.0])
@pytest.mark.parametrize(("sigma", "angle"), [((1.3, 1.3), 0.0), ((3.0, 0.7), 0.5), ((0.6, 2.0), -2.2)])
def test_kernels_are_their_closed_forms(sigma, angle, beta):
    squared = quadratic(15, sigma, angle)
    for kernel, expected in (
        (gaussian_kernel, np.exp(-0.5 * squared**beta)),
        (plateau_kernel, 1 / (1 + squared**beta)),
    ):
        ours = kernel(15, sigma, angle, beta=beta)
        np.testing.assert_allclose(ours, expected / expected.sum(), rtol=1e-3, atol=1e-6)


def test_an_isotropic_gaussian_is_symmetric_and_as_wide_as_sigma():
    kernel = gaussian_kernel(21, (1.7, 1.7), 0.3).numpy()
    for same in (kernel.T, kernel[::-1], kernel[:, ::-1]):
        np.testing.assert_allclose(kernel, same, atol=1e-7)
    np.testing.assert_allclose(moments(kernel), 1.7**2 * np.eye(2), atol=1e-3)


def test_an_anisotropic_gaussian_points_where_it_should():
    """Sigma along the direction, from right to down: (cos, sin) in (x, y)."""
    angle, (along, across) = 0.6, (2.5, 1.0)
    axis, other = np.array([math.cos(angle), math.sin(angle)]), np.array([-math.sin(angle), math.cos(angle)])
    expected = along**2 * np.outer(axis, axis) + across**2 * np.outer(other, other)
    np.testing.assert_allclose(moments(gaussian_kernel(31, (along, across), angle).numpy()), expected, atol=5e-3)


def test_larger_shapes_are_flatter_and_end_more_sharply():
    for kernel in (gaussian_kernel, plateau_kernel):
        rows = np.stack([kernel(21, (4.0, 4.0), beta=beta)[10] for beta in (0.6, 1.0, 2.0, 4.0)])
        assert (np.diff(rows[:, 12] / rows[:, 10]) > 0).all()  # within sigma
        assert (np.diff(rows[:, 18] / rows[:, 10]) < 0).all()  # beyond


def test_no_width_no_blur():
    delta = np.zeros((7, 7))
    delta[3, 3] = 1
    for kernel in (gaussian_kernel, plateau_kernel):
        for beta in (0.5, 1.0, 4.0):
            np.testing.assert_allclose(kernel(7, (0.0, 0.0), 1.0, beta=beta), delta, atol=1e-4)


@pytest.mark.parametrize("cutoff", [math.pi / 5, 1.0, math.pi / 2, math.pi])
def test_the_sinc_kernel_is_its_closed_form(cutoff):
    distance = np.hypot(*offsets(21))
    distance[10, 10] = 1e-6
    expected = cutoff * bessel_j1(cutoff * distance) / (2 * math.pi * distance)
    np.testing.assert_allclose(sinc_kernel(21, cutoff), expected / expected.sum(), atol=2e-6)


def test_the_sinc_kernel_passes_what_is_below_its_cutoff():
    """Its Fourier transform is a disc of radius cutoff, up to what the edge of the kernel costs."""
    cutoff = 1.5
    spectrum = np.fft.fft2(np.pad(sinc_kernel(41, cutoff).numpy(), ((0, 87), (0, 87))))
    frequency = 2 * math.pi * np.fft.fftfreq(128)
    radius = np.hypot(frequency[:, None], frequency)
    assert np.abs(np.abs(spectrum[radius < 0.85 * cutoff]) - 1).max() < 0.15
    assert np.abs(spectrum[radius > 1.15 * cutoff]).max() < 0.15


# --- filtering


@pytest.mark.parametrize("size", [1, 3, 9, 21])
@pytest.mark.parametrize("shape", [(24, 31), (40, 12)])
def test_filtered_is_a_convolution_with_mirrored_edges(shape, size):
    image, kernel = new_image(*shape), np.random.default_rng(1).normal(size=(size, size)).astype(np.float32)
    expected = ndimage.convolve(image.astype(np.float64), kernel[..., None], mode="reflect")
    ours = filtered(tf.constant(image), tf.constant(kernel))
    assert ours.shape == image.shape and ours.dtype == tf.float32
    np.testing.assert_allclose(ours, expected, atol=1e-4)


@pytest.mark.parametrize("size", [1, 3, 9, 21])
@pytest.mark.parametrize("shape", [(24, 31), (64, 20), (65, 130), (150, 40)])
def test_products_filter_columns_and_rows(shape, size):
    """Not the same backwards nor in the two directions; images of less than a block, of whole blocks and of more."""
    random = np.random.default_rng(2)
    down, across = (weights / weights.sum() for weights in random.uniform(0.1, 1, (2, size)))
    image, kernel = new_image(*shape), np.outer(down, across).astype(np.float32)
    expected = ndimage.convolve(image.astype(np.float64), kernel[..., None], mode="reflect")
    np.testing.assert_allclose(filtered(tf.constant(image), tf.constant(kernel)), expected, atol=1e-5)


@pytest.mark.parametrize("away", [0, 3e-6, 3e-5, 1e-3, 0.1])
def test_what_is_no_product_is_not_filtered_as_one(away):
    kernel = gaussian_kernel(7, (1.5, 1.5)).numpy()
    kernel[1, 1] += away
    image = np.zeros((9, 9, 1), np.float32)
    image[4, 4] = 1
    np.testing.assert_allclose(filtered(tf.constant(image), tf.constant(kernel))[1:8, 1:8, 0], kernel, atol=1.5e-5)


def test_fast_lengths():
    """They are close to one another, so that little is added; no transform is longer than needed by half."""
    lengths = np.array(FAST_LENGTHS)
    assert lengths[0] == 4 and lengths[-1] == 2**16 and (np.diff(lengths) > 0).all()
    assert (lengths[1:] / lengths[:-1])[2:].max() < 1.34
    for factor in (2, 3, 5):
        while (lengths % factor == 0).any():
            lengths = np.where(lengths % factor == 0, lengths // factor, lengths)
    assert (lengths == 1).all()


@pytest.mark.parametrize("sigma", [(4.0, 2.0), (3.0, 3.0)])
@pytest.mark.parametrize("shape", [(1, 1), (2, 5), (4, 3)])
def test_images_smaller_than_the_kernel(shape, sigma):
    image, kernel = new_image(*shape), gaussian_kernel(21, sigma, 0.5)
    padded = np.pad(image, ((10, 10), (10, 10), (0, 0)), "symmetric")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (21, 21), axis=(0, 1))
    expected = np.einsum("hwcyx,yx->hwc", windows, kernel.numpy()[::-1, ::-1])
    np.testing.assert_allclose(filtered(tf.constant(image), kernel), expected, atol=1e-5)


def test_filtered_in_a_graph_of_unknown_sizes():
    graph = tf.function(
        filtered, input_signature=(tf.TensorSpec((None, None, 3)), tf.TensorSpec((None, None), tf.float32))
    )
    for shape, size, sigma in itertools.product(((9, 14), (33, 20)), (5, 21), ((2.0, 1.0), (2.0, 2.0))):
        image, kernel = tf.constant(new_image(*shape)), gaussian_kernel(size, sigma, 0.4)
        np.testing.assert_allclose(graph(image, kernel), filtered(image, kernel), atol=1e-6)


# --- resizing


def keys(distance):
    """The cubic of Keys (1981), a = -1/2."""
    d = np.abs(distance)
    return np.where(d < 1, 1.5 * d**3 - 2.5 * d**2 + 1, np.where(d < 2, -0.5 * d**3 + 2.5 * d**2 - 4 * d + 2, 0))


def sampled(image, height, width, kernel):
    """Samples of the interpolated image at the middles of the new pixels: no averaging when it shrinks."""
    for axis, side in ((0, height), (1, width)):
        old = image.shape[axis]
        middle = (np.arange(side) + 0.5) * old / side - 0.5
        weights = kernel(middle[:, None] - np.arange(old))
        image = np.moveaxis(np.tensordot(weights / weights.sum(axis=1, keepdims=True), image, (1, axis)), 0, axis)
    return image


def overlaps(image, height, width):
    """Means over the areas of the new pixels."""
    for axis, side in ((0, height), (1, width)):
        old = image.shape[axis]
        edges = np.arange(side + 1) * old / side
        low, high = np.maximum(edges[:-1, None], np.arange(old)), np.minimum(edges[1:, None], np.arange(old) + 1)
        weights = np.maximum(high - low, 0) * side / old
        image = np.moveaxis(np.tensordot(weights, image, (1, axis)), 0, axis)
    return image


PEERS = {
    "area": overlaps,
    "bilinear": lambda image, h, w: sampled(image, h, w, lambda d: np.maximum(1 - np.abs(d), 0)),
    "bicubic": lambda image, h, w: sampled(image, h, w, keys),
}


@pytest.mark.parametrize("size", [(24, 31), (6, 11), (30, 47), (1, 2), (23, 40)])
@pytest.mark.parametrize("method", RESIZES)
def test_resized_is_what_the_method_says(method, size):
    image = new_image()
    ours = resized(tf.constant(image), *size, tf.constant(RESIZES.index(method))).numpy()
    assert ours.shape == (*size, 3) and ours.dtype == np.float32
    np.testing.assert_allclose(ours, PEERS[method](image.astype(np.float64), *size), atol=3e-3)


def test_resized_in_a_graph_of_unknown_sizes():
    signature = [tf.TensorSpec((None, None, 3)), *3 * [tf.TensorSpec((), tf.int32)]]
    graph = tf.function(resized, input_signature=signature)
    for mode in range(3):
        image = tf.constant(new_image(9, 14))
        np.testing.assert_array_equal(graph(image, 5, 20, mode), resized(image, 5, 20, tf.constant(mode)))


# --- noise


def gray_image(value, side=256):
    return tf.fill([side, side, 3], np.float32(value))


@pytest.mark.parametrize("sigma", [1.0, 12.0, 30.0])
def test_gaussian_noise_has_its_variance(sigma):
    noise = gaussian_noise(gray_image(0.3), sigma, (1, 2)).numpy()
    assert noise.shape == (256, 256, 3) and noise.dtype == np.float32
    eps = noise * 255 / sigma
    assert stats.kstest(eps.ravel(), "norm").pvalue > 1e-4
    correlation = np.corrcoef(eps.reshape(-1, 3).T) - np.eye(3)
    assert np.abs(correlation).max() < 4 / 256
    assert abs((eps[1:] * eps[:-1]).mean()) < 4 / math.sqrt(eps.size)


def test_gaussian_noise_is_gaussian_far_out():
    eps = 255 * np.stack([gaussian_noise(gray_image(0, 512), 1.0, (1, i)) for i in range(4)]).ravel()  # 3.1 million
    for power, moment in ((1, 0), (2, 1), (3, 0), (4, 3), (6, 15)):
        variance = special.factorial2(2 * power - 1) - moment**2
        assert (eps.astype(np.float64) ** power).mean() == pytest.approx(moment, abs=4 * math.sqrt(variance / eps.size))
    for bound in (1.0, 2.0, 3.0, 4.0, 4.5):
        beyond = 2 * stats.norm.sf(bound)
        assert (np.abs(eps) > bound).mean() == pytest.approx(beyond, abs=4 * math.sqrt(beyond / eps.size))
    assert stats.kstest(eps, "norm").pvalue > 1e-4


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (5, 2)])
@pytest.mark.parametrize("noise", [gaussian_noise, poisson_noise])
def test_noise_of_odd_and_even_numbers_of_pixels(noise, shape):
    for gray in (False, True):
        drawn = np.stack([noise(tf.fill([*shape, 3], 0.5), 3.0, (1, i), gray=gray) for i in range(100)])
        assert drawn.shape == (100, *shape, 1 if gray else 3)
        assert (drawn.std(axis=0) > 0).all()  # none is left out


@pytest.mark.parametrize("scale", [0.05, 1.0, 3.0])
@pytest.mark.parametrize("value", [0.02, 0.1, 0.5, 1.0])
def test_the_variance_of_poisson_noise_is_proportional_to_the_signal(value, scale):
    noise = poisson_noise(gray_image(value), scale, (1, 2)).numpy().astype(np.float64)
    assert noise.shape == (256, 256, 3)
    n = noise.size
    rate = 256 * round(255 * value) / 255
    variance = (scale / 256) ** 2 * rate
    assert noise.mean() == pytest.approx(0, abs=4 * math.sqrt(variance / n) + 0.002 * scale / 256)
    assert noise.var() == pytest.approx(variance, rel=4 * math.sqrt((2 + 1 / rate) / n) + 0.003)
    skewness = 1 / math.sqrt(rate)  # that of a Poisson distribution: no Gaussian in disguise
    assert stats.skew(noise.ravel()) == pytest.approx(skewness, abs=0.03)
    assert np.abs(np.corrcoef(noise.reshape(-1, 3).T) - np.eye(3)).max() < 4 / 256


@pytest.mark.parametrize("value", [0.004, 0.03, 0.2, 0.9])
def test_poisson_noise_counts_photons(value):
    level = round(255 * value)
    counts = (poisson_noise(gray_image(value, 64), 1.0, (3, 4)).numpy() + level / 255) * 256
    whole = np.rint(counts)
    np.testing.assert_allclose(counts, whole, atol=1e-3)
    law = stats.poisson(256 * level / 255)
    bounds = law.ppf([0.05, 0.3, 0.5, 0.7, 0.95])
    for bound in bounds:
        p = law.cdf(bound)
        assert (whole <= bound).mean() == pytest.approx(p, abs=4 * math.sqrt(p * (1 - p) / whole.size) + 1e-9)


def test_the_law_of_photons_at_every_level():
    """The table's own distribution, without the chance of drawing: moments, and how far it is from Poisson's."""
    table = _poisson_quantiles().reshape(256, QUANTILES).astype(np.float64) + np.arange(256)[:, np.newaxis]
    rate = 256 * np.arange(256) / 255
    np.testing.assert_allclose(table.mean(axis=1), rate, atol=0.0025)
    np.testing.assert_allclose(table.var(axis=1), rate, rtol=0.003)
    for level in (0, 1, 5, 100, 255):
        law = stats.poisson(rate[level])
        n = np.arange(512)
        found = np.searchsorted(table[level], n, side="right") / QUANTILES
        assert np.abs(found - law.cdf(n)).max() < 0.51 / QUANTILES


def test_black_has_no_poisson_noise_and_what_is_out_of_range_counts_as_its_end():
    image = tf.constant([[[0.0, -0.5, 1.5]]])
    many = tf.tile(image, [64, 64, 1])
    noise = poisson_noise(many, 1.0, (1, 2)).numpy()
    np.testing.assert_array_equal(noise[..., :2], 0)
    assert noise[..., 2].var() == pytest.approx(1 / 256, rel=0.1)


def test_gray_noise_is_one_number_a_pixel():
    image = tf.constant(new_image(200, 200))
    for noise in (gaussian_noise(image, 5.0, (1, 2), gray=True), poisson_noise(image, 1.0, (1, 2), gray=True)):
        assert noise.shape == (200, 200, 1)
    brightness = new_image(200, 200) @ [0.2989, 0.587, 0.114]
    ratio = np.square(noise.numpy()[..., 0]) / (brightness / 256)
    assert ratio.mean() == pytest.approx(1, abs=4 * math.sqrt(2.2 / ratio.size))
    assert np.corrcoef(ratio[brightness > 0.5], brightness[brightness > 0.5])[0, 1] < 0.05


@pytest.mark.parametrize("noise", [gaussian_noise, poisson_noise])
def test_the_halves_of_an_image_are_independent(noise):
    """Both come of the same random numbers, each of a part of their bits."""
    first, second = noise(gray_image(0.5), 1.0, (1, 2)).numpy().astype(np.float64).reshape(2, -1)
    for power in (1, 2):
        assert abs(np.corrcoef(first**power, second**power)[0, 1]) < 4 / math.sqrt(first.size)


@pytest.mark.parametrize("noise", [gaussian_noise, poisson_noise])
def test_noise_is_a_function_of_its_seed(noise):
    image = tf.constant(new_image())
    first, again, other = (noise(image, 2.0, seed).numpy() for seed in ((1, 2), (1, 2), (1, 3)))
    np.testing.assert_array_equal(first, again)
    assert np.abs(np.corrcoef(first.ravel(), other.ravel())[0, 1]) < 4 / math.sqrt(first.size)
    signature = [tf.TensorSpec((None, None, 3)), tf.TensorSpec(()), tf.TensorSpec((2,), tf.int32)]
    graph = tf.function(lambda i, s, seed, gray: noise(i, s, seed, gray=gray), autograph=False)
    graph = graph.get_concrete_function(*signature, tf.TensorSpec((), tf.bool))
    np.testing.assert_allclose(
        graph(image, tf.constant(2.0), tf.constant([1, 2]), tf.constant(False)), first, atol=1e-6
    )


# --- JPEG


@pytest.mark.parametrize("quality", [30, 60, 95])
def test_jpeg_is_as_accurate_as_another_coder(quality):
    pixels = np.rint(ndimage.gaussian_filter(new_image(48, 64), (2, 2, 0)) * 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "jpeg", quality=quality)
    ours = 255 * jpeg(tf.constant(pixels / np.float32(255)), tf.constant(quality)).numpy()
    assert np.abs(ours - np.asarray(Image.open(file), np.float32)).max() < 1.01
    np.testing.assert_allclose(ours, np.rint(ours), atol=1e-4)


def test_jpeg_is_that_of_the_simpler_task():
    image = tf.constant(1.4 * new_image() - 0.2)
    np.testing.assert_array_equal(jpeg(image, 50), super_resolution.jpeg(image, 50))
