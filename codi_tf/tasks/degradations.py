"""What happens to photos on their way: blur, resizing, noise, JPEG, as pure TensorFlow functions for tf.data.

Images are float32 [H, W, 3] in [0, 1]. H and W may be unknown while a graph is built, and numbers may be tensors, so
that every example of a dataset can have its own. What is random is a function of its seed, int32 [2]. The kinds of blur
and noise are those of Real-ESRGAN (Wang et al. 2021, "Real-ESRGAN: training real-world blind super-resolution with pure
synthetic data", section 3), whose ranges `real_world.RealWorld` holds.
"""

from __future__ import annotations

import functools
import math

import numpy as np
import tensorflow as tf

RESIZES = ("area", "bilinear", "bicubic")
PHOTONS = 256  # what a white pixel counts in Poisson noise
QUANTILES = 4096  # the accuracy of Poisson noise

# --- kernels: float32 [size, size] of sum 1, size odd


def gaussian_kernel(size: tf.Tensor, sigma: tf.Tensor, angle: tf.Tensor = 0.0, *, beta: tf.Tensor = 1.0) -> tf.Tensor:
    """k(d) proportional to exp(-(d^T Sigma^-1 d)^beta / 2), Sigma = R(angle) diag(sigma^2) R(angle)^T.

    beta = 1 is the Gaussian, larger ones are flatter and end more sharply (generalised Gaussian, Liu et al. 2020).

    Args:
        size: int32 [], odd.
        sigma: float32 [2], in pixels, along and across the direction `angle`; 0 leaves pictures as they are.
        angle: float32 [], in radians, from the columns' direction (to the right) towards the rows' (down).
        beta: float32 [], the shape, above 0.
    """
    return _of_sum_1(tf.exp(-0.5 * _squared_distance(size, sigma, angle) ** beta))


def plateau_kernel(size: tf.Tensor, sigma: tf.Tensor, angle: tf.Tensor = 0.0, *, beta: tf.Tensor = 1.0) -> tf.Tensor:
    """k(d) proportional to 1 / (1 + (d^T Sigma^-1 d)^beta); arguments as in `gaussian_kernel`."""
    return _of_sum_1(1 / (1 + _squared_distance(size, sigma, angle) ** beta))


def sinc_kernel(size: tf.Tensor, cutoff: tf.Tensor) -> tf.Tensor:
    """k(d) proportional to cutoff J_1(cutoff |d|) / (2 pi |d|): the ideal low-pass filter, cut off: it makes ringing.

    Args:
        size: int32 [], odd.
        cutoff: float32 [], angular frequency in radians a pixel, in (0, pi].
    """
    y, x = _offsets(size)
    distance = tf.sqrt(x * x + y * y)
    away = tf.maximum(distance, 1.0)
    kernel = cutoff * tf.math.special.bessel_j1(cutoff * away) / (2 * math.pi * away)
    return _of_sum_1(tf.where(distance > 0, kernel, cutoff * cutoff / (4 * math.pi)))  # J_1(r) ~ r / 2


def _squared_distance(size: tf.Tensor, sigma: tf.Tensor, angle: tf.Tensor) -> tf.Tensor:
    """d^T Sigma^-1 d, float32 [size, size]."""
    y, x = _offsets(size)
    along, across = tf.unstack(tf.maximum(tf.cast(sigma, tf.float32), 1e-6))
    cosine, sine = tf.cos(angle), tf.sin(angle)
    return ((x * cosine + y * sine) / along) ** 2 + ((y * cosine - x * sine) / across) ** 2


def _offsets(size: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """(y [size, 1], x [size]) from the kernel's middle."""
    offset = tf.range(size) - size // 2
    offset = tf.cast(offset, tf.float32)
    return offset[:, tf.newaxis], offset


def _of_sum_1(kernel: tf.Tensor) -> tf.Tensor:
    return kernel / tf.reduce_sum(kernel)


# --- filtering and resizing


def filtered(image: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """(k * image)(p) = sum_d k(d) image(p - d), edges mirrored, as often as a kernel larger than the picture needs.

    By Fourier transform: a kernel of 21 x 21 takes a tenth of a direct convolution's time.

    Args:
        image: float32 [H, W, C].
        kernel: float32 [size, size], size odd.
    """
    height, width = tf.unstack(tf.shape(image)[:2])
    size = tf.shape(kernel)[0]
    padded = tf.gather(tf.gather(image, _mirrored(height, size // 2)), _mirrored(width, size // 2), axis=1)
    planes = tf.transpose(padded, [2, 0, 1])  # [C, H + size - 1, W + size - 1]
    lengths = -(-tf.shape(planes)[1:] // 16) * 16  # multiples of a power of 2 are transformed fast
    product = tf.signal.rfft2d(planes, lengths) * tf.signal.rfft2d(kernel, lengths)
    planes = tf.signal.irfft2d(product, lengths)[:, size - 1 : size - 1 + height, size - 1 : size - 1 + width]
    return tf.ensure_shape(tf.transpose(planes, [1, 2, 0]), image.shape)


def _mirrored(side: tf.Tensor, margin: tf.Tensor) -> tf.Tensor:
    """Int32 [side + 2 margin]: the pixel that stands at -margin, ..., side + margin - 1: b a | a b c | c b."""
    place = tf.range(-margin, side + margin) % (2 * side)
    return tf.minimum(place, 2 * side - 1 - place)


def resized(image: tf.Tensor, height: tf.Tensor, width: tf.Tensor, mode: tf.Tensor) -> tf.Tensor:
    """The image at another size, by one of `RESIZES`.

    Only "area" averages over all pixels when a picture shrinks; the others take samples, as cameras and programs that
    hurry do, so that fine texture turns into coarse one.

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


def gaussian_noise(image: tf.Tensor, sigma: tf.Tensor, seed: tf.Tensor, *, grey: tf.Tensor = False) -> tf.Tensor:
    """sigma / 255 eps, eps ~ N(0, I).

    Args:
        image: float32 [H, W, 3]; its shape is all that counts.
        sigma: float32 [], in levels of 8 bits.
        seed: int32 [2].
        grey: bool [], one eps for the three channels of a pixel.

    Returns:
        float32 [H, W, 3], or [H, W, 1] if grey: to be added to the image.
    """
    height, width = tf.unstack(tf.shape(image)[:2])
    return sigma / 255 * tf.random.stateless_normal([height, width, tf.where(grey, 1, 3)], seed)


def poisson_noise(image: tf.Tensor, scale: tf.Tensor, seed: tf.Tensor, *, grey: tf.Tensor = False) -> tf.Tensor:
    """scale (n / 256 - x), n ~ Poisson(256 x): variance scale^2 x / 256, brighter pixels are noisier.

    n is looked up in a table of 4096 quantiles for each of the 256 levels: the variance is exact to 0.3 %, and n stays
    within 3.7 standard deviations. Drawn otherwise, it would take most of a degradation's time.

    Args:
        image: float32 [H, W, 3]; x is the image, or its brightness if grey, clipped and rounded to 8 bits.
        scale: float32 [].
        seed: int32 [2].
        grey: bool [], one draw for the three channels of a pixel.

    Returns:
        float32 [H, W, 3], or [H, W, 1] if grey: to be added to the image.
    """
    x = tf.where(grey, tf.image.rgb_to_grayscale(image), image)[..., : tf.where(grey, 1, 3)]
    level = tf.round(255 * tf.clip_by_value(x, 0.0, 1.0))
    quantile = tf.random.stateless_uniform(tf.shape(level), seed, 0, QUANTILES, tf.int32)
    photons = tf.gather(_poisson_quantiles(), tf.cast(level, tf.int32) * QUANTILES + quantile)
    return scale * (tf.cast(photons, tf.float32) / PHOTONS - level / 255)


@functools.cache
def _poisson_quantiles() -> np.ndarray:
    """The n at which the distribution of rate 256 l / 255 reaches (q + 1/2) / 4096, int16 [256 l's, 4096 q's], flat."""
    rate = PHOTONS * np.arange(256)[:, np.newaxis] / 255
    n = np.arange(2 * PHOTONS)
    log_factorial = np.cumsum(np.log(np.maximum(n, 1)))
    distribution = np.cumsum(np.exp(n * np.log(np.maximum(rate, 1e-30)) - rate - log_factorial), axis=1)
    reached = (np.arange(QUANTILES) + 0.5) / QUANTILES
    return np.concatenate([np.searchsorted(row, reached) for row in distribution]).astype(np.int16)


# --- JPEG


def jpeg(image: tf.Tensor, quality: tf.Tensor) -> tf.Tensor:
    """Float32 [H, W, 3] in [0, 1], clipped and rounded to 8 bits, through JPEG of the quality (int32 []) and back."""
    pixels = tf.cast(tf.round(255 * tf.clip_by_value(image, 0.0, 1.0)), tf.uint8)
    # TensorFlow's default transform is the fast one, off by up to 5 levels even on smooth pictures at quality 100.
    decoded = tf.image.adjust_jpeg_quality(pixels, quality, dct_method="INTEGER_ACCURATE")
    return tf.ensure_shape(tf.cast(decoded, tf.float32) / 255, image.shape)
