"""The report of `codi transfer --data`: transfers measured against the true counterparts of their images."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from codi_tf.core.errors import UserError
from codi_tf.core.markdown import code, plain
from codi_tf.core.progress import Progress
from codi_tf.evaluation import METRICS
from codi_tf.evaluation.grids import comparison, name_of_steps
from codi_tf.evaluation.loading import named_metrics
from codi_tf.evaluation.measuring import Evaluator, measure
from codi_tf.evaluation.metric import LEVEL, Metric
from codi_tf.evaluation.report import write_figures
from codi_tf.evaluation.samplers import Sampler, batch_for, in_batches
from codi_tf.evaluation.scenes import READER
from codi_tf.evaluation.tables import in_order, legend, markdown_table, text_table
from codi_tf.io.images import write_png

FREE = ("psnr", "ssim", "sharpness")  # metrics that need no weights
SHOWN = 4  # pairs of the image
CAPTIONS = {"prompt": "caption", "reverse_prompt": "source_caption"}  # keys of the data


def measure_transfers(options: argparse.Namespace, folder: Path, load_pair: Callable) -> str:
    """Write the report into the folder; return its table.

    Args:
        options: of `codi transfer`.
        folder: of the report.
        load_pair: (two folders, compute) -> `inference.transfer.Transfer`.

    Raises:
        UserError: data without counterparts, or that the models cannot take; see `Transfer`.
    """
    pairs = {"transfer": load_pair(options.models, options.compute)}
    if options.undistilled is not None:
        pairs["undistilled"] = load_pair(options.undistilled, options.compute)
    first = pairs["transfer"]
    size = options.size or _trained_size(first.a.base)
    metrics = _metrics(options.reader, size)
    examples = _examples(options, size, [key for metric in metrics.values() for key in metric.truth])
    sources, truths = examples["source"], examples["image"]

    samplers, curves = {}, {}
    for name, pair in pairs.items():
        contexts = [
            model.base.conditioning(list(examples[key])) if options.prompts else None
            for key, model in zip(CAPTIONS.values(), (pair.b, pair.a), strict=True)
        ]
        for guidance in options.guidance:
            label = name if options.guidance == [1.0] else f"{name}, guidance {guidance:g}"
            cost = pair.b.evaluations(guidance) + pair.a.evaluations(options.reverse_guidance)
            curves[label] = {cost * steps: f"{label}, {name_of_steps(steps)} each way" for steps in options.steps}
            for steps, row in zip(options.steps, curves[label].values(), strict=True):
                chosen = {"steps": steps, "guidance": guidance, "reverse_guidance": options.reverse_guidance}
                samplers[row] = _sampler(pair, contexts, chosen)
    truth = {key: examples[key] for metric in metrics.values() for key in metric.truth}
    evaluator = Evaluator(truths, sources, first.a.base, metrics, truth=truth)
    measured = measure(samplers, evaluator, report=Progress("measuring", len(samplers)).update)
    rows = write_figures(folder, measured, curves, _settings(options, size))
    shown = {label: {} for label in curves}
    for label, names in curves.items():
        for steps, row in zip(options.steps, names.values(), strict=True):
            shown[label][steps] = samplers[row](sources[:SHOWN])[0]
    write_png(folder / "grid.png", comparison(shown, sources[:SHOWN], truths[:SHOWN]))
    (folder / "report.md").write_text(_page(options, rows, size), encoding="utf-8")
    return text_table(rows)


def _sampler(pair, contexts: list, options: dict) -> Sampler:
    """(source images [N, S, S, 3] in [-1, 1]) -> (images of the other domain, their latents)."""
    given = [context for context in contexts if context is not None]

    def transferred(images, *conditionings):
        latents = pair.carry(pair.a.encode(images), *conditionings, **options)
        return pair.b.decode(latents), latents

    def sample(images):
        return in_batches(transferred, batch_for(pair.a.base, *images.shape[1:3]))(images, *given)

    return sample


def _examples(options: argparse.Namespace, size: int, keys: list[str]) -> dict:
    """The pairs: "source", "image", its counterpart, and the keys. Raises UserError for data without counterparts."""
    from codi_tf import data
    from codi_tf.tasks import make_task

    task = make_task("editing")
    source = data.load_source(options.data, "heldout", task)
    wanted = [*keys, *(CAPTIONS.values() if options.prompts else ())]
    if missing := [key for key in wanted if key not in source.provides]:
        raise UserError(f"--data is {options.data}: its pairs have no {missing[0]}; name a transfer of scenes")
    shared = {"image_size": size, "count": options.count, "seed": options.seed, "keys": list(dict.fromkeys(wanted))}
    examples = data.evaluation_set(source, task, prompts=False, **shared)
    return {**examples, "source": examples["condition"]}


def _metrics(reader: str | None, size: int) -> dict[str, Metric]:
    names = dict.fromkeys(FREE)
    if reader is not None:
        READER.check(reader)
        names |= dict.fromkeys(name for name in METRICS if METRICS[name].option is READER)
    return named_metrics(in_order(names), {READER.key: reader}, size)


def _trained_size(base) -> int:
    if base.unet.sample_size is None:
        raise UserError("--size is missing: A does not say which size it was trained for")
    return base.unet.sample_size * base.vae.factor


def _settings(options: argparse.Namespace, size: int) -> dict:
    """The settings of the report, for metrics.json."""
    import codi_tf

    names = ("data", "count", "seed", "steps", "guidance", "reverse_guidance", "reader")
    return {
        "codi_tf": codi_tf.__version__,
        "models": [str(path) for path in options.models],
        "undistilled": None if options.undistilled is None else [str(path) for path in options.undistilled],
        "image_size": size,
        "prompts": bool(options.prompts),
        **{name: getattr(options, name) for name in names},
        "interval_level": LEVEL,
    }


def _page(options: argparse.Namespace, rows: dict[str, dict], size: int) -> str:
    a, b = (code(str(path)) for path in options.models)
    beside = (
        ""
        if options.undistilled is None
        else ", *undistilled* with {} and {}".format(*(code(str(path)) for path in options.undistilled))
    )
    return f"""# Transfer

{options.count} pairs of {size} pixels of {plain(options.data)}, seed {options.seed}. *transfer*: to noise with {a},
back with {b}{beside}. *condition*: the image as it is. All are compared with its true counterpart.

{markdown_table(rows)}
In brackets: {100 * LEVEL:g} % bootstrap intervals over the images, which are the same in every row.

{legend(rows)}

## Against network evaluations

![The figures against network evaluations](curves.png)

## Images

![Images of the one domain, transferred, and their counterparts](grid.png)
"""
