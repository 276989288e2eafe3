"""python -m codi_tf.evaluate BUNDLE [BUNDLE ...] [--steps 1,2,4] [--data photos|FOLDER] [--count 256] --out report/

Measures bundles on the same held-out crops with the same noise. The report is metrics.json, report.md (one table) and
grid.png. Its Frechet distance is FD-photos: through a small network trained on the embedded photos, not FID.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from codi_tf import metrics
from codi_tf.cli import ArgumentParser, run_command, start_tensorflow
from codi_tf.errors import UserError
from codi_tf.files import whole_folder
from codi_tf.images import grid, write_png
from codi_tf.noise import gaussian_noise

Sampler = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]  # conditions -> (images, clean latents)

BATCH = 32
PICTURES = 6  # rows of the grid
FILES = ("metrics.json", "report.md", "grid.png")
COLUMNS = {  # key of a row -> (title in the table, format)
    "psnr": ("PSNR, dB", "{:.2f}"),
    "ssim": ("SSIM", "{:.3f}"),
    "frechet_photos": ("FD-photos", "{:.3g}"),
    "frechet_photos_interval": ("90 % interval", "{0[0]:.3g} to {0[1]:.3g}"),
    "sharpness": ("sharpness", "{:.2f}"),
    "latent_error": ("latent error", "{:.4f}"),
}
NOTES = """\
PSNR, SSIM: to the originals, means over the pictures. FD-photos: Frechet distance to the autoencoder's reconstructions
of the originals, in the features of a small network that tells the embedded photos apart (not FID: compare within
this table only), with a bootstrap interval over the pictures. Sharpness: gradient energy, 1 is the originals'. Latent
error: mean squared error to the originals' latents. "autoencoder" is about the best that these latents allow.
"""


def evaluate(
    samplers: dict[str, Sampler],
    images: np.ndarray,
    conditions: np.ndarray,
    base,
    features: Callable,
    *,
    report: Callable[[int], None] | None = None,
) -> dict[str, dict]:
    """Measure samplers, and beside them "bicubic" (the condition itself), "autoencoder" (the ceiling) and "original".

    Args:
        samplers: name -> function from conditions [N, H, W, 3] in [-1, 1] to (images of the same shape and range,
            clean latents [N, h, w, 4]).
        images: the originals, float32 [N, H, W, 3] in [-1, 1], N at least 2.
        conditions: the same.
        base: the `Base` whose autoencoder made the latents.
        features: images [B, H, W, 3] in [-1, 1] -> [B, D], see `features.FeatureNetwork.features`.
        report: called with the number of samplers done.

    Returns:
        name -> {"psnr" (None where the pictures are the originals), "ssim", "frechet_photos",
        "frechet_photos_interval" (low, high), "sharpness", "latent_error"}, means over the pictures. The Frechet
        distance is to the autoencoder's reconstructions of the originals: to the originals themselves it would reward
        over-sharpening. Sharpness is the ratio of the gradient energy to the originals'.

    Raises:
        UserError: a sampler's pictures are not finite, or pictures too small for SSIM.
    """
    import tensorflow as tf

    encode, decode, features = (_in_batches(tf.function(f)) for f in (base.encode, base.decode, features))
    x = encode(images)  # [N, h, w, 4]
    reconstructions = np.clip(decode(x), -1, 1)
    reference, originals = features(reconstructions), _unit(images)
    energy = metrics.sharpness(originals).mean()

    def row(pictures: np.ndarray, latents: np.ndarray) -> dict:
        shown, seen = _unit(pictures), features(pictures)
        psnr = float(metrics.psnr(shown, originals).mean())
        return {
            "psnr": psnr if math.isfinite(psnr) else None,
            "ssim": float(metrics.ssim(shown, originals).mean()),
            "frechet_photos": metrics.frechet_distance(seen, reference),
            "frechet_photos_interval": metrics.frechet_interval(seen, reference),
            "sharpness": float(metrics.sharpness(shown).mean() / energy),
            "latent_error": float(np.mean(np.square(latents - x))),
        }

    rows = {"bicubic": row(conditions, encode(conditions))}
    for done, (name, sampler) in enumerate(samplers.items(), start=1):
        pictures, latents = sampler(conditions)
        if not np.isfinite(pictures).all():
            raise UserError(f"{name}: made pictures that are not finite; its training diverged, train it again")
        rows[name] = row(pictures, latents)
        if report is not None:
            report(done)
    return rows | {"autoencoder": row(reconstructions, x), "original": row(images, x)}


def model_sampler(model, steps: int, seed: int = 0) -> Sampler:
    """A sampler of `evaluate` from a `CoDi` model: `steps` network evaluations, the noise drawn for the whole set.

    Raises:
        UserError: more steps than the model has training times.
    """
    longest = model.base.schedule.num_steps
    if not 1 <= steps <= longest:
        raise UserError(f"--steps has {steps}: it must be from 1 to {longest}")

    def generate(condition, noise):
        latents = model.generator.latents(condition, noise, model.base.context, steps=steps)
        return model.generator.decode(latents), latents

    generate = _in_batches(generate)

    def sampler(conditions):
        noise = gaussian_noise(seed, model.latent_shape(*conditions.shape[:3]))
        images, latents = generate(conditions, noise)
        return np.clip(images, -1, 1), latents

    return sampler


def _in_batches(function: Callable) -> Callable:
    """A function of batches as one of whole NumPy sets; all batches have one size, so a compiled one compiles once."""
    import tensorflow as tf

    def whole(*arrays):
        count, parts = len(arrays[0]), []
        for start in range(0, count, BATCH):
            rows = np.minimum(np.arange(start, start + BATCH), count - 1)  # the last batch repeats the last picture
            parts.append(tf.nest.map_structure(np.asarray, function(*(tf.constant(array[rows]) for array in arrays))))
        return tf.nest.map_structure(lambda *batches: np.concatenate(batches)[:count], *parts)

    return whole


def _unit(images: np.ndarray) -> np.ndarray:
    return (np.asarray(images) + 1) / 2


def _load_models(paths: Sequence[Path]) -> dict:
    """label -> model of bundles that can be compared: with one task, image size and autoencoder."""
    from codi_tf.model import load
    from codi_tf.weights import state_dict

    models = dict(zip(_labels(paths), (load(path) for path in paths), strict=True))
    (first_path, first), *others = zip(paths, models.values(), strict=True)
    weights = state_dict(first.base.vae)
    for path, model in others:
        for name in ("task", "image_size"):
            if getattr(model, name) != getattr(first, name):
                raise UserError(f"{path} and {first_path} differ in their {name}: evaluate them one by one")
        theirs = state_dict(model.base.vae)
        if theirs.keys() != weights.keys() or not all(np.array_equal(theirs[key], weights[key]) for key in weights):
            raise UserError(f"{path} and {first_path} differ in their autoencoder: evaluate them one by one")
    return models


def _labels(paths: Sequence[Path]) -> list[str]:
    """Short names: runs/NAME/result is NAME; the whole paths where these names are not unique."""
    names = [path.parent.name if path.name == "result" else path.name for path in map(Path.resolve, paths)]
    return names if len(set(names)) == len(names) else [str(path) for path in paths]


def _load_network(folder: Path | None, image_size: int):
    """The feature network of a folder. Where there is none yet, one is trained, and kept there."""
    from codi_tf.data import load_photos
    from codi_tf.features import TRAINING_STEPS, load_features, save_features, train_feature_network
    from codi_tf.progress import Progress

    if folder is not None and folder.exists():
        return load_features(folder)
    progress = Progress("training the feature network", TRAINING_STEPS)
    network = train_feature_network(load_photos("train"), image_size=image_size, report=progress.update)
    if folder is not None:
        save_features(network, folder)
    return network


def markdown_table(rows: dict[str, dict]) -> str:
    """The rows that `evaluate` returns as a Markdown table."""
    titles = ["", *(title for title, _ in COLUMNS.values())]
    lines = [titles, ["---", *("---:" for _ in COLUMNS)]]
    for name, row in rows.items():
        lines.append([name, *("-" if row[k] is None else text.format(row[k]) for k, (_, text) in COLUMNS.items())])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _picture(samplers: dict[str, Sampler], images: np.ndarray, conditions: np.ndarray) -> np.ndarray:
    """A grid of the first pictures. Fewer pictures get the same noise: it is drawn in their order."""
    columns = {"condition": conditions, **{name: sampler(conditions)[0] for name, sampler in samplers.items()}}
    columns = {name: _unit(column) for name, column in (columns | {"original": images}).items()}
    rows = [list(row) for row in zip(*columns.values(), strict=True)]
    return grid(rows, list(columns), zoom=max(1, 128 // images.shape[1]))


def _steps(text: str) -> list[int]:
    try:
        steps = [int(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"--steps is {text!r}: write whole numbers with commas between them, as 1,2,4") from None
    if min(steps) < 1 or len(set(steps)) < len(steps):
        raise UserError(f"--steps is {text!r}: the numbers must be at least 1 and differ")
    return steps


def _check(options: argparse.Namespace) -> None:
    if options.count < 2:
        raise UserError(f"--count is {options.count}: it must be at least 2")
    if not 0 <= options.seed < 2**63:
        raise UserError(f"--seed is {options.seed}: it must be between 0 and 2**63 - 1")
    for path in options.bundles:
        if not (path / "codi.json").is_file():
            raise UserError(f"{path}: no such bundle; train one or name another")
    if len({path.resolve() for path in options.bundles}) < len(options.bundles):
        raise UserError("a bundle is named twice; name each once")
    if options.out.is_dir() and {path.name for path in options.out.iterdir()} - set(FILES):
        raise UserError(f"--out is {options.out}: holds other files than a report; choose another place")
    if options.out.exists() and not options.out.is_dir():
        raise UserError(f"--out is {options.out}: that is a file; name a folder")


def _report(options: argparse.Namespace, steps: list[int], folder: Path) -> None:
    start_tensorflow()
    from codi_tf import config, data
    from codi_tf.experiment import load_images
    from codi_tf.progress import Progress
    from codi_tf.weights import folder_sha256

    models = _load_models(options.bundles)
    model = next(iter(models.values()))
    samplers = {
        f"{label}, {count} step{'s' if count > 1 else ''}": model_sampler(one, count, options.seed)
        for label, one in models.items()
        for count in steps
    }
    photos = load_images(config.Data(source=options.data), "heldout")
    shared = {"image_size": model.image_size, "count": options.count, "seed": options.seed}
    examples = data.evaluation_set(photos, model.task, **shared)
    images, conditions = examples["image"], examples["condition"]
    network = _load_network(options.features, model.image_size)
    progress = Progress("measuring", len(samplers))
    rows = evaluate(samplers, images, conditions, model.base, network.features, report=progress.update)
    settings = {
        "bundles": {
            label: {"path": str(path), "sha256": folder_sha256(path)}
            for label, path in zip(models, options.bundles, strict=True)
        },
        "data": options.data,
        "photos": list(photos),
        **shared,
        "features": None if options.features is None else str(options.features),
    }
    (folder / "metrics.json").write_text(json.dumps({"settings": settings, "rows": rows}, indent=2) + "\n", "utf-8")
    said = f"{options.count} crops of {model.image_size} pixels from {len(photos)} held-out images of {options.data}"
    (folder / "report.md").write_text(f"{said}, seed {options.seed}.\n\n{markdown_table(rows)}\n{NOTES}", "utf-8")
    write_png(folder / "grid.png", _picture(samplers, images[:PICTURES], conditions[:PICTURES]))


def _main(arguments: list[str]) -> None:
    parser = ArgumentParser(prog="python -m codi_tf.evaluate", description="Measure and compare bundles.")
    parser.add_argument("bundles", type=Path, nargs="+", metavar="BUNDLE", help="folder of a trained model")
    parser.add_argument("--steps", default="1,2,4", help="network evaluations (default: 1,2,4)")
    parser.add_argument("--data", default="photos", help="photos (default), or a folder: its held-out images are used")
    parser.add_argument("--count", type=int, default=256, help="crops (default: 256)")
    parser.add_argument("--seed", type=int, default=0, help="of crops, degradations and noise (default: 0)")
    parser.add_argument("--features", type=Path, help="folder of the feature network; made there if it is missing")
    parser.add_argument("--out", type=Path, required=True, help="folder of the report")
    options = parser.parse_args(arguments)
    steps = _steps(options.steps)
    _check(options)
    with contextlib.ExitStack() as stack:
        try:
            folder = stack.enter_context(whole_folder(options.out))
        except OSError as error:
            raise UserError(f"--out is {options.out}: {error.strerror}; choose another place") from None
        _report(options, steps, folder)
        table = (folder / "report.md").read_text("utf-8")
    print(f"{table}\n{options.out}")


if __name__ == "__main__":
    sys.exit(run_command(_main))
