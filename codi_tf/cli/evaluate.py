"""codi evaluate: measure and compare bundles, and write a report."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from codi_tf.cli.evaluate_options import flags_that_need_prompts, metric_arguments, needs_prompts, parse
from codi_tf.core.command_line import start_tensorflow
from codi_tf.core.errors import UserError
from codi_tf.core.markdown import code, plain
from codi_tf.core.signals import Stop, stop_noted
from codi_tf.evaluation.entries import Entry, make_entries
from codi_tf.evaluation.kept import Kept
from codi_tf.evaluation.loading import load_metrics, load_models, truth_keys
from codi_tf.evaluation.loading import options as metric_options
from codi_tf.evaluation.measuring import Evaluator, measure
from codi_tf.evaluation.metric import LEVEL
from codi_tf.evaluation.report import REPORTS, write_figures, write_images, write_page
from codi_tf.evaluation.samplers import BATCH, model_process, model_sampler
from codi_tf.evaluation.tables import markdown_table
from codi_tf.io.folders import whole_folder
from codi_tf.io.hashing import file_sha256, folder_sha256

IMAGES = 6  # inputs of the grid
ROWS_OF_IMAGES = 12  # of the grid, about, where many models share it
PROCESS_STEPS = range(1, 11)


def main(arguments: list[str], prog: str = "python -m codi_tf.evaluate") -> None:
    """Run `codi evaluate`. Raises UserError, and Interrupted after a signal; the same command then goes on."""
    options = parse(arguments, prog)
    noted = "what is measured is kept after the sampler under way"
    with whole_folder(options.out, REPORTS) as folder, stop_noted(noted) as stop:
        table = _report(options, folder, stop)
    print(f"{table}\n{options.out}")


def _report(options: argparse.Namespace, folder: Path, stop: Stop) -> str:
    """Write the report into the folder; return its table. Raises Interrupted when a signal came."""
    start_tensorflow()
    from codi_tf.core.progress import Progress

    models = load_models(options.bundles)
    model = next(iter(models.values()))
    examples, names, count = examples_of(options, model)
    images, conditions, prompts = examples["image"], examples["condition"], _prompts(options, model, examples)
    _check_prompts_used(prompts, options, models)
    chosen = {"guidance": options.guidance, "text_guidance": options.text_guidance, "prompts": prompts}
    entries = make_entries(models, options.samplers, **chosen)
    samplers = {
        one.row(steps): model_sampler(one.model, steps, options.seed, **one.options)
        for one in entries
        for steps in options.steps
    }
    metrics = load_metrics(
        metric_arguments(options),
        image_size=model.image_size,
        prompted=prompts is not None,
        instructed=model.task.prompted,
    )
    evaluator = Evaluator(
        images,
        conditions,
        model.base,
        metrics,
        prompts=[prompts] * len(images) if isinstance(prompts, str) else prompts,
        finish=model.task.finish,
        enlarged=model.task.has_low_resolution,
        truth={key: examples[key] for key in truth_keys(metric_arguments(options)) if key in examples},
    )
    settings = _settings(options, models, names, images.shape[1])
    prompt_texts = [] if prompts is None else [np.array(prompts)]
    kept = Kept(options.out.with_name(f".{options.out.name}.measured"), settings, [images, conditions, *prompt_texts])
    progress = Progress("measuring", len(samplers))

    def report(done: int) -> None:
        progress.update(done)
        _end_if(stop, f"{done} of {len(samplers)} samplers")

    measured = measure(samplers, evaluator, report=report, kept=kept)
    curves = {one.label: {one.cost * steps: one.row(steps) for steps in options.steps} for one in entries}
    families = {one.label: one.bundle for one in entries} if len(models) > 1 else None
    rows = write_figures(folder, measured, curves, settings, families=families)

    shown = _shown(images[:BATCH], min(IMAGES, max(2, ROWS_OF_IMAGES // len(entries))))
    made = {
        one.label: {
            steps: model_sampler(one.model, steps, options.seed, **one.options_of_first())(conditions[:BATCH])[0][shown]
            for steps in options.steps
        }
        for one in entries
    }
    progress, processes = Progress("sampling processes", len(entries)), {}
    for done, one in enumerate(entries, start=1):
        first = shown[0]
        processes[one.label] = {
            steps: model_process(one.model, conditions[first], first, steps, options.seed, **one.options_of(first))
            for steps in PROCESS_STEPS
        }
        progress.update(done)
        _end_if(stop, "all samplers")
    write_images(folder, made, processes, conditions[shown], images[shown])
    about = _about(options, entries, count, images.shape[1])
    write_page(folder, about, rows, [one.label for one in entries], max(PROCESS_STEPS))
    kept.remove()
    return markdown_table(rows)


def _end_if(stop: Stop, measured: str) -> None:
    if stop:
        raise stop.interrupted(f"stopped by {{by}}; figures of {measured} are kept: the same command goes on")


def examples_of(options: argparse.Namespace, model) -> tuple[dict, Sequence[str], int]:
    """Return (the examples to measure on, the names of their images if known, the number of those images).

    The examples are those of `data.evaluation_set`, or of `data.read_pairs`.

    Raises:
        UserError: the data cannot be read, or do not fit the model's task or its networks.
    """
    from codi_tf import data

    if data.is_pairs(options.data):
        if not model.task.has_low_resolution:
            raise UserError(
                f"--data is {options.data}: pairs are for super-resolution; name other data for these bundles"
            )
        names = [f"{i:05}.png" for i in range(options.count)]
        pairs = data.read_pairs(options.data, options.count, scale=model.task.scale)
        side, multiple = pairs["image"].shape[1], model.base.multiple
        if side % multiple:
            raise UserError(f"{options.data}: pairs of {side} pixels; these networks take multiples of {multiple}")
        return pairs, names, len(names)
    source = data.load_source(options.data, "heldout" if options.split == "heldout" else None, model.task)
    shared = {"image_size": model.image_size, "count": options.count, "seed": options.seed}
    shared["prompts"] = options.prompts or model.task.prompted
    shared["keys"] = [key for key in truth_keys(metric_arguments(options)) if key in source.provides]
    return data.evaluation_set(source, model.task, **shared), source.names, len(source)


def _shown(images: np.ndarray, count: int) -> np.ndarray:
    """The places of the images with the most contrast; flat images show little."""
    return np.argsort(-images.std(axis=(1, 2, 3)), kind="stable")[:count]


def _prompts(options: argparse.Namespace, model, examples: dict) -> str | list[str] | None:
    """The prompt for all images (--prompt), the prompts of the images, or None."""
    if options.prompt is not None and model.task.prompted:
        raise UserError("--prompt: each image has its own instruction, which the original follows; leave it out")
    if options.prompt is not None:
        return options.prompt
    if options.prompts or model.task.prompted:
        if "prompt" not in examples:
            raise UserError(f"--data is {options.data}: its images have no prompts; give --prompt, or name other data")
        return list(examples["prompt"])
    if flags := flags_that_need_prompts(metric_arguments(options)):
        raise UserError(f"{flags[0]} measures how well images fit a prompt; give --prompt or --prompts")
    return None


def _check_prompts_used(prompts: str | list[str] | None, options: argparse.Namespace, models: dict) -> None:
    """Raise UserError for prompts that neither a model nor a metric takes."""
    takes_text = any(model.base.text_encoder is not None for model in models.values())
    if prompts is not None and not takes_text and not needs_prompts(metric_arguments(options)):
        raise UserError("--prompt: no bundle has a text encoder; leave it out, or name a --clip to compare it with")


def _about(options: argparse.Namespace, entries: list[Entry], photos: int, image_size: int) -> str:
    """The introduction of the report: what was measured, in Markdown."""
    names = options.samplers or list(dict.fromkeys(one.options["sampler"] for one in entries))
    from codi_tf.data.scenes import ENDLESS

    which = ("" if photos == ENDLESS else f"{photos} ") + ("held-out " if options.split == "heldout" else "")
    lines = [
        f"{options.count} crops of {image_size} pixels from {which}images of {plain(str(options.data))}, "
        f"seed {options.seed}. {_plural('Sampler', names)}."
    ]
    if options.prompt is not None:
        lines.append(f"Prompt: {plain(options.prompt)}")
    by_bundle = {one.bundle: one for one in entries}.values()
    lines.append("")
    for one, path in zip(by_bundle, options.bundles, strict=True):
        names = {"guidance": "guidance", "text_guidance": "text guidance"}
        values = {name: one.options[key] for key, name in names.items()}
        note = "".join(f", {name} {value:g}" for name, value in values.items() if value is not None)
        if len(names) > 1 and options.samplers is None:
            note = f", sampler {one.options['sampler']}{note}"
        many = {1: "", 2: ", two evaluations a step", 3: ", three evaluations a step"}[one.cost]
        lines.append(f"- {plain(one.bundle)}: {code(str(path))}{note}{many}")
    return "\n".join(lines)


def _plural(word: str, names: Sequence[str]) -> str:
    return f"{word}{'' if len(names) == 1 else 's'}: {', '.join(names)}"


def _settings(options: argparse.Namespace, models: dict, names: Sequence[str], image_size: int) -> dict:
    """The settings of the evaluation, for metrics.json."""
    import codi_tf

    bundles = zip(models.items(), options.bundles, strict=True)
    return {
        "codi_tf": codi_tf.__version__,
        "bundles": {label: {**_named(path), "task": model.task_config()} for (label, model), path in bundles},
        "data": options.data,
        "photos": list(names),
        "image_size": image_size,
        "count": options.count,
        "seed": options.seed,
        "steps": options.steps,
        "samplers": options.samplers or sorted({model.sampler for model in models.values()}),
        "guidance": options.guidance,
        "text_guidance": options.text_guidance,
        "prompt": options.prompt,
        "prompts": options.prompts,
        "interval_level": LEVEL,
        **_weights(options),
    }


def _weights(options: argparse.Namespace) -> dict[str, dict | str | None]:
    """Path and checksum of the weights of each metric: of each option's file or folder."""
    weights = {}
    for option in metric_options():
        argument = getattr(options, option.key)
        path = None if argument is None else option.path(argument)
        weights[option.key] = argument if path is None else _named(path)
    return weights


def _named(path: Path) -> dict:
    return {"path": str(path), "sha256": folder_sha256(path) if path.is_dir() else file_sha256(path)}
