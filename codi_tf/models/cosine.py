"""The discrete cosine transform of blocks of pixels: what the linear part of an autoencoder starts as."""

from __future__ import annotations

import numpy as np

# Rows: brightness and two differences of colors, orthonormal.
_COLORS = np.array([[1, 1, 1], [1, 0, -1], [1, -2, 1]]) / np.sqrt([[3], [2], [6]])
_COLORFULNESS = 0.1  # variance of the color differences, as a share of that of brightness


def cosine_transform(side: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The `count` cosines of blocks of side x side RGB pixels in which natural images vary most, and their inverse.

    The power of natural images is taken to fall with the square of the frequency (Field, "Relations between the
    statistics of natural images and the response properties of cortical cells", 1987). Coefficients are divided by the
    square root of their expected deviation: the lowest frequencies remain the largest, but none vanishes in the noise
    of a diffusion process.

    Args:
        side: f, of a block.
        count: of coefficients, at most 3 f f.

    Returns:
        analysis float32 [3 f f, count], synthesis float32 [count, 3 f f]; blocks are in the order of
        `ops.space_to_depth`: row, column, color. synthesis @ analysis is the identity; blocks @ analysis @ synthesis is
        the best approximation of blocks from these coefficients.
    """
    k = np.arange(side)
    cosines = np.sqrt(np.where(k == 0, 1, 2) / side)[:, None] * np.cos(np.pi * (2 * k + 1) * k[:, None] / (2 * side))
    basis = np.einsum("uy,vx,kc->uvkyxc", cosines, cosines, _COLORS).reshape(3 * side**2, 3 * side**2)
    variance = 1 / (1 + k[:, None] ** 2 + k**2)[..., None] * np.array([1, _COLORFULNESS, _COLORFULNESS])
    chosen = np.argsort(-variance.ravel(), kind="stable")[:count]
    scale = variance.ravel()[chosen] ** 0.25
    analysis = (basis[chosen] / (side * scale[:, None])).T
    return analysis.astype(np.float32), (basis[chosen] * (side * scale[:, None])).astype(np.float32)
