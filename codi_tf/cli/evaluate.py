"""python -m codi_tf.evaluate BUNDLE [BUNDLE ...] --out report/ [--data photos|SOURCE|PAIRS] [--split heldout|all]
    [--steps 1,2,4] [--samplers ddim] [--guidance W] [--text-guidance W] [--prompt ..|--prompts] [--count 256]
    [--seed 0] [--features DIR] [--lpips FILE] [--inception FILE|keras|keras:FILE] [--clip FOLDER]

Measures bundles on the same held-out crops with the same noise, by every sampler and number of steps. The report is
report.md (a table with intervals), curves.png, grid.png, process-1.png, ... (one a bundle and sampler), metrics.json
and metrics.npz (values of every picture).

PSNR, SSIM, sharpness, latent error and FD-photos, the Frechet distance through a small network trained on the embedded
photos (not FID), need nothing else. LPIPS, FID and the CLIP score are measured where their weights are named.
"""

from __future__ import annotations

import argparse
import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from codi_tf.core.command_line import ArgumentParser, start_tensorflow
from codi_tf.core.errors import UserError
from codi_tf.evaluation.loading import (
    KERAS,
    inception_file,
    load_extractors,
    load_feature_network,
    load_measures,
    load_models,
    load_text_measures,
)
from codi_tf.evaluation.measuring import LEVEL, Evaluator, measure
from codi_tf.evaluation.pictures import name_of_steps
from codi_tf.evaluation.report import is_report_file, write_figures, write_page, write_pictures
from codi_tf.evaluation.samplers import BATCH, model_process, model_sampler
from codi_tf.evaluation.tables import markdown_table
from codi_tf.io.files import whole_folder
from codi_tf.io.hashing import file_sha256, folder_sha256

SPLITS = ("heldout", "all")
MAX_COUNT = 100_000
SAMPLERS = ("ddim", "dpm", "dpm++", "stochastic", "consistency")  # sampling.SAMPLERS
PICTURES = 6  # inputs of the grid
ROWS_OF_PICTURES = 12  # of the grid, about, where many models share it
PROCESS_STEPS = range(1, 11)


def _parser() -> ArgumentParser:
    parser = ArgumentParser(prog="python -m codi_tf.evaluate", description="Measure and compare bundles.")
    parser.add_argument("bundles", type=Path, nargs="+", metavar="BUNDLE", help="folder of a trained model")
    parser.add_argument("--out", type=Path, required=True, help="folder of the report")
    parser.add_argument("--data", default="photos", help="photos (default), a folder, shards, a TFDS name, or pairs")
    parser.add_argument(
        "--split", choices=SPLITS, default=SPLITS[0], help="heldout (default): what training leaves out; or all images"
    )
    parser.add_argument("--steps", default="1,2,4", help="network evaluations (default: 1,2,4)")
    parser.add_argument("--samplers", default="ddim", help=f"of {', '.join(SAMPLERS)} (default: ddim)")
    parser.add_argument("--guidance", type=float, help="for bundles trained to take it (default: none)")
    parser.add_argument("--text-guidance", type=float, help="the prompt's, for bundles trained to take it")
    parser.add_argument("--prompt", help="one text for all pictures: for bundles with a text encoder, and for --clip")
    parser.add_argument(
        "--prompts", action="store_true", help="the images' own texts (always, where they are the task)"
    )
    parser.add_argument("--count", type=int, default=256, help="crops (default: 256)")
    parser.add_argument("--seed", type=int, default=0, help="of crops, degradations and noise (default: 0)")
    parser.add_argument("--features", type=Path, help="folder of FD-photos' network; made there if it is missing")
    parser.add_argument("--lpips", type=Path, help="weights of LPIPS")
    parser.add_argument("--inception", help="weights of the original FID network; or keras, or keras:FILE")
    parser.add_argument("--clip", type=Path, help="folder of a CLIP model; measures the fit of pictures and --prompt")
    return parser


def main(arguments: list[str]) -> None:
    options = _parser().parse_args(arguments)
    options.steps, options.samplers = _steps(options.steps), _samplers(options.samplers)
    _check(options)
    with contextlib.ExitStack() as stack:
        try:
            folder = stack.enter_context(whole_folder(options.out))
        except OSError as error:
            raise UserError(f"--out is {options.out}: {error.strerror}; choose another place") from None
        table = _report(options, folder)
    print(f"{table}\n{options.out}")


@dataclass(frozen=True)
class Entry:
    """A bundle with a sampler: what has a curve, a row of pictures and a process picture of its own.

    Attributes:
        label: its name.
        bundle: the label of the bundle.
        model: the bundle's.
        options: of `model_sampler`: sampler, guidance, text_guidance, prompt.
        cost: network evaluations of a step.
    """

    label: str
    bundle: str
    model: object
    options: dict
    cost: int

    def row(self, steps: int) -> str:
        """The name of the row of a number of steps."""
        return f"{self.label}, {name_of_steps(steps)}"


def _report(options: argparse.Namespace, folder: Path) -> str:
    """Fill the folder; returns the table."""
    start_tensorflow()
    from codi_tf.core.progress import Progress

    models = load_models(options.bundles)
    model = next(iter(models.values()))
    examples, names, count = _examples(options, model)
    images, conditions, prompts = examples["image"], examples["condition"], _prompts(options, model, examples)
    entries = _contestants(models, options, prompts)
    samplers = {
        one.row(steps): model_sampler(one.model, steps, options.seed, **one.options)
        for one in entries
        for steps in options.steps
    }
    extractors = load_extractors(options.inception)
    measures, text_measures = load_measures(options.lpips), load_text_measures(options.clip)
    evaluator = Evaluator(
        images,
        conditions,
        model.base,
        load_feature_network(options.features, model.image_size).features,
        extractors=extractors,
        measures=measures,
        text_measures=text_measures,
        prompts=[prompts] * len(images) if isinstance(prompts, str) else prompts,
        finish=model.task.finish,
        enlarged=hasattr(model.task, "low_resolution"),
    )
    measured = measure(samplers, evaluator, report=Progress("measuring", len(samplers)).update)
    curves = {one.label: {one.cost * steps: one.row(steps) for steps in options.steps} for one in entries}
    settings = _settings(options, models, names, images.shape[1])
    families = {one.label: one.bundle for one in entries} if len(models) > 1 else None
    rows = write_figures(folder, measured, curves, settings, families=families)

    shown = _shown(images[:BATCH], min(PICTURES, max(2, ROWS_OF_PICTURES // len(entries))))
    pictures = {
        one.label: {
            steps: model_sampler(one.model, steps, options.seed, **_of_first(one))(conditions[:BATCH])[0][shown]
            for steps in options.steps
        }
        for one in entries
    }
    progress, ways = Progress("sampling processes", len(entries)), {}
    for done, one in enumerate(entries, start=1):
        ways[one.label] = {
            steps: model_process(
                one.model, conditions[shown[0]], shown[0], steps, options.seed, **_of_one(one, shown[0])
            )
            for steps in PROCESS_STEPS
        }
        progress.update(done)
    write_pictures(folder, pictures, ways, conditions[shown], images[shown])
    about = _about(options, entries, count, images.shape[1])
    write_page(folder, about, rows, [one.label for one in entries], max(PROCESS_STEPS))
    return markdown_table(rows)


def _examples(options: argparse.Namespace, model) -> tuple[dict, Sequence[str], int]:
    """What is measured on, and the names, as far as they are known, and the number of the images it comes from."""
    from codi_tf import data

    if data.is_pairs(options.data):
        if not hasattr(model.task, "low_resolution"):
            raise UserError(f"--data is {options.data}: pairs are for super-resolution, the bundles do something else")
        names = [f"{i:05}.png" for i in range(options.count)]
        pairs = data.read_pairs(options.data, options.count, scale=model.task.scale)
        side, multiple = pairs["image"].shape[1], model.base.multiple
        if side % multiple:
            raise UserError(f"{options.data}: pairs of {side} pixels; these networks take multiples of {multiple}")
        return pairs, names, len(names)
    source = data.load_source(options.data, "heldout" if options.split == "heldout" else None, model.task)
    shared = {"image_size": model.image_size, "count": options.count, "seed": options.seed}
    return data.evaluation_set(source, model.task, **shared), source.names, len(source)


def _of_first(one: Entry) -> dict:
    """The options for the first BATCH pictures."""
    prompt = one.options["prompt"]
    return one.options | {"prompt": prompt[:BATCH] if isinstance(prompt, list) else prompt}


def _of_one(one: Entry, place: int) -> dict:
    """The options for one picture."""
    prompt = one.options["prompt"]
    return one.options | {"prompt": prompt[place] if isinstance(prompt, list) else prompt}


def _shown(images: np.ndarray, count: int) -> np.ndarray:
    """The places of the pictures of most contrast: what is flat shows little."""
    return np.argsort(-images.std(axis=(1, 2, 3)), kind="stable")[:count]


def _prompts(options: argparse.Namespace, model, examples: dict) -> str | list[str] | None:
    """One text for all pictures, --prompt, or the images' own. None: no text."""
    if options.prompt is not None and model.task.prompted:
        raise UserError("--prompt: the originals are what the images' own instructions ask for; leave it out")
    if options.prompt is not None:
        return options.prompt
    if options.prompts or model.task.prompted:
        if "prompt" not in examples:
            raise UserError(f"--data is {options.data}: its images have no texts; give --prompt, or name others")
        return list(examples["prompt"])
    if options.clip is not None:
        raise UserError("--clip measures how well pictures fit a text: give that as --prompt, or ask for --prompts")
    return None


def _contestants(models: dict, options: argparse.Namespace, prompts: str | list[str] | None) -> list[Entry]:
    """Every bundle with every sampler; --guidance is for those that were trained to take one."""
    from codi_tf.inference.generation import guidance_weights

    taking = [label for label, model in models.items() if model.can_be_guided]
    told = [label for label, model in models.items() if getattr(model.settings, "drop_prompt", 0.0) > 0.0]
    if options.text_guidance is not None and not told:
        raise UserError(
            f"--text-guidance is {options.text_guidance:g}: no bundle was trained to take one; leave it out"
        )
    if options.guidance is not None and not taking:
        raise UserError(f"--guidance is {options.guidance:g}: no bundle was trained to take one; leave it out")
    takes_text = any(model.base.text_encoder is not None for model in models.values())
    if prompts is not None and options.clip is None and not takes_text:
        raise UserError("--prompt: no bundle has a text encoder; leave it out, or name a --clip to compare it with")
    entries = []
    for bundle, model in models.items():
        guidance = options.guidance if bundle in taking else None
        prompt = None if model.base.text_encoder is None else prompts
        by_text = options.text_guidance if bundle in told else None
        by_text = model.check_text_guidance(by_text, prompted=prompt is not None)
        by_condition = 1.0 if guidance is None or model.network.takes_guidance else guidance
        cost = sum(weight != 0.0 for weight in guidance_weights(by_condition, by_text))
        for sampler in options.samplers:
            label = bundle if len(options.samplers) == 1 else f"{bundle}, {sampler}"
            chosen = {"sampler": sampler, "guidance": guidance, "text_guidance": by_text, "prompt": prompt}
            entries.append(Entry(label, bundle, model, chosen, cost))
    return entries


def _about(options: argparse.Namespace, entries: list[Entry], photos: int, image_size: int) -> str:
    """What was measured, for a reader."""
    which = "held-out " if options.split == "heldout" else ""
    lines = [
        f"{options.count} crops of {image_size} pixels from {photos} {which}images of {options.data}, "
        f"seed {options.seed}. {_plural('Sampler', options.samplers)}."
    ]
    if options.prompt is not None:
        lines.append(f"Prompt: {options.prompt}")
    told = {one.bundle: one for one in entries}.values()
    lines.append("")
    for one, path in zip(told, options.bundles, strict=True):
        names = {"guidance": "guidance", "text_guidance": "text guidance"}
        values = {name: one.options[key] for key, name in names.items()}
        note = "".join(f", {name} {value:g}" for name, value in values.items() if value is not None)
        many = {1: "", 2: ", two evaluations a step", 3: ", three evaluations a step"}[one.cost]
        lines.append(f"- {one.bundle}: `{path}`{note}{many}")
    return "\n".join(lines)


def _plural(word: str, names: Sequence[str]) -> str:
    return f"{word}{'' if len(names) == 1 else 's'}: {', '.join(names)}"


def _settings(options: argparse.Namespace, models: dict, names: Sequence[str], image_size: int) -> dict:
    """What metrics.json says of how the figures were made."""
    import codi_tf

    def named(path: Path | None) -> dict | None:
        if path is None:
            return None
        return {"path": str(path), "sha256": folder_sha256(path) if path.is_dir() else file_sha256(path)}

    bundles = zip(models.items(), options.bundles, strict=True)
    return {
        "codi_tf": codi_tf.__version__,
        "bundles": {label: {**named(path), "task": model.task_config()} for (label, model), path in bundles},
        "data": options.data,
        "photos": list(names),
        "image_size": image_size,
        "count": options.count,
        "seed": options.seed,
        "steps": options.steps,
        "samplers": options.samplers,
        "guidance": options.guidance,
        "text_guidance": options.text_guidance,
        "prompt": options.prompt,
        "prompts": options.prompts,
        "interval_level": LEVEL,
        "features": named(options.features),
        "lpips": named(options.lpips),
        "inception": KERAS if options.inception == KERAS else named(inception_file(options.inception)),
        "clip": named(options.clip),
    }


def _steps(text: str) -> list[int]:
    try:
        steps = [int(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"--steps is {text!r}: write whole numbers with commas between them, as 1,2,4") from None
    if min(steps) < 1 or len(set(steps)) < len(steps):
        raise UserError(f"--steps is {text!r}: the numbers must be at least 1 and differ")
    return steps


def _samplers(text: str) -> list[str]:
    names = [part.strip() for part in text.split(",")]
    if not set(names) <= set(SAMPLERS) or len(set(names)) < len(names):
        raise UserError(f"--samplers is {text!r}: choose some of {','.join(SAMPLERS)}, each once, with commas between")
    return names


def _check(options: argparse.Namespace) -> None:
    """Raises UserError for what is wrong with the arguments alone."""
    if not 2 <= options.count <= MAX_COUNT:
        raise UserError(f"--count is {options.count}: it must be at least 2 and at most {MAX_COUNT:,}")
    if not 0 <= options.seed < 2**63:
        raise UserError(f"--seed is {options.seed}: it must be between 0 and 2**63 - 1")
    if options.guidance is not None and not math.isfinite(options.guidance):
        raise UserError(f"--guidance is {options.guidance}: it must be a finite number")
    for path in options.bundles:
        if not (path / "codi.json").is_file():
            raise UserError(f"{path}: no such bundle; train one or name another")
    if len({path.resolve() for path in options.bundles}) < len(options.bundles):
        raise UserError("a bundle is named twice; name each once")
    if options.lpips is not None and not options.lpips.is_file():
        raise UserError(f"--lpips is {options.lpips}: no such file; name the weights of LPIPS")
    file = inception_file(options.inception)
    if file is not None and not file.is_file():
        raise UserError(f"--inception is {options.inception}: no such file; name FID's weights, or {KERAS}")
    if options.clip is not None and not options.clip.is_dir():
        raise UserError(f"--clip is {options.clip}: no such folder; name that of a CLIP model")
    if options.prompt is not None and options.prompts:
        raise UserError("--prompt is one text for all pictures, --prompts the images' own: give one of them")
    if options.out.exists() and not options.out.is_dir():
        raise UserError(f"--out is {options.out}: that is a file; name a folder")
    kept = None if options.features is None else options.features.resolve()
    if kept is not None and options.out.resolve() in (kept, *kept.parents):
        raise UserError(f"--features is {options.features}: the report replaces {options.out}; name a folder elsewhere")
    if options.out.is_dir() and not all(is_report_file(path.name) for path in options.out.iterdir()):
        raise UserError(f"--out is {options.out}: holds other files than a report; choose another place")
