"""Degradations of images: blur, resizing, noise and JPEG, as pure TensorFlow functions for tf.data.

Images are float32 [H, W, 3] in [0, 1]. H and W may be unknown while a graph is built, and strengths may be tensors, so
that every example of a dataset can have its own. Random draws are functions of a seed, int32 [2]. The kinds of blur and
noise are those of Real-ESRGAN (Wang et al. 2021, "Real-ESRGAN: training real-world blind super-resolution with pure
synthetic data", section 3), whose ranges `real_world.RealWorld` holds.
"""

from __future__ import annotations

import functools
import math

import numpy as np

from codi_tf.core.lazy import tensorflow as tf
from codi_tf.core.seeds import random_words
from codi_tf.core.tensors import Tensor

RESIZES = ("area", "bilinear", "bicubic")
PHOTONS = 256  # that a white pixel counts in Poisson noise
QUANTILES = 2**12  # the accuracy of Poisson noise
PRODUCT_ERROR = 1e-5  # a kernel that is a product up to this error is filtered as one
BLOCK = 64  # rows that a product kernel filters at a time
FAST_LENGTHS = tuple(n for n in range(4, 2**16 + 1, 4) if 60**16 % n == 0)  # of prime factors 2, 3, 5

# --- kernels: float32 [size, size] of sum 1, size odd


def gaussian_kernel(size: Tensor, sigma: Tensor, angle: Tensor = 0.0, *, beta: Tensor = 1.0) -> Tensor:
    """k(d) proportional to exp(-(d^T Sigma^-1 d)^beta / 2), Sigma = R(angle) diag(sigma^2) R(angle)^T.

    beta = 1 is the Gaussian, larger ones are flatter and end more sharply (generalized Gaussian, Liu et al. 2020).

    Args:
        size: int32 [], odd.
        sigma: float32 [2], in pixels, along and across the direction `angle`; 0 leaves images as they are.
        angle: float32 [], in radians, from the right (along a row) clockwise to down (along a column).
        beta: float32 [], the shape, above 0.

    Returns:
        float32 [size, size] of sum 1.
    """
    return _of_sum_1(tf.exp(-0.5 * _squared_distance(size, sigma, angle) ** beta))


def plateau_kernel(size: Tensor, sigma: Tensor, angle: Tensor = 0.0, *, beta: Tensor = 1.0) -> Tensor:
    """k(d) proportional to 1 / (1 + (d^T Sigma^-1 d)^beta); arguments and result as in `gaussian_kernel`."""
    return _of_sum_1(1 / (1 + _squared_distance(size, sigma, angle) ** beta))


def sinc_kernel(size: Tensor, cutoff: Tensor) -> Tensor:
    """k(d) proportional to cutoff J_1(cutoff |d|) / (2 pi |d|): a truncated ideal low-pass filter; it rings.

    Args:
        size: int32 [], odd.
        cutoff: float32 [], angular frequency in radians per pixel, in (0, pi].

    Returns:
        float32 [size, size] of sum 1.
    """
    y, x = _offsets(size)
    distance = tf.sqrt(x * x + y * y)
    away = tf.maximum(distance, 1.0)
    kernel = cutoff * tf.math.special.bessel_j1(cutoff * away) / (2 * math.pi * away)
    return _of_sum_1(tf.where(distance > 0, kernel, cutoff * cutoff / (4 * math.pi)))  # J_1(r) ~ r / 2


def _squared_distance(size: Tensor, sigma: Tensor, angle: Tensor) -> Tensor:
    """d^T Sigma^-1 d, float32 [size, size]."""
    y, x = _offsets(size)
    along, across = tf.unstack(tf.maximum(tf.cast(sigma, tf.float32), 1e-6))
    cosine, sine = tf.cos(angle), tf.sin(angle)
    return ((x * cosine + y * sine) / along) ** 2 + ((y * cosine - x * sine) / across) ** 2


def _offsets(size: Tensor) -> tuple[Tensor, Tensor]:
    """(y [size, 1], x [size]) from the kernel's middle."""
    offset = tf.range(size) - size // 2
    offset = tf.cast(offset, tf.float32)
    return offset[:, tf.newaxis], offset


def _of_sum_1(kernel: Tensor) -> Tensor:
    return kernel / tf.reduce_sum(kernel)


# --- filtering and resizing


def filtered(image: Tensor, kernel: Tensor) -> Tensor:
    """(k * image)(p) = sum_d k(d) image(p - d), edges mirrored, repeatedly if the kernel is larger than the image.

    A kernel that is a product k(y, x) = a(y) b(x), as isotropic Gaussians are, filters columns and then rows; others
    use a Fourier transform. For 21 x 21 the first takes a twelfth of a direct convolution's time, the second a sixth.

    Args:
        image: float32 [H, W, C].
        kernel: float32 [size, size], size odd.

    Returns:
        float32 [H, W, C].
    """
    down, across = tf.reduce_sum(kernel, axis=1), tf.reduce_sum(kernel, axis=0)  # a and b, if the kernel's sum is 1
    error = tf.reduce_sum(
        tf.abs(kernel - down[:, tf.newaxis] * across)
    )  # no pixel of an image in [0, 1] is off by more
    result = tf.cond(
        error < PRODUCT_ERROR,
        functools.partial(_filtered_by_product, image, down, across),
        functools.partial(_filtered_by_transform, image, kernel),
    )
    return tf.ensure_shape(result, image.shape)


def _filtered_by_product(image: Tensor, down: Tensor, across: Tensor) -> Tensor:
    """The image [H, W, C], its columns filtered by `down` and its rows by `across`, both [size]."""
    height, width, channels = tf.unstack(tf.shape(image))
    rows = _rows_mixed(tf.reshape(image, [height, width * channels]), down)
    columns = tf.reshape(tf.transpose(rows), [width, channels * height])
    columns = _rows_mixed(columns, across)
    rows = tf.transpose(tf.reshape(columns, [width * channels, height]))
    return tf.reshape(rows, [height, width, channels])


def _rows_mixed(rows: Tensor, weights: Tensor) -> Tensor:
    """sum_d w(d) row(i - d) for all i, float32 [N, M] as the rows: blocks of them times one banded matrix."""
    count, size = tf.shape(rows)[0], tf.shape(weights)[0]
    blocks, reach = -(-count // BLOCK), BLOCK + size - 1
    place = BLOCK * tf.range(blocks)[:, tf.newaxis] + tf.range(reach)  # [blocks, reach]: which rows a block mixes
    parts = tf.gather(rows, tf.gather(_mirrored(count, size // 2, BLOCK * blocks + size - 1), place))
    d = tf.range(BLOCK)[:, tf.newaxis] - tf.range(reach) + size  # [BLOCK, reach]: 1 .. size within the band
    band = tf.gather(tf.pad(weights, [[1, 1]]), tf.clip_by_value(d, 0, size + 1))
    return tf.reshape(tf.matmul(band, parts), [BLOCK * blocks, tf.shape(rows)[1]])[:count]


def _filtered_by_transform(image: Tensor, kernel: Tensor) -> Tensor:
    """The image [H, W, C] filtered: a product of Fourier transforms."""
    height, width = tf.unstack(tf.shape(image)[:2])
    size = tf.shape(kernel)[0]
    margin, high, wide = size // 2, _fast_length(height + size - 1), _fast_length(width + size - 1)
    columns = _mirrored(width, margin, wide)
    left, right = (tf.gather(image, place, axis=1) for place in (columns[:margin], columns[margin + width :]))
    padded = tf.concat([left, image, right], axis=1)  # faster than gathering all columns
    padded = tf.gather(padded, _mirrored(height, margin, high))  # [high, wide, C]
    spectrum = tf.signal.rfft2d(tf.transpose(padded, [2, 0, 1])) * tf.signal.rfft2d(kernel, [high, wide])
    planes = tf.signal.irfft2d(spectrum, [high, wide])[:, size - 1 : size - 1 + height, size - 1 : size - 1 + width]
    return tf.transpose(planes, [1, 2, 0])


def _mirrored(side: Tensor, margin: Tensor, length: Tensor) -> Tensor:
    """Int32 [length]: the pixel that stands at -margin, -margin + 1, ...: b a | a b c | c b a | a."""
    place = tf.range(-margin, length - margin) % (2 * side)
    return tf.minimum(place, 2 * side - 1 - place)


def _fast_length(length: Tensor) -> Tensor:
    """The smallest of `FAST_LENGTHS` from `length` on: those are transformed fast."""
    return tf.gather(FAST_LENGTHS, tf.searchsorted(FAST_LENGTHS, length[tf.newaxis]))[0]


def resized(image: Tensor, height: Tensor, width: Tensor, mode: Tensor) -> Tensor:
    """The image at another size, by one of `RESIZES`.

    Only "area" averages over all pixels when an image shrinks; the others take samples and turn fine texture into
    coarse texture (aliasing), as fast cameras and programs do.

    Args:
        image: float32 [H, W, C].
        height, width: int32 [], at least 1.
        mode: int32 [], the place in `RESIZES`.

    Returns:
        float32 [height, width, C]; "bicubic" may leave [0, 1].
    """
    size = tf.stack([height, width])
    return tf.switch_case(mode, [functools.partial(tf.image.resize, image, size, method) for method in RESIZES])


# --- noise


def gaussian_noise(image: Tensor, sigma: Tensor, seed: Tensor, *, gray: Tensor = False) -> Tensor:
    """sigma / 255 eps, eps ~ N(0, I).

    eps is drawn by Box and Muller's method, with 2^16 radii: its distribution function is exact to 1e-6, its variance
    to 1e-5, and it stays within 4.9.

    Args:
        image: float32 [H, W, 3]; only its shape is used.
        sigma: float32 [], in levels of 8 bits.
        seed: int32 [2].
        gray: bool [], one eps for the three channels of a pixel.

    Returns:
        float32 [H, W, 3], or [H, W, 1] if gray: to be added to the image.
    """
    height, width = tf.unstack(tf.shape(image)[:2])
    shape = [height, width, tf.where(gray, 1, 3)]
    count = tf.reduce_prod(shape)
    bits = _random_bits((count + 1) // 2, seed)
    u = (tf.cast(bits & 0xFFFF, tf.float32) + 0.5) / 2**16  # of the lower half of the bits
    radius = tf.sqrt(-2 * (sigma / 255) ** 2 * tf.math.log(u))
    angle = 2 * math.pi / 2**32 * tf.cast(bits, tf.float32)  # of the upper half; the lower half refines it
    return tf.reshape(tf.concat([radius * tf.cos(angle), radius * tf.sin(angle)], axis=0)[:count], shape)


def poisson_noise(image: Tensor, scale: Tensor, seed: Tensor, *, gray: Tensor = False) -> Tensor:
    """scale (n / 256 - x), n ~ Poisson(256 x): variance scale^2 x / 256, brighter pixels are noisier.

    n is looked up in a table of 4096 quantiles for each of the 256 levels: the variance is exact to 0.3 %, and n stays
    within 3.7 standard deviations. An exact draw would take most of a degradation's time.

    Args:
        image: float32 [H, W, 3]; x is the image, or its brightness if gray, clipped and rounded to 8 bits.
        scale: float32 [].
        seed: int32 [2].
        gray: bool [], one draw for the three channels of a pixel.

    Returns:
        float32 [H, W, 3], or [H, W, 1] if gray: to be added to the image.
    """
    x = tf.cond(gray, functools.partial(tf.image.rgb_to_grayscale, image), functools.partial(tf.identity, image))
    level = tf.round(255 * tf.clip_by_value(x, 0.0, 1.0))
    count = tf.size(level)
    bits = _random_bits((count + 1) // 2, seed)
    quantile = tf.concat([bits & (QUANTILES - 1), tf.bitwise.right_shift(bits, 16) & (QUANTILES - 1)], axis=0)[:count]
    place = tf.cast(level, tf.int32) * QUANTILES + tf.reshape(quantile, tf.shape(level))
    beyond = tf.gather_nd(_poisson_quantiles(), tf.expand_dims(place, axis=-1))  # n - l; faster than tf.gather
    return scale / PHOTONS * (tf.cast(beyond, tf.float32) - level / 255)  # n / 256 - l / 255 = (n - l - l / 255) / 256


def _random_bits(words: Tensor, seed: Tensor) -> Tensor:
    """Int32 [words], all values equally likely. Drawing them is slow, so each serves for two draws of noise."""
    return random_words([words], seed)


@functools.cache
def _poisson_quantiles() -> np.ndarray:
    """n - l, int8 [256 l's, 4096 q's], flat: the distribution of rate 256 l / 255 reaches (q + 1/2) / 4096 at n."""
    rate = PHOTONS * np.arange(256)[:, np.newaxis] / 255
    n = np.arange(2 * PHOTONS)
    log_factorial = np.cumsum(np.log(np.maximum(n, 1)))
    distribution = np.cumsum(np.exp(n * np.log(np.maximum(rate, 1e-30)) - rate - log_factorial), axis=1)
    reached = (np.arange(QUANTILES) + 0.5) / QUANTILES
    photons = np.stack([np.searchsorted(row, reached) for row in distribution])
    return (photons - np.arange(256)[:, np.newaxis]).astype(np.int8).ravel()


# --- JPEG


def jpeg(image: Tensor, quality: Tensor) -> Tensor:
    """Float32 [H, W, 3] in [0, 1], clipped and rounded to 8 bits, through JPEG of the quality (int32 []) and back."""
    pixels = tf.cast(tf.round(255 * tf.clip_by_value(image, 0.0, 1.0)), tf.uint8)
    # TensorFlow's default transform is the fast one, off by up to 5 levels even on smooth images at quality 100.
    decoded = tf.image.adjust_jpeg_quality(pixels, quality, dct_method="INTEGER_ACCURATE")
    return tf.ensure_shape(tf.cast(decoded, tf.float32) / 255, image.shape)
