"""Intervals of figures and of their differences: Student's t over seeds, a jackknife over images.

A training is repeated with K seeds, and every result is measured on the same N images. These are in G groups, and each
figure is also computed with one group left out, which tells how it varies with the images (the grouped jackknife:
Quenouille 1956, Tukey 1958; Efron and Stein 1981). Both sides of a comparison leave out the same images, so that shared
effects, as of hard images, cancel. So a comparison needs G numbers of each side, wherever they were measured, and no
image stands twice in a Frechet distance, as it does in a bootstrap, which raises it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy import special

GROUPS, LEVEL = 16, 0.9


@dataclass(frozen=True)
class Spread:
    """A measure of one sample, with its variation over seeds and images.

    Attributes:
        seeds: the seeds of its K trainings.
        figures: the measure on all images, float64 [K].
        left_out: the measure without one group of images, float64 [G, K].
    """

    seeds: tuple[int, ...]
    figures: np.ndarray
    left_out: np.ndarray

    def __sub__(self, other: Spread) -> Spread:
        """The difference, seed by seed and group by group, for the seeds that both have."""
        shared = tuple(seed for seed in self.seeds if seed in other.seeds)
        (a, a_left), (b, b_left) = self._of(shared), other._of(shared)
        return Spread(shared, a - b, a_left - b_left)

    def mean(self) -> float:
        """The mean over the seeds, on all images."""
        return float(self.figures.mean())

    def interval(self, *, level: float = LEVEL) -> tuple[float, float]:
        """mean +- t sqrt(s^2 / K + v): s^2 is the seeds' variance, v the jackknife's of the mean over seeds.

        v = (G - 1) / G sum_g (m_g - m)^2, m_g without group g and m their mean. t is the quantile of Student's
        distribution with Welch and Satterthwaite's degrees of freedom, of K - 1 for the seeds and G - 1 for the images.
        One seed shows the images' variation alone.
        """
        count, means = len(self.seeds), self.left_out.mean(axis=1)  # [G]
        groups = len(means)
        of_images = (groups - 1) / groups * np.sum(np.square(means - means.mean()))
        of_seeds = self.figures.var(ddof=1) / count if count > 1 else 0.0
        total = of_images + of_seeds
        if not total:
            return self.mean(), self.mean()
        parts = of_images**2 / (groups - 1) + (of_seeds**2 / (count - 1) if count > 1 else 0.0)
        half = float(special.stdtrit(total**2 / parts, (1.0 + level) / 2.0) * np.sqrt(total))
        return self.mean() - half, self.mean() + half

    def _of(self, seeds: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        places = [self.seeds.index(seed) for seed in seeds]
        return self.figures[places], self.left_out[:, places]


def kept(count: int, groups: int = GROUPS) -> Iterator[np.ndarray]:
    """For each group the places of the other images, bool [count]: image i is in group i mod `groups`."""
    for group in range(groups):
        yield np.arange(count) % groups != group


def leave_out(count: int, statistic: Callable[[np.ndarray], float]) -> list[float]:
    """A statistic, a function of the places of images, without each group: [GROUPS]."""
    return [float(statistic(places)) for places in kept(count)]
