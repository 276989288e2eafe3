"""The formulas of the metrics: distances of images and of sets of images, and bootstrap intervals.

NumPy only, in float64. Images are float [N, H, W, 3] in [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from codi_tf.core.errors import UserError

LUMA = (0.299, 0.587, 0.114)  # Rec. 601
SSIM_RADIUS, SSIM_SIGMA = 5, 1.5  # a window of 11 x 11
K_1, K_2 = 0.01, 0.03


def psnr(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """10 log10(1 / mean (a - b)^2): the peak signal-to-noise ratio in dB, float64 [N]; infinite where a equals b.

    Raises:
        ValueError: the shapes differ.
    """
    a, b = _pair(a, b)
    with np.errstate(divide="ignore"):
        return -10.0 * np.log10(np.mean(np.square(a - b), axis=(1, 2, 3)))


def ssim(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(2 m_a m_b + C_1)(2 s_ab + C_2) / ((m_a^2 + m_b^2 + C_1)(s_a^2 + s_b^2 + C_2)) (Wang et al. 2004, Eq. 13).

    The moments are taken under an 11 x 11 Gaussian window (sigma 1.5, weights of sum 1); C_k = K_k^2 with K_1 = 0.01,
    K_2 = 0.03. The mean is over all windows that lie inside the image, then over R, G and B.

    Returns:
        float64 [N], at most 1.

    Raises:
        ValueError: the shapes differ.
        UserError: a side is below 11.
    """
    a, b = _pair(a, b)
    height, width = a.shape[1:3]
    if min(height, width) < 2 * SSIM_RADIUS + 1:
        raise UserError(f"images of {height}x{width}: SSIM needs sides of {2 * SSIM_RADIUS + 1} pixels or more")
    return np.array([_ssim(x, y) for x, y in zip(a, b, strict=True)])


def sharpness(images: np.ndarray) -> np.ndarray:
    """mean (d_x y)^2 + mean (d_y y)^2: the gradient energy of the luma y, by finite differences, float64 [N].

    Meaningful as the ratio of a set's mean to that of the originals: below 1 is soft, above 1 over-sharpened or noisy.

    Raises:
        ValueError: no batch of images, or a side is below 2.
    """
    images = np.asarray(images, np.float64)
    if images.ndim != 4 or images.shape[-1] != 3 or min(images.shape[1:3]) < 2:
        raise ValueError(f"images must be [N, H, W, 3] with sides of at least 2, not {images.shape}")
    luma = images @ np.array(LUMA)  # [N, H, W]
    down, across = (np.mean(np.square(np.diff(luma, axis=axis)), axis=(1, 2)) for axis in (1, 2))
    return down + across


def frechet_distance(features_a: np.ndarray, features_b: np.ndarray) -> float:
    """|m_a - m_b|^2 + Tr(S_a + S_b - 2 (S_a S_b)^(1/2)) (Heusel et al. 2017, Eq. 6).

    m and S are the mean and the covariance (divided by N - 1) of a set. With few samples the distance of two sets from
    one distribution is well above 0: compare distances of equally large sets only, of several samples per dimension.

    Args:
        features_a: float [N, D], N at least 2.
        features_b: float [M, D], M at least 2.

    Raises:
        ValueError: other shapes, or features that are not finite.
    """
    a, b = np.asarray(features_a, np.float64), np.asarray(features_b, np.float64)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        raise ValueError(f"features must be [N, D] and [M, D] with N and M at least 2, not {a.shape} and {b.shape}")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("features must be finite, these hold NaN or infinity")
    shift = np.sum(np.square(a.mean(axis=0) - b.mean(axis=0)))
    f_a, f_b = _covariance_factor(a), _covariance_factor(b)
    # S_a S_b = F_a^T F_a F_b^T F_b has the eigenvalues of (F_a F_b^T)^T F_a F_b^T: their roots are the singular values
    # of F_a F_b^T, found without taking roots of rounding errors, and quickly where samples are few.
    trace_of_root = np.linalg.norm(f_a @ f_b.T, "nuc")
    return float(max(shift + np.sum(np.square(f_a)) + np.sum(np.square(f_b)) - 2.0 * trace_of_root, 0.0))


def frechet_interval(
    features_a: np.ndarray, features_b: np.ndarray, *, replicates: int = 100, level: float = 0.9, seed: int = 0
) -> tuple[float, float]:
    """A bootstrap interval of the Frechet distance of two sets, see `distance_interval`."""
    return distance_interval(frechet_distance, features_a, features_b, replicates=replicates, level=level, seed=seed)


def distance_interval(
    distance: Callable[[np.ndarray, np.ndarray], float],
    features_a: np.ndarray,
    features_b: np.ndarray,
    *,
    replicates: int = 100,
    level: float = 0.9,
    seed: int = 0,
) -> tuple[float, float]:
    """A bootstrap interval of the distance of two sets whose rows belong to the same N images.

    Each replicate draws N images with replacement, the same ones of both sets; equal seeds draw equal images, so
    that the intervals of several samplers can be compared. Repeated images shift the replicates upwards: only their
    spread around their median is used, put around the distance itself.

    Args:
        distance: of two sets, at least 0.
        features_a, features_b: float [N, D].
        replicates: resampled sets.
        level: share of the replicates inside.
        seed: of the draws.

    Returns:
        (low, high), low at least 0.

    Raises:
        ValueError: the shapes differ, or as for the distance.
    """
    a, b = _pair(features_a, features_b)
    whole = distance(a, b)
    random = np.random.Generator(np.random.Philox(key=seed))
    drawn = [random.integers(0, len(a), len(a)) for _ in range(replicates)]
    distances = [distance(a[rows], b[rows]) for rows in drawn]
    low, middle, high = np.quantile(distances, [(1.0 - level) / 2.0, 0.5, (1.0 + level) / 2.0])
    return float(max(whole + low - middle, 0.0)), float(whole + high - middle)


def mean_interval(
    values: np.ndarray, *, replicates: int = 1000, level: float = 0.9, seed: int = 0
) -> tuple[float, float]:
    """A bootstrap interval of a mean: the quantiles of the means of N values drawn with replacement (Efron 1979).

    Equal seeds draw the same images for equal N: give the differences of two samplers' values, image by image,
    to know whether one is better.

    Args:
        values: float [N], one for each image.
        replicates: resampled sets.
        level: share of the replicates inside.
        seed: of the draws.

    Returns:
        (low, high).

    Raises:
        ValueError: another shape, fewer than 2 values, or values that are not finite.
    """
    values = np.asarray(values, np.float64)
    if values.ndim != 1 or len(values) < 2 or not np.isfinite(values).all():
        raise ValueError(f"an interval needs finite values [N], N at least 2; these are {values.shape}")
    random = np.random.Generator(np.random.Philox(key=seed))
    drawn = random.integers(0, len(values), (replicates, len(values)))
    low, high = np.quantile(values[drawn].mean(axis=1), [(1.0 - level) / 2.0, (1.0 + level) / 2.0])
    return float(low), float(high)


def _pair(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.shape != b.shape:
        raise ValueError(f"the two sets differ in shape: {a.shape} and {b.shape}")
    return a, b


def _ssim(a: np.ndarray, b: np.ndarray) -> float:
    mean_a, mean_b = _windowed(a), _windowed(b)  # [H - 10, W - 10, 3]
    variance_a = _windowed(a * a) - mean_a * mean_a
    variance_b = _windowed(b * b) - mean_b * mean_b
    covariance = _windowed(a * b) - mean_a * mean_b
    c_1, c_2 = K_1**2, K_2**2
    numerator = (2.0 * mean_a * mean_b + c_1) * (2.0 * covariance + c_2)
    return float(np.mean(numerator / ((mean_a**2 + mean_b**2 + c_1) * (variance_a + variance_b + c_2))))


def _windowed(image: np.ndarray) -> np.ndarray:
    """Gaussian-weighted means over all windows inside: [H, W, 3] -> [H - 10, W - 10, 3]; separable."""
    distance = np.arange(-SSIM_RADIUS, SSIM_RADIUS + 1)
    weights = np.exp(-0.5 * (distance / SSIM_SIGMA) ** 2)
    weights /= weights.sum()
    for axis in (0, 1):
        image = np.lib.stride_tricks.sliding_window_view(image, weights.size, axis=axis) @ weights
    return image


def _covariance_factor(features: np.ndarray) -> np.ndarray:
    """F [min(N, D), D] of which F^T F is the covariance of features [N, D] (divided by N - 1)."""
    centered = (features - features.mean(axis=0)) / np.sqrt(len(features) - 1)
    return centered if len(centered) <= centered.shape[1] else np.asarray(np.linalg.qr(centered, mode="r"))
