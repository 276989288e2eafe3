"""codi evaluate: measure and compare bundles, and write a report."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from codi_tf.cli.evaluate_inputs import check_prompts_used, inputs_of, prompts_of
from codi_tf.cli.evaluate_options import metric_arguments, parse
from codi_tf.core.command_line import start_tensorflow
from codi_tf.core.markdown import code, plain
from codi_tf.core.signals import Stop, stop_noted
from codi_tf.evaluation.entries import Entry, make_entries
from codi_tf.evaluation.kept import Kept
from codi_tf.evaluation.loading import load_metrics, load_models, truth_keys
from codi_tf.evaluation.loading import options as metric_options
from codi_tf.evaluation.measuring import Evaluator, measure
from codi_tf.evaluation.metric import LEVEL
from codi_tf.evaluation.report import REPORTS, write_figures, write_images, write_page
from codi_tf.evaluation.results import read_results, sampler_of
from codi_tf.evaluation.samplers import BATCH, model_process, model_sampler
from codi_tf.evaluation.tables import text_table
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
    inputs = inputs_of(options, model)
    examples = inputs.examples
    images, conditions, prompts = examples["image"], examples["condition"], prompts_of(options, model, examples)
    check_prompts_used(prompts, options, models)
    height, width = images.shape[1:3]
    results = {label: read_results(path, inputs.names, height, width) for label, path in options.results.items()}
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
        known=examples,
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
    samplers |= {label: sampler_of(found, evaluator.encode) for label, found in results.items()}
    settings = _settings(options, models, inputs.images, images.shape)
    prompt_texts = [] if prompts is None else [np.array(prompts)]
    kept = Kept(options.out.with_name(f".{options.out.name}.measured"), settings, [images, conditions, *prompt_texts])
    progress = Progress("measuring", len(samplers))

    def report(done: int) -> None:
        progress.update(done)
        _end_if(stop, f"{done} of {len(samplers)} samplers")

    measured = measure(samplers, evaluator, report=report, kept=kept)
    curves = {one.label: {one.cost * steps: one.row(steps) for steps in options.steps} for one in entries}
    families = {one.label: one.bundle for one in entries} if len(models) > 1 else None
    rows = write_figures(folder, measured, curves, settings, families=families, results=list(results))

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
    others = {label: found[shown] for label, found in results.items()}
    write_images(folder, made, processes, conditions[shown], images[shown], results=others)
    about = _about(options, entries, inputs.about)
    write_page(folder, about, rows, [one.label for one in entries], max(PROCESS_STEPS))
    kept.remove()
    return text_table(rows)


def _end_if(stop: Stop, measured: str) -> None:
    if stop:
        raise stop.interrupted(f"stopped by {{by}}; figures of {measured} are kept: the same command goes on")


def _shown(images: np.ndarray, count: int) -> np.ndarray:
    """The places of the images with the most contrast; flat images show little."""
    return np.argsort(-images.std(axis=(1, 2, 3)), kind="stable")[:count]


def _about(options: argparse.Namespace, entries: list[Entry], examples: str) -> str:
    """The introduction of the report: what was measured, in Markdown."""
    names = options.samplers or list(dict.fromkeys(one.options["sampler"] for one in entries))
    lines = [f"{examples}, seed {options.seed}. {_plural('Sampler', names)}."]
    if options.prompt is not None:
        lines.append(f"Prompt: {plain(options.prompt)}")
    by_bundle = {one.bundle: one for one in entries}.values()
    lines.append("")
    for one in by_bundle:
        guided = {"guidance": "guidance", "text_guidance": "text guidance"}
        values = {name: one.options[key] for key, name in guided.items()}
        note = "".join(f", {name} {value:g}" for name, value in values.items() if value is not None)
        if len(names) > 1 and options.samplers is None:
            note = f", sampler {one.options['sampler']}{note}"
        many = {1: "", 2: ", two evaluations a step", 3: ", three evaluations a step"}[one.cost]
        lines.append(f"- {plain(one.bundle)}: {code(str(options.bundles[one.bundle]))}{note}{many}")
    lines += [f"- {plain(label)}: images in {code(str(path))}" for label, path in options.results.items()]
    return "\n".join(lines)


def _plural(word: str, names: Sequence[str]) -> str:
    return f"{word}{'' if len(names) == 1 else 's'}: {', '.join(names)}"


def _settings(options: argparse.Namespace, models: dict, names: Sequence[str], shape: tuple[int, ...]) -> dict:
    """The settings of the evaluation, for metrics.json; `shape` is that of the originals."""
    import codi_tf

    height, width = shape[1:3]
    bundles = options.bundles.items()
    return {
        "codi_tf": codi_tf.__version__,
        "bundles": {label: {**_named(path), "task": models[label].task_config()} for label, path in bundles},
        "results": {label: _named(path) for label, path in options.results.items()},
        "data": options.data,
        "photos": list(names),
        "image_size": height if height == width else [height, width],
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
