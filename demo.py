"""make demo: distill a latent diffusion model into a 4-step model, compare it with fine-tuning, and export it.

Everything goes to runs/demo/: report.md, grid.png, exported.png, metrics.json, bundle/ and exports/.
"""

from __future__ import annotations

import dataclasses
import json
import os
import resource
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from codi_tf import config
from codi_tf.core.arguments import integer, path_argument
from codi_tf.core.command_line import ArgumentParser, run_command, start_tensorflow
from codi_tf.core.noise import gaussian_noise
from codi_tf.io.folders import Kind, Names, check_folder, mark
from codi_tf.io.images import grid, to_uint8, write_png

ROOT = Path(__file__).parent
ASSETS = ROOT / "assets"
FORMATS = {"saved_model": "TensorFlow", "onnx": "ONNX Runtime", "tflite": "LiteRT"}
SEED = 0
COUNT = 48  # held-out examples to measure on
SHOWN = 6  # of these in the images, the first ones
OF_BUNDLE = 2  # examples of each bundle that comes with codi_tf
CAPTIONED = ", caption"  # ends the name of a row with captions as prompts
IMAGES = ("grid.png", "unlabeled.png", "shipped.png", "exported.png")
PARTS = ("training", "latents", "finetuning", "bundle", "exports", "report.md", "metrics.json", *IMAGES)


@dataclass(frozen=True)
class Claim:
    """That a figure of one row is as good as that of another, up to a share of the latter."""

    text: str
    metric: str
    row: str
    other: str
    share: float = 0.0

    def line(self, rows: dict[str, dict]) -> str:
        """The claim with its figures, after "yes" or "NO"."""
        from codi_tf.evaluation.tables import column

        own, other, shown = rows[self.row][self.metric], rows[self.other][self.metric], column(self.metric)
        sign = -1 if shown.better == "higher" else 1
        holds = None not in (own, other) and sign * own <= sign * other + self.share * abs(other)
        figures = " against ".join("-" if one is None else shown.format.format(one) for one in (own, other))
        return f"{'yes' if holds else 'NO '}  {self.text}: {figures}"


CONFIG = ROOT / "configs" / "scenes_depth.yaml"
OVERRIDES = (
    "train.steps=180",
    "train.warmup_steps=20",
    "train.result_decay=0.98",
    "train.sample_every=0",
    "data.encode_once=1536",
)
FINETUNED = ("method={name: finetune, drop_prompt: 0.5}", "train.result_decay=null", "train.ema_decay=0.98")
MEASURES = ("psnr", "sharpness", "latent_error", "scene_accuracy", "scene_variety", "scene_depth", "frechet_scenes")
COMPARED = ("fine-tuned, 4 steps", "CoDi, 4 steps", "fine-tuned, 50 steps")  # rows in the picture, also with captions
CLAIMS = (
    Claim(
        "without a caption, 4-step CoDi has a lower FD-scenes than the fine-tuned model with 4 steps",
        "frechet_scenes",
        "CoDi, 4 steps",
        "fine-tuned, 4 steps",
    ),
    Claim(
        "its depth error is within 5 % of that of the fine-tuned model with 50",
        "scene_depth",
        "CoDi, 4 steps",
        "fine-tuned, 50 steps",
        0.05,
    ),
    Claim(
        "with a caption, it shows as many of the statements within 5 %",
        "scene_accuracy",
        "CoDi, 4 steps, caption",
        "fine-tuned, 50 steps, caption",
        0.05,
    ),
)


def _of_demo(folder: Path) -> Names | None:
    """The files of a demo that was stopped."""
    begun = any((folder / name).is_file() for name in ("training/config.yaml", "latents/meta.json"))
    return (lambda name: name.split("/")[0] in PARTS) if begun else None


DEMOS = Kind("demo", _of_demo)


def demo(out: Path, *, count: int, overrides: list[str]) -> None:
    """Distill, measure, export, report.

    Args:
        out: folder of all results; that of an older demo is replaced.
        count: held-out examples to measure on.
        overrides: of the training config, section.key=value.
    """
    check_folder(out, DEMOS)
    began = time.monotonic()
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "2")  # of one operator; operators run beside each other, too
    start_tensorflow()
    import codi_tf
    from codi_tf import data
    from codi_tf.core.progress import Progress
    from codi_tf.evaluation.loading import named_metrics, truth_of
    from codi_tf.evaluation.measuring import evaluate
    from codi_tf.evaluation.samplers import keeping
    from codi_tf.evaluation.tables import legend, markdown_table
    from codi_tf.training.experiment import load_source

    chosen = [f"base={ASSETS / 'scenes-base'}", *OVERRIDES, *overrides]
    settings, finetuning = config.load(CONFIG, chosen), config.load(CONFIG, [*chosen, *FINETUNED])
    shutil.rmtree(out, ignore_errors=True)

    _say(began, "1/4  Fine-tuning, and distilling with CoDi, from scenes-base")
    _train(settings, finetuning, out)
    options = {"compute": settings.memory.compute}  # as in training: what is measured takes thousands of evaluations
    model = codi_tf.load(out / "bundle", **options)
    finetuned = codi_tf.load(out / "finetuning", **options)

    _say(began, f"2/4  Measuring on {count} held-out scenes")
    source, task, size = load_source(settings, "heldout"), model.task, settings.data.image_size
    metrics, keys = named_metrics(MEASURES, {"reader": str(ASSETS / "scenes-reader")}, size), truth_of(MEASURES)
    examples = data.evaluation_set(source, task, image_size=size, count=count, seed=SEED + 1, keys=keys)
    made: dict[str, np.ndarray] = {}
    samplers = keeping(_samplers(finetuned, model, examples), made)
    rows = evaluate(
        samplers,
        examples["image"],
        examples["condition"],
        model.base,
        metrics,
        report=Progress("measuring", len(samplers)).update,
        truth={key: examples[key] for key in keys},
    )
    shown = {key: (examples[key][:SHOWN, ..., :3] + 1) / 2 for key in ("condition", "image")}
    columns = {"condition": shown["condition"]}
    compared = [row + end for end in ("", CAPTIONED) for row in COMPARED]
    columns |= {name: (made[name][:SHOWN] + 1) / 2 for name in compared}
    columns["original"] = shown["image"]
    write_png(out / "grid.png", _grid(columns, [name.replace(CAPTIONED, "\nwith caption") for name in columns]))
    write_png(out / "unlabeled.png", _grid(columns, [""] * len(columns)))
    shipped = _of_shipped()
    if shipped is not None:
        write_png(out / "shipped.png", shipped)

    _say(began, "3/4  Exporting to SavedModel, ONNX and TFLite, and running each in its runtime")
    from export.build import make_package

    parity = {name: make_package(out / "bundle", out / "exports" / name, format=name, steps=4)[0] for name in FORMATS}
    write_png(out / "exported.png", _exported(codi_tf.load(out / "bundle"), out / "exports", examples))

    _say(began, "4/4  Reporting")
    x, c = (model.base.encode(examples[key][:64]) for key in ("image", "condition"))
    facts = {
        "seconds": round(time.monotonic() - began),
        "peak_memory_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        "mu": [round(float(value), 4) for value in model.student.adapter.mu.numpy()],
        "condition_use": float(model.condition_use(x, c)),
        "rows": rows,
        "parity": parity,
        "settings": settings.as_dict(),
        "count": count,
        "seed": SEED,
    }
    (out / "metrics.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    checks = _checks(facts)
    tables = f"{markdown_table(rows)}\n{legend(rows)}\n"
    (out / "report.md").write_text(_report(facts, tables, checks, shipped=shipped is not None), "utf-8")
    mark(out, DEMOS)
    print(f"\n{markdown_table(rows)}", *checks, sep="\n")
    print(f"\nImages: {out / 'grid.png'} and {out / 'exported.png'}; report: {out / 'report.md'}")


def _train(settings: config.Experiment, finetuning: config.Experiment, out: Path) -> None:
    """Distill into bundle/ and fine-tune in finetuning/, on the same encoded examples."""
    from codi_tf.cli.cache import encode
    from codi_tf.cli.train import train

    encode(settings, out / "latents", examples=settings.data.encode_once)
    cached = dataclasses.replace(settings.data, source=str(out / "latents"))
    train(dataclasses.replace(finetuning, data=cached), out / "finetuning")
    shutil.copytree(train(dataclasses.replace(settings, data=cached), out / "training"), out / "bundle")


def _samplers(finetuned, model, examples: dict[str, np.ndarray]) -> dict:
    """The rows of the table."""
    from codi_tf.evaluation.grids import name_of_steps
    from codi_tf.evaluation.samplers import model_sampler

    models, prompts = {"fine-tuned": finetuned, "CoDi": model}, list(examples["prompt"])
    rows = [("fine-tuned", 4), ("fine-tuned", 50), ("CoDi", 1), ("CoDi", 2), ("CoDi", 4)]
    named = {f"{name}, {name_of_steps(steps)}": (models[name], steps) for name, steps in rows}
    samplers = {row: model_sampler(of, steps, SEED) for row, (of, steps) in named.items()}
    return samplers | {row + CAPTIONED: model_sampler(*named[row], SEED, prompt=prompts) for row in COMPARED}


def _say(began: float, text: str) -> None:
    seconds = round(time.monotonic() - began)
    print(f"\n[{seconds // 60}:{seconds % 60:02}] {text}", flush=True)


def _grid(columns: dict[str, np.ndarray], titles: list[str]) -> np.ndarray:
    rows = [list(row) for row in zip(*columns.values(), strict=True)]
    return grid(rows, titles, zoom=max(1, 128 // rows[0][0].shape[0]))


def _of_shipped() -> np.ndarray | None:
    """Images of the bundles that come with codi_tf, for held-out examples; None where there is no bundle."""
    import codi_tf
    from codi_tf import data
    from codi_tf.evaluation.samplers import model_sampler

    rows, labels = [], []
    for path in sorted(ASSETS.glob("scenes-*/codi.json")):
        model = codi_tf.load(path.parent)
        source = data.load_source("scenes", "heldout", model.task)
        examples = data.evaluation_set(source, model.task, image_size=model.image_size, count=OF_BUNDLE, seed=SEED + 1)
        prompted = model.task.prompted or model.settings.drop_prompt > 0  # trained with captions
        prompts = list(examples["prompt"]) if prompted else None
        made, _ = model_sampler(model, model.steps_for(None), SEED, prompt=prompts)(examples["condition"])
        for i in range(OF_BUNDLE):
            rows.append([(one[i][..., :3] + 1) / 2 for one in (examples["condition"], made, examples["image"])])
            labels.append(path.parent.name if prompts is None else f"{path.parent.name}: {prompts[i]}")
    return grid(rows, ["condition", "made", "original"], row_labels=labels) if rows else None


def _exported(model, exports: Path, examples: dict[str, np.ndarray]) -> np.ndarray:
    """The same images from Keras and from every runtime, and their differences times 50."""
    from export.package.manifest import read_package
    from export.runtime.sampler import load_any

    conditions = (examples["condition"][:SHOWN] + 1) / 2
    runtimes = {label: load_any(read_package(exports / name)) for name, label in FORMATS.items()}
    rows = []
    for condition in conditions:
        noise = gaussian_noise(SEED, model.latent_shape(1, *condition.shape[:2]))
        keras_image = (model.generate_step(2 * condition[None] - 1, noise, 4).numpy()[0] + 1) / 2
        row = [condition, keras_image]
        for runtime in runtimes.values():
            image = runtime(condition[None], noise)[0]
            row += [image, np.clip(50 * np.abs(image - keras_image), 0, 1)]
        rows.append([to_uint8(np.clip(image, 0, 1)) for image in row])
    titles = ["condition", "Keras"]
    for label in runtimes:
        titles += [label, "difference x 50"]
    return grid(rows, titles, zoom=max(1, 128 // conditions.shape[1]))


def _checks(facts: dict) -> list[str]:
    """The claims of the demo, checked with the figures of this run."""
    use = facts["condition_use"]
    lines = [claim.line(facts["rows"]) for claim in CLAIMS]
    claims = [
        (f"mu has moved from 0: mean |mu| is {np.mean(np.abs(facts['mu'])):.3f}", np.abs(facts["mu"]).max() > 0.01),
        (f"the condition is used: swapping conditions moves the output by {use:.2f} of its size", use > 0.05),
    ]
    claims += [
        (f"{FORMATS[name]} makes the same image: largest error {p['max_error']:.1e}", p["max_error"] <= 1e-3)
        for name, p in facts["parity"].items()
    ]
    return [*lines, *(f"{'yes' if holds else 'NO '}  {text}" for text, holds in claims)]


def _report(facts: dict, tables: str, checks: list[str], *, shipped: bool) -> str:
    models = "\nThe models that come with codi_tf, on held-out examples:\n\n![Shipped models](shipped.png)\n"
    return f"""# CoDi on scenes

{facts["count"]} held-out examples. Made by `make demo` in {facts["seconds"]} s with a peak memory of
{facts["peak_memory_gb"]} GB.

![Condition, models and original](grid.png)

The same without labels: [unlabeled.png](unlabeled.png).

{tables}
{chr(10).join(f"- {line}" for line in checks)}
{models if shipped else ""}
The exported 4-step model in its runtimes, with the same condition and noise:

![Keras and the exported models](exported.png)
"""


def _main(arguments: list[str]) -> None:
    parser = ArgumentParser(prog="python demo.py", description=__doc__)
    parser.add_argument("--out", type=path_argument, default=Path("runs/demo"))
    parser.add_argument(
        "--count",
        type=integer(SHOWN, 100_000),
        default=COUNT,
        help=f"scenes to measure on (default: {COUNT})",
    )
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="values in place of the config's")
    options = parser.parse_intermixed_args(arguments)
    demo(options.out, count=options.count, overrides=options.overrides)


if __name__ == "__main__":
    sys.exit(run_command(_main))
