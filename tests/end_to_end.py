"""A config from its training to an image of its export, all by the programs' own entries."""

from __future__ import annotations

import json
from pathlib import Path
from unittest import mock

import numpy as np
from PIL import Image

import codi_tf
from codi_tf import config, data
from codi_tf.cli import evaluate, sample
from codi_tf.cli.train import train
from export import __main__ as export
from export.package import manifest as package
from export.runtime import run

ROOT = Path(__file__).parents[1]
S = 64
SHORT = [f"data.image_size={S}", "train.steps=3", "train.batch_size=2", "train.warmup_steps=0"]
QUIET = ["train.sample_every=0", "train.log_every=3"]
MEASURED = ["--steps", "1", "--count", "4", "--features", str(ROOT / "assets" / "photos-base" / "features")]


def trained(name: str, folder: Path) -> Path:
    """The bundle of a config at smoke length. Its mu is raised, because three steps teach it little."""
    overrides = [*SHORT, *QUIET, "data.encode_once=0"]
    if name == "photos_guided_2":
        overrides += [f"base={trained('photos_guided_1', folder / 'first')}", "method.updates=1"]
    bundle = train(config.load(ROOT / "configs" / f"{name}.yaml", overrides), folder / "run")
    model = codi_tf.load(bundle)
    if hasattr(model.student.adapter, "mu"):
        model.student.adapter.mu.assign(np.full(model.student.adapter.mu.shape, 0.3, "float32"))
    model.save(bundle)
    return bundle


def photo() -> np.ndarray:
    """A crop of a photo that no model has seen."""
    return data.load_photos("heldout")["astronaut"][:S, 200 : 200 + S]


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path)).astype(int)


def sampled(bundle: Path, given: list[str], out: Path) -> np.ndarray:
    sample.main([str(bundle), *given, "--seed", "3", "--steps", "1", "--out", str(out)])
    return pixels(out)


def measured(bundle: Path, out: Path, *options: str) -> dict:
    """The rows of a report."""
    with mock.patch.object(evaluate, "PROCESS_STEPS", (1, 2)):
        evaluate.main([str(bundle), "--out", str(out), *MEASURED, *options])
    return json.loads((out / "metrics.json").read_text())["rows"]


def check(bundle: Path, given: list[str], folder: Path, *, baked: tuple[str, ...] = ()) -> tuple[np.ndarray, dict]:
    """Sample, evaluate, export and run a bundle: the exported image is the sampled one. It, and the report's rows.

    Args:
        given: arguments of `codi_tf.sample`; of `export.run` too, without those of `baked`.
        baked: arguments of `export`.
    """
    image = sampled(bundle, given, folder / "out.png")
    assert image.shape == (S, S, 3) and image.std() > 5
    rows = measured(bundle, folder / "report")
    assert all(np.isfinite(row["frechet_photos"]) for row in rows.values()) and len(rows) == 4
    out = folder / "package"
    export.main([str(bundle), "--format", "onnx", "--steps", "1", "--out", str(out), *baked])
    left = [word for word in given if word not in baked]
    run.main([str(out), *left, "--seed", "3", "--out", str(folder / "ran.png")])
    assert np.abs(pixels(folder / "ran.png") - image).max() <= 1
    assert package.read_package(out).task == codi_tf.load(bundle).task_config()["name"]
    return image, rows
