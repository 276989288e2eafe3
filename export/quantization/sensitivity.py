"""Which kernels stay float: each is rounded alone, and those that cost the image most are left out."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from codi_tf.core.errors import UserError
from codi_tf.core.progress import Progress

MARGIN = 1.0  # dB: the gate uses other images, too
Error = Callable[[frozenset[str]], float]  # the squared error of images, a mean over pixels, with kernels rounded


def decibels(error: float) -> float:
    """The PSNR of images in [0, 1] with this mean squared error."""
    return -10.0 * math.log10(max(error, 1e-20))


def most(count: int, enough: Callable[[int], bool]) -> int:
    """The largest number from 0 to `count` that is enough, where all smaller ones are, too; 0 is taken to be."""
    low, high = 0, count
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if enough(middle) else (low, middle - 1)
    return low


def floats(kernels: Sequence[str], error: Error, psnr: float) -> frozenset[str]:
    """The kernels that stay float so that images keep a PSNR in dB; none if it is kept without.

    The errors of kernels that are rounded alone give the order. The number of rounded kernels is then found with images
    for which they are rounded together.

    Raises:
        UserError: a single rounded kernel misses the PSNR.
    """
    enough = psnr + MARGIN
    if decibels(error(frozenset(kernels))) >= enough:
        return frozenset()
    progress, alone = Progress("kernels rounded, one at a time", len(kernels)), {}
    for i, kernel in enumerate(kernels):
        alone[kernel] = error(frozenset([kernel]))
        progress.update(i + 1)
    ordered = sorted(kernels, key=alone.__getitem__)
    count = most(len(ordered), lambda n: decibels(error(frozenset(ordered[:n]))) >= enough)
    if not count:
        raise UserError(
            f"calibration: with any one kernel rounded, images miss {psnr:g} dB; export with other --weights"
        )
    return frozenset(ordered[count:])
