"""Loading what an evaluation needs: bundles that can be compared, and metrics with their weights."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from codi_tf.core.errors import UserError
from codi_tf.evaluation import METRICS
from codi_tf.evaluation.metric import Extractor, Metric, Option
from codi_tf.evaluation.tables import ROWS, in_order


def load_models(bundles: Mapping[str, Path], **options) -> dict:
    """Load bundles that can be compared, with one task, image size and autoencoder: label -> model.

    Args:
        bundles: label -> folder.
        options: of `codi_tf.load`.

    Raises:
        UserError: the bundles differ in one of these, or cannot be read.
    """
    from codi_tf.io.weights import state_dict
    from codi_tf.model import load

    models = {label: load(path, **options) for label, path in bundles.items()}
    (first_path, first), *others = zip(bundles.values(), models.values(), strict=True)
    weights = state_dict(first.base.vae)
    for path, model in others:
        for name in ("task", "image_size"):
            if getattr(model, name) != getattr(first, name):
                raise UserError(f"{path} and {first_path} differ in their {name}: evaluate them one by one")
        theirs, same = state_dict(model.base.vae), model.base.vae.factor == first.base.vae.factor
        same = same and theirs.keys() == weights.keys()
        if not same or not all(np.array_equal(theirs[key], weights[key]) for key in weights):
            raise UserError(f"{path} and {first_path} differ in their autoencoder: evaluate them one by one")
    return models


def labels(paths: Sequence[Path]) -> list[str]:
    """Short names: runs/NAME/result is NAME; the whole paths where these names are not unique, or are those of ROWS."""
    names = [path.parent.name if path.name == "result" else path.name for path in map(Path.resolve, paths)]
    if len({*names, *ROWS}) == len(names) + len(ROWS):
        return names
    return [f"./{path}" if str(path) in ROWS else str(path) for path in paths]


def options() -> list[Option]:
    """The options that name weights of metrics, each once."""
    return list(dict.fromkeys(option for name in in_order(METRICS) if (option := METRICS[name].option) is not None))


def truth_keys(arguments: Mapping[str, str | None]) -> list[str]:
    """What the metrics take of the source's examples besides images, prompts and conditions: their `Metric.truth`.

    Args:
        arguments: see `load_metrics`.
    """
    kinds = [METRICS[name] for name in in_order(METRICS)]
    asked = [kind for kind in kinds if kind.option is None or arguments[kind.option.key] is not None]
    return _truth(asked)


def truth_of(names: Iterable[str]) -> list[str]:
    """What the named metrics take of the source's examples besides images, prompts and conditions."""
    return _truth(METRICS[name] for name in names)


def _truth(kinds: Iterable[type[Metric]]) -> list[str]:
    return list(dict.fromkeys(key for kind in kinds for key in kind.truth))


def load_metrics(
    arguments: Mapping[str, str | None],
    *,
    image_size: int,
    prompted: bool,
    instructed: bool = False,
    known: Collection[str] = (),
) -> dict[str, Metric]:
    """Load the metrics that are always measured and those whose weights are named: name -> metric.

    Args:
        arguments: `Option.key` -> argument; None where it was not given.
        image_size: side of the images that the models were trained on.
        prompted: whether the images have prompts; if not, metrics that need prompts are left out.
        instructed: whether the prompts are instructions; if not, metrics that need instructions are left out.
        known: what else is known of the images, keys of `Originals.truth`; metrics that need more are left out.

    Raises:
        UserError: weights that cannot be read.
    """

    def possible(kind: type[Metric]) -> bool:
        if (kind.needs_prompts and not prompted) or (kind.needs_instructions and not instructed):
            return False
        return not kind.needs_truth or set(kind.truth) <= set(known)

    return named_metrics([name for name in in_order(METRICS) if possible(METRICS[name])], arguments, image_size)


def named_metrics(names: Iterable[str], arguments: Mapping[str, str | None], image_size: int) -> dict[str, Metric]:
    """Load metrics by their names: name -> metric. Those whose weights are not named are left out.

    Args:
        names: of METRICS.
        arguments: `Option.key` -> argument; None, or no such key, where it was not given.
        image_size: side of the images that the models were trained on.

    Raises:
        UserError: weights that cannot be read.
    """
    metrics = {}
    for name in names:
        option = METRICS[name].option
        metric = METRICS[name].load(None if option is None else arguments.get(option.key), image_size)
        if metric is not None:
            metrics[name] = metric
    return metrics


def metrics_with(features: Extractor) -> dict[str, Metric]:
    """The metrics that need no weights, with FD-photos in the given features: name -> metric.

    Args:
        features: images float32 [B, H, W, 3] in [-1, 1] -> features [B, D], as `features.FeatureNetwork.features`.
    """
    from codi_tf.evaluation.metrics.frechet_photos import FrechetPhotos

    free = [name for name in METRICS if METRICS[name].option is None and not METRICS[name].needs_prompts]
    metrics = named_metrics(free, {}, 0)
    metrics["frechet_photos"] = FrechetPhotos(features)
    return {name: metrics[name] for name in in_order(metrics)}
