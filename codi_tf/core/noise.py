"""The noise that sampling starts from. A seed gives the same numbers in Keras, in exported models and in ports.

docs/noise.md is the specification, with test vectors for ports.
"""

from __future__ import annotations

import math

import numpy as np

from codi_tf.core.errors import UserError

MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
INCREMENTS = (0x9E3779B9, 0xBB67AE85)  # of the key, from round to round
ROUNDS = 10
LOW = np.uint64(0xFFFFFFFF)


def gaussian_noise(seed: int, shape: tuple[int, ...], *, stream: int = 0) -> np.ndarray:
    """Standard normal numbers, float32 of the given shape. A larger shape starts with the numbers of a smaller one.

    Stream 0 is the noise that sampling starts from; stochastic samplers add further streams in their steps.

    Raises:
        UserError: the seed is no whole number from 0 to 2**63 - 1.
    """
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or not 0 <= seed < 2**63:
        raise UserError(f"seed is {seed!r}: it must be a whole number from 0 to 2**63 - 1")
    count = math.prod(shape)
    block = np.arange(-(-count // 4), dtype=np.uint64)  # [N], four numbers each
    zeros = np.zeros_like(block)
    counter = (block & LOW, block >> np.uint64(32), zeros + np.uint64(stream), zeros)
    a, b, c, d = ((word + 0.5) / 2**32 for word in philox(counter, (int(seed) % 2**32, int(seed) >> 32)))
    numbers = np.stack([*_box_muller(a, b), *_box_muller(c, d)], axis=-1).astype(np.float32)  # [N, 4]
    return numbers.ravel()[:count].reshape(shape)


def philox(counter: tuple[np.ndarray, ...], key: tuple[int, int]) -> tuple[np.ndarray, ...]:
    """Philox4x32-10 (Salmon et al. 2011, Random123): four words of a counter -> four random words.

    Args:
        counter: four uint64 [N], each below 2**32.
        key: two words.

    Returns:
        four uint64 [N], each below 2**32.
    """
    a, b, c, d = counter
    for i in range(ROUNDS):
        k = [np.uint64((word + i * step) % 2**32) for word, step in zip(key, INCREMENTS, strict=True)]
        left, right = a * MULTIPLIERS[0], c * MULTIPLIERS[1]
        a, b, c, d = (right >> np.uint64(32)) ^ b ^ k[0], right & LOW, (left >> np.uint64(32)) ^ d ^ k[1], left & LOW
    return a, b, c, d


def _box_muller(u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two uniform numbers of (0, 1) -> two independent normal ones."""
    radius, angle = np.sqrt(-2.0 * np.log(u)), 2.0 * math.pi * v
    return radius * np.cos(angle), radius * np.sin(angle)
