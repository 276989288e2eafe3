"""The figures of a sample, and their replicates on drawn images."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from codi_tf.evaluation.measuring import Measured
from studies.paper import bootstrap

FD, SATURATION = "frechet_photos", "saturation"
DIGITS = 6  # of the replicates


def figures_of(measured: Measured, images: np.ndarray) -> dict:
    """The figures of a sample, with the saturation and "replicates": name of a metric -> list of R figures.

    Args:
        measured: the result of an `Evaluator`.
        images: the measured images, [N, H, W, 3] in [-1, 1].
    """
    saturations = saturation(images)
    replicates = {
        name: bootstrap.replicates(values, _statistic(measured, name))
        for name, values in measured.values.items()
        if np.isfinite(values).all()
    }
    replicates[SATURATION] = bootstrap.replicates(saturations, bootstrap.mean)
    rounded = {name: [float(f"{value:.{DIGITS}g}") for value in values] for name, values in replicates.items()}
    return {**measured.row(), SATURATION: float(saturations.mean()), "replicates": rounded}


def saturation(images: np.ndarray) -> np.ndarray:
    """The mean over an image of max - min of red, green and blue; 0 is gray. [..., H, W, 3] in [-1, 1] -> [...]."""
    return np.mean(np.ptp(np.asarray(images, np.float64), axis=-1), axis=(-2, -1)) / 2


def _statistic(measured: Measured, name: str) -> Callable:
    """A metric's figure as a function of (values of drawn images, their places)."""
    if not measured.metrics[name].per_image:
        return bootstrap.frechet_to(measured.references[name])
    if name == "sharpness":
        energy = measured.references[name]
        return bootstrap.ratio_to(energy / energy.mean())
    return bootstrap.mean
