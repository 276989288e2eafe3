"""The degradation of `RealWorld` in NumPy and OpenCV, for comparison of speed. The package does not use it.

It works as data sets in Python usually do: one image at a time, random numbers from one generator, OpenCV's filter,
resize and JPEG coder. The steps, their order and their probabilities are those of `tasks.real_world`, from the paper
(Wang et al. 2021, section 3) and the task's options.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from codi_tf.core.errors import UserError

try:
    import cv2
    from scipy import special
except ModuleNotFoundError as error:
    raise UserError(
        f"the comparison needs {error.name}, which is not installed: pip install opencv-python-headless scipy, or "
        "leave it out with --without-opencv"
    ) from error

if TYPE_CHECKING:
    from codi_tf.tasks.real_world import RealWorld, Round

cv2.setNumThreads(1)
RESIZES = (cv2.INTER_AREA, cv2.INTER_LINEAR, cv2.INTER_CUBIC)
PHOTONS = 256


def degrade(image: np.ndarray, task: RealWorld, random: np.random.Generator) -> np.ndarray:
    """`RealWorld.degrade`: float32 [H, W, 3] in [-1, 1] -> the same, with random numbers from `random`."""
    height, width, _ = image.shape
    size = (height // task.scale, width // task.scale)
    first, second = task.rounds
    low = degraded((image + 1) / 2, first, (height, width), random)
    low = jpeg(low, _whole(task.jpeg_range, random))
    low = degraded(low, second, size, random)
    quality = _whole(task.jpeg_range2, random)
    if random.uniform() < 0.5:
        low = jpeg(small(low, size, task, random), quality)
    else:
        low = small(jpeg(low, quality), size, task, random)
    low = np.rint(255 * low.clip(0, 1)) / np.float32(255)
    return (2 * cv2.resize(low, (width, height), interpolation=cv2.INTER_CUBIC) - 1).clip(-1, 1)


def degraded(image: np.ndarray, options: Round, size: tuple[int, int], random: np.random.Generator) -> np.ndarray:
    """`Round.degrade`: blur, resizing to a factor of the size, and noise; float32 [h, w, 3] in [0, 1]."""
    if random.uniform() < options.blur_prob:
        image = filtered(image, kernel(options, random))
    low, high = options.resize_range
    up, down, keep = np.array(options.resize_prob) / sum(options.resize_prob)
    factor = random.choice([random.uniform(1, high), random.uniform(low, 1), 1.0], p=[up, down, keep])
    height, width = (max(1, round(side * factor)) for side in size)
    image = cv2.resize(image, (width, height), interpolation=RESIZES[random.integers(3)])
    return (image + noise(image, options, random)).clip(0, 1)


def filtered(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """The image blurred, edges mirrored; kernels are symmetric under a half turn, so correlation is convolution."""
    return cv2.filter2D(image, -1, kernel, borderType=cv2.BORDER_REFLECT)


def kernel(options: Round, random: np.random.Generator) -> np.ndarray:
    """A kernel of `Round.kernel`, float64 [size, size] of sum 1."""
    size = _odd(options.kernel_range, random)
    if random.uniform() < options.sinc_prob:
        return sinc_kernel(size, random.uniform(math.pi / (3 if size < 13 else 5), math.pi))
    kind = random.choice(6, p=np.array(options.kernel_prob) / sum(options.kernel_prob))
    along = random.uniform(*options.blur_sigma)
    across, angle = (along, 0.0) if kind % 2 == 0 else (random.uniform(*options.blur_sigma), random.uniform(0, math.pi))
    cosine, sine = math.cos(angle), math.sin(angle)
    turn = np.array([[cosine, -sine], [sine, cosine]])
    inverse = np.linalg.inv(turn @ np.diag(np.maximum([along, across], 1e-6) ** 2) @ turn.T)
    offset = np.arange(size) - size // 2
    xy = np.stack(np.meshgrid(offset, offset), axis=-1)
    squared = np.sum(xy @ inverse * xy, axis=-1)
    if kind < 2:
        weights = np.exp(-0.5 * squared)
    elif kind < 4:
        weights = np.exp(-0.5 * squared ** _around_1(options.betag_range, random))
    else:
        weights = 1 / (1 + squared ** _around_1(options.betap_range, random))
    return weights / weights.sum()


def sinc_kernel(size: int, cutoff: float) -> np.ndarray:
    """The ideal low-pass filter, cut off, float64 [size, size] of sum 1."""
    offset = np.arange(size) - size // 2
    distance = np.hypot(*np.meshgrid(offset, offset))
    distance[size // 2, size // 2] = 1
    weights = cutoff * special.j1(cutoff * distance) / (2 * math.pi * distance)
    weights[size // 2, size // 2] = cutoff**2 / (4 * math.pi)
    return weights / weights.sum()


def noise(image: np.ndarray, options: Round, random: np.random.Generator) -> np.ndarray:
    """Gaussian or Poisson noise to be added, float32 [h, w, 1 or 3]."""
    gaussian, gray = random.uniform() < options.gaussian_noise_prob, random.uniform() < options.gray_noise_prob
    height, width, _ = image.shape
    if gaussian:
        eps = random.standard_normal((height, width, 1 if gray else 3), np.float32)
        return eps * np.float32(random.uniform(*options.noise_range) / 255)
    if gray:
        image = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., np.newaxis]
    levels = np.rint(255 * image.clip(0, 1)) / np.float32(255)
    counted = np.float32(random.poisson(PHOTONS * levels) / PHOTONS)
    return np.float32(random.uniform(*options.poisson_scale_range)) * (counted - levels)


def jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    """The image encoded as JPEG and decoded, float32 [h, w, 3] in [0, 1]."""
    pixels = np.rint(255 * image.clip(0, 1)).astype(np.uint8)
    # OpenCV expects blue first. An OpenCV program has that order anyway, so no time is spent on reversing the channels.
    _, file = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.float32(cv2.imdecode(file, cv2.IMREAD_COLOR)) / np.float32(255)


def small(image: np.ndarray, size: tuple[int, int], task: RealWorld, random: np.random.Generator) -> np.ndarray:
    """The last step's resizing and sinc filter."""
    image = cv2.resize(image, size[::-1], interpolation=RESIZES[random.integers(3)])
    if random.uniform() < task.final_sinc_prob:
        image = filtered(image, sinc_kernel(_odd(task.kernel_range, random), random.uniform(math.pi / 3, math.pi)))
    return image


def _whole(bounds: tuple[int, int], random: np.random.Generator) -> int:
    return int(random.integers(bounds[0], bounds[1] + 1))


def _odd(bounds: tuple[int, int], random: np.random.Generator) -> int:
    return bounds[0] + 2 * int(random.integers((bounds[1] - bounds[0]) // 2 + 1))


def _around_1(bounds: tuple[float, float], random: np.random.Generator) -> float:
    low, high = bounds
    middle = min(max(low, 1.0), high)
    return random.uniform(low, middle) if random.uniform() < 0.5 else random.uniform(middle, high)
