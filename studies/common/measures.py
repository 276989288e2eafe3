"""What is measured of a sample: its figures, each also without one group of images after the other."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from codi_tf.evaluation.measuring import Measured
from codi_tf.evaluation.metric import Column
from codi_tf.evaluation.tables import column
from studies.common.intervals import leave_out

SATURATION = "saturation"
DIGITS = 5
Figures = dict[str, list]  # measure -> [figure, [figure without group 0, ...]]


def figures_of(measured: Measured, images: np.ndarray) -> Figures | None:
    """The figures of a sample and its saturation; None if the images are not finite: the training diverged.

    Args:
        measured: the result of an `Evaluator`.
        images: the measured images, [N, H, W, 3] in [-1, 1].
    """
    if not np.isfinite(images).all():
        return None
    own = saturation(images)
    statistics = {name: _statistic(measured, name) for name in measured.metrics}
    statistics[SATURATION] = lambda places: own[places].mean()
    everything = np.ones(len(images), bool)
    return {
        name: [_short(statistic(everything)), [_short(one) for one in leave_out(len(images), statistic)]]
        for name, statistic in statistics.items()
    }


def saturation(images: np.ndarray) -> np.ndarray:
    """The mean over an image of max - min of red, green and blue; 0 is gray. [..., H, W, 3] in [-1, 1] -> [...]."""
    return np.mean(np.ptp(np.asarray(images, np.float64), axis=-1), axis=(-2, -1)) / 2


def column_of(measure: str) -> Column:
    """The column of a measure in tables."""
    return Column("saturation", "{:.4f}") if measure == SATURATION else column(measure)


def _statistic(measured: Measured, name: str) -> Callable[[np.ndarray], float]:
    """A metric's figure as a function of the places of images."""
    metric, values, reference = measured.metrics[name], measured.values[name], measured.references[name]
    if name == "sharpness":  # its values are relative to the mean of all originals: here, of those that are kept
        assert reference is not None
        energy = reference / reference.mean()
        return lambda places: values[places].mean() / energy[places].mean()
    return lambda places: metric.aggregate(values[places], None if reference is None else reference[places])


def _short(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
