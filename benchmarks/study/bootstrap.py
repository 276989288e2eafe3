"""A bootstrap over seeds and pictures: how sure a figure is, and how sure the difference of two (NumPy only).

A training is repeated with K seeds, and every result makes the same N pictures. Both are drawn with replacement. The
draws are the same for whatever is compared, so that what two samples have in common, as hard pictures, cancels. Hence
the replicates of a sample are all that a comparison needs of it, wherever and whenever it was measured.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from codi_tf import metrics

REPLICATES, LEVEL = 200, 0.9
OF_PICTURES, OF_SEEDS = 0, 1  # keys of the two draws


@dataclass(frozen=True)
class Spread:
    """A measure of one sample.

    Attributes:
        seeds: of its K trainings.
        figures: the measure on all pictures, float64 [K].
        replicates: the measure on each of R sets of drawn pictures, float64 [R, K].
    """

    seeds: tuple[int, ...]
    figures: np.ndarray
    replicates: np.ndarray

    def __sub__(self, other: Spread) -> Spread:
        """The difference, seed by seed and replicate by replicate, of the seeds that both have."""
        shared = tuple(seed for seed in self.seeds if seed in other.seeds)
        (a, b), (a_drawn, b_drawn) = zip(self._of(shared), other._of(shared), strict=True)
        return Spread(shared, a - b, a_drawn - b_drawn)

    def mean(self) -> float:
        """Over the seeds, on all pictures."""
        return float(self.figures.mean())

    def interval(self, *, level: float = LEVEL) -> tuple[float, float]:
        """The quantiles of the mean over drawn seeds on drawn pictures.

        As in `metrics.frechet_interval`, only the spread around the median is used, put around the mean itself:
        repeated pictures raise Frechet distances. In a difference most of that cancels, but not all.
        """
        rows = drawn(len(self.seeds), len(self.replicates), key=OF_SEEDS)  # [R, K]
        means = np.take_along_axis(self.replicates, rows, axis=1).mean(axis=1)  # [R]
        low, middle, high = np.quantile(means, [(1.0 - level) / 2.0, 0.5, (1.0 + level) / 2.0])
        return self.mean() + float(low - middle), self.mean() + float(high - middle)

    def _of(self, seeds: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        places = [self.seeds.index(seed) for seed in seeds]
        return self.figures[places], self.replicates[:, places]


@functools.cache
def drawn(count: int, replicates: int, *, key: int) -> np.ndarray:
    """Places 0 .. count - 1 drawn with replacement, int64 [replicates, count]; the same ones in every call."""
    return np.random.Generator(np.random.Philox(key=key)).integers(0, count, (replicates, count))


def replicates(values: np.ndarray, statistic: Callable, *, count: int = REPLICATES) -> np.ndarray:
    """`statistic`, a function of (values of pictures [N, ...], their places [N]), of `count` sets of drawn pictures.

    Returns:
        float64 [count].
    """
    rows = drawn(len(values), count, key=OF_PICTURES)
    return np.array([statistic(values[places], places) for places in rows], np.float64)


def mean(values: np.ndarray, places: np.ndarray) -> float:
    """The mean of the pictures' values."""
    return float(np.mean(values, dtype=np.float64))


def ratio_to(originals: np.ndarray) -> Callable:
    """The mean over that of the originals of the same places, [N]."""

    def statistic(values: np.ndarray, places: np.ndarray) -> float:
        return mean(values, places) / mean(originals[places], places)

    return statistic


def frechet_to(reference: np.ndarray) -> Callable:
    """The Frechet distance to the features of the same places, [N, D]."""

    def statistic(features: np.ndarray, places: np.ndarray) -> float:
        return metrics.frechet_distance(features, reference[places])

    return statistic
