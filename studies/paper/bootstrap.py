"""Intervals of figures and of their differences: over seeds by Student's t, over images by a bootstrap.

A training is repeated with K seeds, and every result is measured on the same N images. Images are drawn with
replacement, the same ones for both sides of a comparison, so that shared effects, as of hard images, cancel. So a
comparison needs only the replicates of both samples, wherever they were measured. Seeds are not drawn: with three
seeds, a 90 % percentile interval would cover the mean in only 62 of 100 cases, if only the seeds varied.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import special

from codi_tf.evaluation import numerics

REPLICATES, LEVEL = 200, 0.9


@dataclass(frozen=True)
class Spread:
    """A measure of one sample, with its variation over seeds and images.

    Attributes:
        seeds: the seeds of its K trainings.
        figures: the measure on all images, float64 [K].
        replicates: the measure on each of R sets of drawn images, float64 [R, K].
    """

    seeds: tuple[int, ...]
    figures: np.ndarray
    replicates: np.ndarray

    def __sub__(self, other: Spread) -> Spread:
        """The difference, seed by seed and replicate by replicate, for the seeds that both have."""
        shared = tuple(seed for seed in self.seeds if seed in other.seeds)
        (a, b), (a_drawn, b_drawn) = zip(self._of(shared), other._of(shared), strict=True)
        return Spread(shared, a - b, a_drawn - b_drawn)

    def mean(self) -> float:
        """The mean over the seeds, on all images."""
        return float(self.figures.mean())

    def interval(self, *, level: float = LEVEL) -> tuple[float, float]:
        """mean +- t sqrt(s^2 / K + v): s^2 is the seeds' variance, v that of the mean over drawn images.

        t is the quantile of Student's distribution with Welch and Satterthwaite's degrees of freedom: K - 1 for the
        seeds, infinitely many for the images. With one seed: the quantiles over drawn images, as in
        `numerics.frechet_interval`, shifted from their median to the mean, because repeated images raise Frechet
        distances.
        """
        count, drawn_means = len(self.seeds), self.replicates.mean(axis=1)  # [R]
        if count == 1:
            low, middle, high = np.quantile(drawn_means, [(1.0 - level) / 2.0, 0.5, (1.0 + level) / 2.0])
            return self.mean() + float(low - middle), self.mean() + float(high - middle)
        of_seeds, of_images = self.figures.var(ddof=1) / count, drawn_means.var(ddof=1)
        total = of_seeds + of_images
        freedom = (count - 1) * (total / of_seeds) ** 2 if of_seeds > 0 else np.inf
        half = float(special.stdtrit(freedom, (1.0 + level) / 2.0) * np.sqrt(total))
        return self.mean() - half, self.mean() + half

    def _of(self, seeds: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        places = [self.seeds.index(seed) for seed in seeds]
        return self.figures[places], self.replicates[:, places]


@functools.cache
def drawn(count: int, replicates: int) -> np.ndarray:
    """Places 0 .. count - 1 drawn with replacement, int64 [replicates, count]; the same ones in every call."""
    return np.random.Generator(np.random.Philox(key=0)).integers(0, count, (replicates, count))


def replicates(values: np.ndarray, statistic: Callable, *, count: int = REPLICATES) -> np.ndarray:
    """A statistic, a function of (values of images [N, ...], their places [N]), of `count` sets of drawn images.

    Returns:
        float64 [count].
    """
    rows = drawn(len(values), count)
    return np.array([statistic(values[places], places) for places in rows], np.float64)


def mean(values: np.ndarray, places: np.ndarray) -> float:
    """The mean of the images' values."""
    return float(np.mean(values, dtype=np.float64))


def ratio_to(originals: np.ndarray) -> Callable:
    """The mean over that of the originals of the same places, [N]."""

    def statistic(values: np.ndarray, places: np.ndarray) -> float:
        return mean(values, places) / mean(originals[places], places)

    return statistic


def frechet_to(reference: np.ndarray) -> Callable:
    """The Frechet distance to the features of the same places, [N, D]."""

    def statistic(features: np.ndarray, places: np.ndarray) -> float:
        return numerics.frechet_distance(features, reference[places])

    return statistic
