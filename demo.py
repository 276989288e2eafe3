"""make demo: distill an unconditional latent diffusion model into a 4-step model, measure it and export it.

Everything goes to runs/demo/: report.md, grid.png, exported.png, metrics.json, bundle/ and exports/.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import sys
import time
from pathlib import Path

import numpy as np

from codi_tf import config
from codi_tf.core.arguments import integer, path_argument
from codi_tf.core.command_line import ArgumentParser, run_command, start_tensorflow
from codi_tf.core.noise import gaussian_noise
from codi_tf.io.folders import Kind, Names, check_folder, mark
from codi_tf.io.images import grid, resize, to_uint8, write_png

ROOT = Path(__file__).parent
ASSETS = ROOT / "assets" / "photos-base"
CONFIG = ROOT / "configs" / "photos_codi.yaml"
FORMATS = {"saved_model": "TensorFlow", "onnx": "ONNX Runtime", "tflite": "LiteRT"}
SEED = 0
SHOWN = (0, 1, 2, 3, 5, 8)  # held-out crops in the images
PARTS = ("training", "bundle", "exports", "report.md", "grid.png", "exported.png", "metrics.json")


def _of_demo(folder: Path) -> Names | None:
    """The files of a demo that was stopped."""
    return (lambda name: name.split("/")[0] in PARTS) if (folder / "training" / "config.yaml").is_file() else None


DEMOS = Kind("demo", _of_demo)


def demo(out: Path, *, count: int, overrides: list[str]) -> None:
    """Distill, measure, export, report.

    Args:
        out: folder of all results; that of an older demo is replaced.
        count: held-out crops to measure on.
        overrides: of the training config, section.key=value.
    """
    check_folder(out, DEMOS)
    began = time.monotonic()
    # The networks are tiny: running two operators in parallel is faster than splitting each over two cores.
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
    start_tensorflow()
    import codi_tf
    from codi_tf import data
    from codi_tf.cli.train import train
    from codi_tf.core.progress import Progress
    from codi_tf.evaluation.features import load_features
    from codi_tf.evaluation.loading import metrics_with
    from codi_tf.evaluation.measuring import evaluate
    from codi_tf.evaluation.samplers import model_sampler
    from codi_tf.evaluation.tables import markdown_table
    from codi_tf.training import experiment

    settings = config.load(CONFIG, [f"base={ASSETS}", *overrides])
    shutil.rmtree(out, ignore_errors=True)

    _say(began, "1/4  Distilling with CoDi from the unconditional base (about 4 to 6 minutes)")
    result = train(settings, out / "training")
    shutil.copytree(result, out / "bundle")
    model = codi_tf.load(out / "bundle")
    undistilled = codi_tf.load(ASSETS / "undistilled")

    _say(began, "2/4  Measuring on held-out photos (about a minute)")
    examples = data.evaluation_set(
        experiment.load_source(settings, "heldout"),
        model.task,
        image_size=settings.data.image_size,
        count=count,
        seed=SEED + 1,
    )
    samplers = {
        "fine-tuned, 4 steps": model_sampler(undistilled, 4, SEED),
        "fine-tuned, 50 steps": model_sampler(undistilled, 50, SEED),
        "CoDi, 1 step": model_sampler(model, 1, SEED),
        "CoDi, 2 steps": model_sampler(model, 2, SEED),
        "CoDi, 4 steps": model_sampler(model, 4, SEED),
    }
    progress = Progress("measuring", len(samplers))
    metrics = metrics_with(load_features(ASSETS / "features").features)
    options = {"report": progress.update, "enlarged": model.task.has_low_resolution}
    rows = evaluate(samplers, examples["image"], examples["condition"], model.base, metrics, **options)
    write_png(out / "grid.png", _grid(samplers, examples))

    _say(began, "3/4  Exporting to SavedModel, ONNX and TFLite, and running each in its runtime (about 2 minutes)")
    from export.build import make_package

    parity = {name: make_package(out / "bundle", out / "exports" / name, format=name, steps=4)[0] for name in FORMATS}
    write_png(out / "exported.png", _exported(model, out / "exports", examples))

    _say(began, "4/4  Reporting")
    mu = model.student.adapter.mu.numpy()
    x, c = (model.base.encode(examples[key][:64]) for key in ("image", "condition"))
    facts = {
        "seconds": round(time.monotonic() - began),
        "peak_memory_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        "mu": [round(float(value), 4) for value in mu],
        "condition_use": float(model.condition_use(x, c)),
        "rows": rows,
        "parity": parity,
        "settings": settings.as_dict(),
        "count": count,
        "seed": SEED,
    }
    (out / "metrics.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    (out / "report.md").write_text(_report(facts, markdown_table(rows)), encoding="utf-8")
    mark(out, DEMOS)
    print(f"\n{markdown_table(rows)}")
    for line in _checks(facts):
        print(line)
    print(f"\nImages: {out / 'grid.png'} and {out / 'exported.png'}; report: {out / 'report.md'}")


def _say(began: float, text: str) -> None:
    seconds = round(time.monotonic() - began)
    print(f"\n[{seconds // 60}:{seconds % 60:02}] {text}", flush=True)


def _grid(samplers: dict, examples: dict[str, np.ndarray]) -> np.ndarray:
    images, conditions = (examples[key][list(SHOWN)] for key in ("image", "condition"))
    size = images.shape[1]
    small = [np.repeat(np.repeat(resize((c + 1) / 2, size // 4, size // 4), 4, 0), 4, 1) for c in conditions]
    # The noise of an image depends on its place: the images up to the last shown one are sampled together.
    everything = examples["condition"][: max(SHOWN) + 1]
    columns = {"low resolution": small, "bicubic": (conditions + 1) / 2}
    columns |= {name: (sampler(everything)[0][list(SHOWN)] + 1) / 2 for name, sampler in samplers.items()}
    columns["original"] = (images + 1) / 2
    return grid([list(row) for row in zip(*columns.values(), strict=True)], list(columns), zoom=2)


def _exported(model, exports: Path, examples: dict[str, np.ndarray]) -> np.ndarray:
    """The same images from Keras and from every runtime, and their differences times 50."""
    from export.package.manifest import read_package
    from export.runtime.sampler import load_any

    conditions = (examples["condition"][list(SHOWN)] + 1) / 2
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
    titles = ["bicubic", "Keras"]
    for label in runtimes:
        titles += [label, "difference x 50"]
    return grid(rows, titles, zoom=2)


def _checks(facts: dict) -> list[str]:
    """The claims of the demo, checked with the figures of this run."""
    rows, parity = facts["rows"], facts["parity"]
    codi, one, bicubic = rows["CoDi, 4 steps"], rows["CoDi, 1 step"], rows["bicubic"]
    claims = [
        (
            f"4-step CoDi has a lower FD-photos than bicubic: {codi['frechet_photos']:.2f} against "
            f"{bicubic['frechet_photos']:.2f}",
            codi["frechet_photos"] < bicubic["frechet_photos"],
        ),
        (
            f"1-step CoDi has a lower latent error than a copy of the condition: {one['latent_error']:.4f} against "
            f"{bicubic['latent_error']:.4f}",
            one["latent_error"] < bicubic["latent_error"],
        ),
        (f"mu has moved from 0: mean |mu| is {np.mean(np.abs(facts['mu'])):.3f}", np.abs(facts["mu"]).max() > 0.01),
        (
            f"the condition is used: swapping conditions moves the output by {facts['condition_use']:.2f} of its size",
            facts["condition_use"] > 0.05,
        ),
    ]
    claims += [
        (f"{FORMATS[name]} makes the same image: largest error {p['max_error']:.1e}", p["max_error"] <= 1e-3)
        for name, p in parity.items()
    ]
    return [f"{'yes' if holds else 'NO '}  {text}" for text, holds in claims]


def _report(facts: dict, table: str) -> str:
    checks = "\n".join(f"- {line}" for line in _checks(facts))
    return f"""# CoDi on the embedded photos

{facts["count"]} crops of four held-out photos, degraded and restored. Made by `make demo` in
{facts["seconds"]} s with a peak memory of {facts["peak_memory_gb"]} GB.

![Degraded, restored, original](grid.png)

{table}
FD-photos is the Frechet distance to the autoencoder's reconstructions of the originals in the features of a small
network trained on the embedded photos. It is not FID: compare figures within this table only.

{checks}

The exported 4-step model in its runtimes, with the same condition and noise:

![Keras and the exported models](exported.png)
"""


def _main(arguments: list[str]) -> None:
    parser = ArgumentParser(prog="python demo.py", description=__doc__)
    parser.add_argument("--out", type=path_argument, default=Path("runs/demo"))
    count = integer(max(SHOWN) + 1, 100_000)
    parser.add_argument("--count", type=count, default=256, help="held-out crops to measure on")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="values in place of the config's")
    options = parser.parse_intermixed_args(arguments)
    demo(options.out, count=options.count, overrides=options.overrides)


if __name__ == "__main__":
    sys.exit(run_command(_main))
