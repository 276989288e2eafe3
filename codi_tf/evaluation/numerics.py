"""The formulas of the metrics: distances of images and of sets of images, and bootstrap intervals.

NumPy only, in float64. Images are float [N, H, W, 3] in [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from codi_tf.core.errors import UserError
from codi_tf.io.color import LUMA

SSIM_RADIUS, SSIM_SIGMA = 5, 1.5  # a window of 11 x 11
K_1, K_2 = 0.01, 0.03
ROWS = 1024  # of a matrix of distances, at a time
TINY = 1e-12  # in place of a divisor of 0
ROUNDING = 1e-12  # of squared distances, relative to squared lengths


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
    """A bootstrap interval of the Frechet distance of two sets, see `set_interval`."""
    return set_interval(frechet_distance, features_a, features_b, replicates=replicates, level=level, seed=seed)


def set_interval(
    figure: Callable[..., float],
    *sets: np.ndarray,
    replicates: int = 100,
    level: float = 0.9,
    seed: int = 0,
) -> tuple[float, float]:
    """A bootstrap interval of a figure of one or more sets whose rows belong to the same N images.

    Each replicate draws N images with replacement, the same ones of all sets; equal seeds draw equal images, so
    that the intervals of several samplers can be compared. Repeated images shift the replicates: only their spread
    around their median is used, put around the figure itself.

    Args:
        figure: of the sets, at least 0.
        sets: float [N, D] each.
        replicates: resampled sets.
        level: share of the replicates inside.
        seed: of the draws.

    Returns:
        (low, high), low at least 0.

    Raises:
        ValueError: the shapes differ, or as for the figure.
    """
    sets = tuple(np.asarray(one, np.float64) for one in sets)
    if len({one.shape for one in sets}) > 1:
        raise ValueError(f"the sets differ in shape: {' and '.join(str(one.shape) for one in sets)}")
    whole, count = figure(*sets), len(sets[0])
    random = np.random.Generator(np.random.Philox(key=seed))
    drawn = [random.integers(0, count, count) for _ in range(replicates)]
    figures = [figure(*(one[rows] for one in sets)) for rows in drawn]
    low, middle, high = np.quantile(figures, [(1.0 - level) / 2.0, 0.5, (1.0 + level) / 2.0])
    return float(max(whole + low - middle, 0.0)), float(whole + high - middle)


def inception_score(logits: np.ndarray) -> float:
    """exp(E_x KL(p(y | x) || p(y))), p(y) the mean of p(y | x) over the images (Salimans et al. 2016, section 4).

    From 1, where the classifier answers the same for all images, to the number of classes. Few images lower it: compare
    equal counts only.

    Args:
        logits: of the classes, float [N, C].

    Raises:
        ValueError: another shape, or logits that are not finite.
    """
    logits = np.asarray(logits, np.float64)
    if logits.ndim != 2 or 0 in logits.shape or not np.isfinite(logits).all():
        raise ValueError(f"logits must be finite, [N, C], N at least 1; these are {logits.shape}")
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))  # log p(y | x), [N, C]
    p = np.exp(log_p)
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = p * (log_p - np.log(p.mean(axis=0)))
    return float(np.exp(np.where(p > 0, terms, 0.0).sum(axis=1).mean()))


def inside(points: np.ndarray, manifold: np.ndarray, neighbors: int = 3) -> np.ndarray:
    """max_m [|p - m| <= r(m)]: whether each point lies in the manifold of a set (Kynkaanniemi et al. 2019, Eq. 1).

    r(m) is the distance of m to its k-th nearest neighbor in the set. The mean over generated images in the originals'
    manifold is improved precision, that over originals in the generated images' manifold improved recall (Eq. 2).

    Args:
        points: features, float [N, D].
        manifold: features, float [M, D], M at least 2.
        neighbors: k; at most M - 1 of them are there.

    Returns:
        float64 [N], 1 inside and 0 outside.

    Raises:
        ValueError: other shapes, or features that are not finite.
    """
    a, b = np.asarray(points, np.float64), np.asarray(manifold, np.float64)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or len(b) < 2:
        raise ValueError(f"features must be [N, D] and [M, D] with M at least 2, not {a.shape} and {b.shape}")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("features must be finite, these hold NaN or infinity")
    k = min(neighbors, len(b) - 1)
    radii = np.concatenate([np.partition(d, k, axis=1)[:, k] for d in _squared_distances(b, b)])  # 0 is itself
    slack = ROUNDING * np.max(np.square(b).sum(axis=1))  # equal points may seem a little apart
    return np.concatenate([(d <= radii + slack).any(axis=1) for d in _squared_distances(a, b)]).astype(np.float64)


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a . b / (|a| |b|) of the rows of [N, D], float64 [N]; 0 where one of them is 0.

    Raises:
        ValueError: the shapes differ.
    """
    a, b = _pair(a, b)
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return (a * b).sum(axis=1) / np.maximum(lengths, TINY)


def aligned_error(read: np.ndarray, true: np.ndarray) -> np.ndarray:
    """min over a, b of the root mean square of a * read + b - true, in units of the range of `true`: float64 [N].

    Of depth maps, whose scale and shift are unknown (Ranftl et al. 2020, section 5).

    Args:
        read: [N, h, w].
        true: [N, H, W], multiples of h and w; averaged to that size.
    """
    count, height, width = read.shape
    blocks = np.reshape(true, (count, height, true.shape[1] // height, width, true.shape[2] // width))
    y = np.reshape(blocks.mean(axis=(2, 4), dtype=np.float64), (count, -1))
    x = np.reshape(read, (count, -1)).astype(np.float64)
    x, centered = (one - one.mean(axis=1, keepdims=True) for one in (x, y))
    scale = (x * centered).sum(axis=1, keepdims=True) / np.maximum((x * x).sum(axis=1, keepdims=True), TINY)
    error = np.sqrt(np.mean(np.square(scale * x - centered), axis=1))
    return error / np.maximum(np.ptp(y, axis=1), TINY)


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


def _squared_distances(a: np.ndarray, b: np.ndarray) -> Iterator[np.ndarray]:
    """|a_i - b_j|^2 of [N, D] and [M, D]: [ROWS, M] at a time."""
    squares = np.square(b).sum(axis=1)
    for start in range(0, len(a), ROWS):
        rows = a[start : start + ROWS]
        yield np.square(rows).sum(axis=1, keepdims=True) + squares - 2.0 * (rows @ b.T)


def _covariance_factor(features: np.ndarray) -> np.ndarray:
    """F [min(N, D), D] of which F^T F is the covariance of features [N, D] (divided by N - 1)."""
    centered = (features - features.mean(axis=0)) / np.sqrt(len(features) - 1)
    return centered if len(centered) <= centered.shape[1] else np.asarray(np.linalg.qr(centered, mode="r"))
