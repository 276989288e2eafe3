"""Measuring samplers on arrays: values per image, and figures of the set with bootstrap intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from codi_tf.core.errors import UserError
from codi_tf.evaluation.kept import Kept
from codi_tf.evaluation.metric import ImageSet, Metric, Originals
from codi_tf.evaluation.samplers import Sampler, batch_for, in_batches


@dataclass(frozen=True)
class Measured:
    """The values of N images of one sampler, before averaging.

    Attributes:
        metrics: name -> metric.
        values: name of a metric -> float64 [N], or features [N, D].
        references: name of a metric -> its values of the originals, N rows, or None.
    """

    metrics: Mapping[str, Metric]
    values: Mapping[str, np.ndarray]
    references: Mapping[str, np.ndarray | None]

    def per_image(self) -> dict[str, np.ndarray]:
        """The values [N] of the metrics that measure each image alone."""
        return {name: self.values[name] for name, metric in self.metrics.items() if metric.per_image}

    def row(self) -> dict:
        """name -> figure, and name_interval -> (low, high); both None where the figure is not finite.

        Intervals (90 %) are bootstraps over the images, which are the same ones for every sampler.
        """
        row = {}
        for name, metric in self.metrics.items():
            values, reference = self.values[name], self.references[name]
            figure = metric.aggregate(values, reference)
            finite = math.isfinite(figure)
            row[name] = figure if finite else None
            row[f"{name}_interval"] = metric.interval(values, reference) if finite else None
        return row


class Evaluator:
    """Measures images against the originals, for which all metrics are computed once.

    Args:
        images: the originals, float32 [N, H, W, 3] in [-1, 1], N at least 2.
        conditions: float32 [N, H, W, C] in [-1, 1]; the first three channels are an image.
        base: the `Base` whose autoencoder made the latents.
        metrics: name -> metric; `loading.metrics_with` gives those that need no weights.
        prompts: the texts of the images, [N], for the metrics that need them.
        finish: what the task does to decoded images, (images, conditions) -> images.
        enlarged: whether conditions are small images, enlarged bicubically (`Task.has_low_resolution`).
        truth: what else the source says of the images, see `Originals.truth`.
    """

    def __init__(
        self,
        images: np.ndarray,
        conditions: np.ndarray,
        base,
        metrics: Mapping[str, Metric],
        *,
        prompts: Sequence[str] | None = None,
        finish: Callable | None = None,
        enlarged: bool = False,
        truth: Mapping[str, np.ndarray] | None = None,
    ):
        import tensorflow as tf

        self.images, self.conditions, self.metrics = images, conditions, dict(metrics)
        self.condition_name = "bicubic" if enlarged else "condition"
        batch = batch_for(base, *images.shape[1:3])
        self.encode = in_batches(tf.function(base.encode), batch)
        self.latents = self.encode(images)  # [N, h, w, 4]
        decoded = in_batches(tf.function(base.decode), batch)(self.latents)
        self.reconstructions = np.clip(decoded if finish is None else finish(decoded, conditions), -1, 1)
        self._originals = Originals(images, self.latents, batch, self.reconstructions, prompts, truth or {})
        self._references = {name: metric.reference(self._originals) for name, metric in self.metrics.items()}

    def measure(self, images: np.ndarray, latents: np.ndarray) -> Measured:
        """Measure images float32 [N, H, W, 3] in [-1, 1], one for each original, and their latents [N, h, w, 4].

        Raises:
            UserError: images too small for a metric, such as SSIM.
        """
        made = ImageSet(images, latents, self._originals.batch)
        values = {
            name: np.asarray(metric.measure(made, self._originals, self._references[name]))
            for name, metric in self.metrics.items()
        }
        values |= {name: values[name].astype(np.float64) for name, one in self.metrics.items() if one.per_image}
        return self.measured(values)

    def measured(self, values: Mapping[str, np.ndarray]) -> Measured:
        """What `measure` gives, of values that it gave before."""
        return Measured(self.metrics, values, self._references)

    def of_condition(self) -> Measured:
        """Measure the condition itself as an image, the result of a sampler that does nothing."""
        images = self.conditions[..., :3]
        return self.measure(images, self.encode(images))


def measure(
    samplers: dict[str, Sampler],
    evaluator: Evaluator,
    *,
    report: Callable[[int], None] | None = None,
    kept: Kept | None = None,
) -> dict[str, Measured]:
    """Measure samplers, the condition itself, "autoencoder" (the ceiling) and "original".

    The condition is called "bicubic" where it is a small image, enlarged, else "condition". `report` is called with
    the number of samplers done. The values of each sampler are read from `kept`, or written there.

    Raises:
        UserError: a sampler's images are not finite, or too small for a metric; values cannot be written.
    """
    measured = {evaluator.condition_name: evaluator.of_condition()}
    for done, (name, sampler) in enumerate(samplers.items(), start=1):
        values = None if kept is None else kept.read(name, evaluator.metrics)
        if values is None:
            images, latents = sampler(evaluator.conditions)
            if not np.isfinite(images).all():
                raise UserError(f"{name}: made images that are not finite; its training diverged, train it again")
            measured[name] = evaluator.measure(images, latents)
            if kept is not None:
                kept.write(name, measured[name].values)
        else:
            measured[name] = evaluator.measured(values)
        if report is not None:
            report(done)
    measured["autoencoder"] = evaluator.measure(evaluator.reconstructions, evaluator.latents)
    measured["original"] = evaluator.measure(evaluator.images, evaluator.latents)
    return measured


def evaluate(
    samplers: dict[str, Sampler],
    images: np.ndarray,
    conditions: np.ndarray,
    base,
    metrics: Mapping[str, Metric],
    *,
    report: Callable[[int], None] | None = None,
    **options,
) -> dict[str, dict]:
    """Measure samplers with a new `Evaluator` and average: name of a sampler -> `Measured.row`.

    Args:
        samplers: name -> function from conditions [N, H, W, C] in [-1, 1] to (images [N, H, W, 3] of the same range,
            clean latents [N, h, w, 4]); `samplers.model_sampler` makes one from a model.
        images, conditions, base, metrics: see `Evaluator`.
        report: called with the number of samplers done.
        options: prompts, finish, enlarged and truth, see `Evaluator`.

    Returns:
        The rows of `measure`, each with every metric's figure and "..._interval"; PSNR is None where the images are
        the originals.

    Raises:
        UserError: a sampler's images are not finite, or images too small for SSIM.
    """
    evaluator = Evaluator(images, conditions, base, metrics, **options)
    return {name: measured.row() for name, measured in measure(samplers, evaluator, report=report).items()}
