"""What is kept of a sample: its figures, and each of them on drawn pictures."""

from __future__ import annotations

import numpy as np

from benchmarks.study import bootstrap
from codi_tf.evaluation.measuring import Measured

FD, SATURATION = "frechet_photos", "saturation"
DIGITS = 6  # that replicates are kept with


def figures_of(measured: Measured, pictures: np.ndarray) -> dict:
    """The row of what was measured, with the saturation and "replicates": name of a measure -> list of R figures.

    Args:
        measured: by a `Yardstick`.
        pictures: what was measured, [N, H, W, 3] in [-1, 1].
    """
    own = saturation(pictures)
    replicates = {
        name: bootstrap.replicates(features, bootstrap.frechet_to(measured.references[name]))
        for name, features in measured.features.items()
    }
    for name, values in {**measured.values, SATURATION: own}.items():
        if np.isfinite(values).all():
            ratio = bootstrap.ratio_to(measured.references[name]) if name == "sharpness" else bootstrap.mean
            replicates[name] = bootstrap.replicates(values, ratio)
    kept = {name: [float(f"{value:.{DIGITS}g}") for value in values] for name, values in replicates.items()}
    return {**measured.row(), SATURATION: float(own.mean()), "replicates": kept}


def saturation(pictures: np.ndarray) -> np.ndarray:
    """(max - min) of red, green and blue, the mean over a picture: 0 is grey. [..., H, W, 3] in [-1, 1] -> [...]."""
    return np.mean(np.ptp(np.asarray(pictures, np.float64), axis=-1), axis=(-2, -1)) / 2
