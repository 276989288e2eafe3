"""Measuring samplers on arrays: values of every picture, means and Frechet distances with bootstrap intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from codi_tf.core.errors import UserError
from codi_tf.evaluation import metrics
from codi_tf.evaluation.samplers import Sampler, batch_for, in_batches

LEVEL = 0.9  # of all intervals
FEW = 256  # features

Measure = Callable  # (pictures, originals) float32 [B, H, W, 3] in [-1, 1] -> [B]
Extractor = Callable  # pictures float32 [B, H, W, 3] in [-1, 1] -> features [B, D]


@dataclass(frozen=True)
class Measured:
    """What N pictures of one sampler measure, before anything is averaged.

    Attributes:
        values: name of a measure -> float64 [N]. "sharpness" are gradient energies over the mean of the originals'.
        features: name of a Frechet distance -> float [N, D].
        references: what they are compared with: name of a Frechet distance -> float [N, D]; "sharpness" -> float64
            [N], the originals'.
    """

    values: dict[str, np.ndarray]
    features: dict[str, np.ndarray]
    references: dict[str, np.ndarray]

    def row(self) -> dict:
        """name -> figure, and name_interval -> (low, high); None where a mean is infinite.

        Intervals (90 %) are bootstraps over the pictures, which are the same ones for every sampler.
        """
        row = {}
        for name, values in self.values.items():
            mean, spread = float(np.mean(values)), values
            if name == "sharpness":  # a ratio of means: the originals vary with the pictures (delta method)
                spread = values - mean * (self.references[name] - 1.0)
            finite = math.isfinite(mean)
            row[name] = mean if finite else None
            row[f"{name}_interval"] = metrics.mean_interval(spread, level=LEVEL) if finite else None
        for name, features in self.features.items():
            row[name] = metrics.frechet_distance(features, self.references[name])
            replicates = 100 if features.shape[1] <= FEW else 20  # of FID's, a distance takes seconds
            options = {"replicates": replicates, "level": LEVEL}
            row[f"{name}_interval"] = metrics.frechet_interval(features, self.references[name], **options)
        return row


class Evaluator:
    """What pictures are measured by: the originals, in every form that a measure compares with, computed once.

    Args:
        images: the originals, float32 [N, H, W, 3] in [-1, 1], N at least 2.
        conditions: float32 [N, H, W, C] in [-1, 1]; the first three channels are a picture.
        base: the `Base` whose autoencoder made the latents.
        features: an extractor, see `features.FeatureNetwork.features`: of "frechet_photos", the distance to the
            autoencoder's reconstructions of the originals. To the originals it would reward over-sharpening.
        extractors: of further Frechet distances, to the originals: name -> extractor, as "fid".
        measures: further measures of single pictures: name -> function of (pictures, originals), as "lpips".
        text_measures: of single pictures and their texts: name -> function of (pictures, string [B]), as "clip_score".
        prompts: the texts, [N].
        finish: what the task does to decoded pictures, (pictures, conditions) -> pictures.
        enlarged: whether conditions are small pictures, enlarged bicubically; None: if they have three channels.

    Raises:
        UserError: pictures too small for SSIM.
    """

    def __init__(
        self,
        images: np.ndarray,
        conditions: np.ndarray,
        base,
        features: Extractor,
        *,
        extractors: dict[str, Extractor] | None = None,
        measures: dict[str, Measure] | None = None,
        text_measures: dict[str, Measure] | None = None,
        prompts: Sequence[str] | None = None,
        finish: Callable | None = None,
        enlarged: bool | None = None,
    ):
        import tensorflow as tf

        self.images, self.conditions = images, conditions
        enlarged = conditions.shape[-1] == 3 if enlarged is None else enlarged
        self.condition_name = "bicubic" if enlarged else "condition"
        batch = batch_for(base, *images.shape[1:3])
        self.encode = in_batches(tf.function(base.encode), batch)
        self.latents = self.encode(images)  # [N, h, w, 4]
        decoded = in_batches(tf.function(base.decode), batch)(self.latents)
        self.reconstructions = np.clip(decoded if finish is None else finish(decoded, conditions), -1, 1)
        self._measures = {name: in_batches(measure, batch) for name, measure in (measures or {}).items()}
        self._text_measures = {name: in_batches(measure, batch) for name, measure in (text_measures or {}).items()}
        self._prompts = None if prompts is None else np.array(prompts, object)
        self._extractors = {name: in_batches(extractor, batch) for name, extractor in (extractors or {}).items()}
        self._extractors["frechet_photos"] = in_batches(tf.function(features), batch)
        self._energy = metrics.sharpness(_unit(images))  # [N]
        self._references = {
            name: extract(self.reconstructions if name == "frechet_photos" else images)
            for name, extract in self._extractors.items()
        } | {"sharpness": self._energy / self._energy.mean()}

    def measure(self, pictures: np.ndarray, latents: np.ndarray) -> Measured:
        """Measure pictures [N, H, W, 3] in [-1, 1], one for each original, and their latents [N, h, w, 4]."""
        shown, originals = _unit(pictures), _unit(self.images)
        values = {"psnr": metrics.psnr(shown, originals), "ssim": metrics.ssim(shown, originals)}
        values |= {name: np.asarray(f(pictures, self.images), np.float64) for name, f in self._measures.items()}
        for name, f in self._text_measures.items():
            values[name] = np.asarray(f(pictures, self._prompts), np.float64)
        values["sharpness"] = metrics.sharpness(shown) / self._energy.mean()
        values["latent_error"] = np.mean(np.square(np.float64(latents) - self.latents), axis=(1, 2, 3))
        features = {name: extract(pictures) for name, extract in self._extractors.items()}
        return Measured(values, features, self._references)

    def of_condition(self) -> Measured:
        """The condition itself as a picture: what a sampler that does nothing measures."""
        pictures = self.conditions[..., :3]
        return self.measure(pictures, self.encode(pictures))


def measure(
    samplers: dict[str, Sampler], evaluator: Evaluator, *, report: Callable[[int], None] | None = None
) -> dict[str, Measured]:
    """Measure samplers, and beside them the condition itself, "autoencoder" (the ceiling) and "original".

    The condition is called "bicubic" where it is a small picture, enlarged, else "condition". `report` is called with
    the number of samplers done.

    Raises:
        UserError: a sampler's pictures are not finite.
    """
    measured = {evaluator.condition_name: evaluator.of_condition()}
    for done, (name, sampler) in enumerate(samplers.items(), start=1):
        pictures, latents = sampler(evaluator.conditions)
        if not np.isfinite(pictures).all():
            raise UserError(f"{name}: made pictures that are not finite; its training diverged, train it again")
        measured[name] = evaluator.measure(pictures, latents)
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
    features: Extractor,
    *,
    report: Callable[[int], None] | None = None,
    **options,
) -> dict[str, dict]:
    """`measure` on a new `Yardstick`, averaged: name of a sampler -> `Measured.row`.

    Args:
        samplers: name -> function from conditions [N, H, W, C] in [-1, 1] to (images [N, H, W, 3] of the same range,
            clean latents [N, h, w, 4]); `samplers.model_sampler` makes one from a model.
        images, conditions, base, features: see `Yardstick`.
        report: called with the number of samplers done.
        options: extractors, measures, text_measures, prompts and finish, see `Yardstick`.

    Returns:
        The rows of `measure`, each with "psnr" (None where the pictures are the originals), "ssim", what `measures`
        names, "sharpness", "latent_error", what `extractors` names, "frechet_photos", and every "..._interval".

    Raises:
        UserError: a sampler's pictures are not finite, or pictures too small for SSIM.
    """
    evaluator = Evaluator(images, conditions, base, features, **options)
    return {name: measured.row() for name, measured in measure(samplers, evaluator, report=report).items()}


def _unit(images: np.ndarray) -> np.ndarray:
    return (np.asarray(images) + 1) / 2
