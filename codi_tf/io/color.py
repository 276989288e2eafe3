"""Color transfer from a reference to an image, against the color shifts of generated images. NumPy only.

Images are float32 [H, W, 3] in [0, 1], image and reference of the same size. They are processed in bands of rows, which
keeps the additional memory small.
"""

from __future__ import annotations

import numpy as np

from codi_tf.core.errors import UserError
from codi_tf.io.images import bands

LUMA = (0.299, 0.587, 0.114)  # of R, G and B; ITU-R BT.601
LEVELS = 5  # of the wavelet decomposition: distances of 1 to 16 pixels
REACH = 2**LEVELS - 1  # pixels that the coarsest level reaches
EPSILON = 1e-5  # added to variances, so that the rounding of flat images is not amplified


def wavelet(image: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """image + low(reference - image): the details of the image with the local colors of the reference.

    low is the low-pass band after five levels of the stationary ("a trous") wavelet decomposition. Level i filters
    columns and rows with the weights 1/4, 1/2, 1/4 at distances of 2^i pixels, edges replicated. This is the wavelet
    color correction of StableSR (Wang et al. 2024); its two decompositions are one here, because they are linear.

    Returns:
        float32 [H, W, 3], which may exceed [0, 1] a little.

    Raises:
        UserError: image and reference differ in size.
    """
    _check_sizes(image, reference)
    height = len(image)
    result = np.empty(image.shape, np.float32)
    for rows in bands(height):
        first, last = max(rows.start - REACH, 0), min(rows.stop + REACH, height)
        low = _low(reference[first:last] - image[first:last])
        result[rows] = image[rows] + low[rows.start - first : rows.stop - first]
    return result


def adain(image: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """sigma_r (image - mu) / sigma + mu_r, channel by channel: the reference's mean and deviation.

    Adaptive instance normalization (Huang & Belongie 2017, Eq. 8) on colors, as in StableSR (Wang et al. 2024), where
    sigma^2 is the variance over the image + 1e-5.

    Returns:
        float32 [H, W, 3], which may exceed [0, 1].

    Raises:
        UserError: image and reference differ in size.
    """
    _check_sizes(image, reference)
    (mean, deviation), (reference_mean, reference_deviation) = _moments(image), _moments(reference)
    scale = (reference_deviation / deviation).astype(np.float32)
    offset = (reference_mean - mean * reference_deviation / deviation).astype(np.float32)
    result = image * scale
    result += offset
    return result


ALIGNMENTS = {"wavelet": wavelet, "adain": adain}


def _check_sizes(image: np.ndarray, reference: np.ndarray) -> None:
    if np.shape(image) != np.shape(reference):
        raise UserError(f"colors: an image of {np.shape(image)} and a reference of {np.shape(reference)}; resize one")


def _low(values: np.ndarray) -> np.ndarray:
    for level in range(LEVELS):
        for axis in (0, 1):
            values = _smoothed(values, 2**level, axis)
    return values


def _smoothed(values: np.ndarray, distance: int, axis: int) -> np.ndarray:
    """v(i) / 2 + v(i - distance) / 4 + v(i + distance) / 4 along an axis, edges replicated."""
    padding = [(distance, distance) if i == axis else (0, 0) for i in range(values.ndim)]
    padded = np.moveaxis(np.pad(values, padding, mode="edge"), axis, 0)
    smoothed = 0.5 * np.moveaxis(values, axis, 0) + 0.25 * (padded[: -2 * distance] + padded[2 * distance :])
    return np.moveaxis(smoothed, 0, axis)


def _moments(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation over the pixels, float64 [3] each."""
    count = image.shape[0] * image.shape[1]
    mean = sum(image[rows].sum(axis=(0, 1), dtype=np.float64) for rows in bands(len(image))) / count
    squares = sum(np.square(image[rows] - mean).sum(axis=(0, 1)) for rows in bands(len(image)))
    return mean, np.sqrt(squares / count + EPSILON)
