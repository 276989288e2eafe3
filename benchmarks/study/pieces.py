"""One piece of the study: a row of a task, trained and measured with every seed, each result a file of its own.

What is trained lies below runs/study/, what is measured below docs/study/. A piece that is there is not made again.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import tensorflow as tf

from benchmarks.study.plan import BY_NAME, Row
from codi_tf import config, data
from codi_tf.convert.checkpoint import load_stable_diffusion
from codi_tf.experiment import build_trainer, save_result
from codi_tf.features import load_features
from codi_tf.latents import encode_once, latent_batches
from codi_tf.methods.networks import seen
from codi_tf.progress import Progress
from codi_tf.reporting.measuring import Yardstick
from codi_tf.reporting.samplers import model_sampler
from codi_tf.tasks import make_task

BASE = "assets/photos-base"
RUNS, METRICS = Path("runs/study"), Path("docs/study")
EXAMPLES = 8000  # encoded once for each task
BATCH = 24
CROPS = {"image_size": 64, "seed": 0, "recolour": True}
COUNT = 384  # crops that are measured
PICTURES = 12  # that are kept
VALIDATION = "coffee"  # the held-out photo that settings are chosen on; the others are the test
SEEDS_OF_CROPS = {"test": 1, "validation": 2}


def experiment_of(row: Row, task: str, seed: int) -> config.Experiment:
    """The config of a row, as `python -m codi_tf.train` would take it."""
    train = {"steps": row.updates, "batch_size": BATCH, "learning_rate": row.rate, "warmup_steps": 50, "seed": seed}
    values = {
        "method": row.method,
        "train": {**train, **row.train},
        "data": {"image_size": 64, "recolour": True, "encode_once": EXAMPLES},
        "adaptation": dict(row.adaptation),
        "base": BASE if row.parent is None else str(result_of(BY_NAME[row.parent], task, seed)),
        "task": None if row.on_base else {"name": task},
    }
    return config.from_dict(values)


def result_of(row: Row, task: str, seed: int) -> Path:
    """Where a trained row lies."""
    return RUNS / ("base" if row.on_base else task) / f"{row.name}-seed{seed}"


def metrics_of(row: Row, task: str, seed: int) -> Path:
    """Where its figures lie."""
    return METRICS / ("base" if row.on_base else task) / f"{row.name}-seed{seed}.json"


def values_of(row: Row, task: str, seed: int) -> Path:
    """Where the values and features of its pictures lie."""
    path = result_of(row, task, seed)
    return path.with_name(f"{path.name}.npz")


def chain_of(row: Row, task: str, seed: int) -> list[dict]:
    """The configs of all stages of a row, as plain data, and what is measured."""
    before = [] if row.parent is None else chain_of(BY_NAME[row.parent], task, seed)
    experiment = experiment_of(row, task, seed).as_dict()
    return json.loads(json.dumps([*before, {**experiment, "samples": row.samples}]))


def is_done(row: Row, task: str, seed: int) -> bool:
    """Whether a row has been trained and measured, with these settings."""
    path = metrics_of(row, task, seed)
    if not path.is_file() or not result_of(row, task, seed).is_dir():
        return False
    return json.loads(path.read_text("utf-8")).get("stages") == chain_of(row, task, seed)


@contextmanager
def claimed(row: Row, task: str) -> Iterator[bool]:
    """Whether this process may work on a row, alone; the lock of a process that is gone is taken over."""
    path = RUNS / f"{task}-{row.name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        if not Path(f"/proc/{path.read_text()}").exists():
            path.unlink()
    except FileNotFoundError:
        pass
    try:
        file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    except FileExistsError:
        yield False
        return
    os.write(file, str(os.getpid()).encode())
    os.close(file)
    try:
        yield True
    finally:
        path.unlink()


def make(row: Row, task: str, seeds: tuple[int, ...], *, split: str = "test") -> None:
    """Train and measure a row with every seed that is not there yet: traced once, then started again and again."""
    seeds = tuple(seed for seed in seeds if not is_done(row, task, seed))
    trainer = train_step = None
    for seed in seeds:
        experiment = experiment_of(row, task, seed)
        fresh = build_trainer(experiment)
        batches = latent_batches(_latents(task, row, fresh), batch_size=BATCH, seed=seed)
        if trainer is None:
            trainer, draws = fresh, tf.Variable(seed)
            trainer.seed = draws
            traced = tf.function(trainer.train_step, autograph=False)
            train_step = traced.get_concrete_function(batches.element_spec)
        else:
            for variable, value in zip(_variables(trainer), _variables(fresh), strict=True):
                variable.assign(value)
            draws.assign(seed)
        trainer.seed = seed
        progress, began = Progress(f"{task}: {row.title}, seed {seed}", row.updates), time.process_time()
        for step, batch in enumerate(batches.take(row.updates), start=1):
            logs = train_step(batch)
            if step % 50 == 0 or step == row.updates:
                progress.update(step, f"loss {float(logs['loss']):.4f}")
        seconds = time.process_time() - began
        shutil.rmtree(result_of(row, task, seed), ignore_errors=True)  # of other settings
        result_of(row, task, seed).parent.mkdir(parents=True, exist_ok=True)
        save_result(experiment, trainer, result_of(row, task, seed), {"study": row.name, "seed": seed})
        figures = _measure(row, task, seed, trainer, split) if row.samples else {}
        about = {
            "row": row.name,
            "task": task,
            "seed": seed,
            "split": split,
            "commit": _commit(),
            "stages": chain_of(row, task, seed),
            "cpu_seconds": round(seconds),
            "loss": float(logs["loss"]),
            "samples": figures,
        }
        path = metrics_of(row, task, seed)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(about, indent=1) + "\n", "utf-8")


def _variables(trainer) -> list:
    frozen = getattr(trainer.method, "frozen", None)
    return [*trainer.variables, *trainer.optimizer.variables, *([] if frozen is None else frozen.variables)]


def _latents(task: str, row: Row, trainer) -> dict[str, np.ndarray]:
    """The training examples of a task, encoded, from a file that is made where it is missing."""
    base, student = trainer.method.base, trainer.student
    path = RUNS / f"latents-{task}-{student.sees}.npz"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        photos, count = data.load_photos("train"), EXAMPLES
        batches = data.batches(photos, None if row.on_base else make_task(task), batch_size=32, **CROPS)
        progress = Progress(f"encoding examples ({task})", count)
        latents = encode_once(base, batches, count, progress.update, see=functools.partial(seen, base, student))
        partial = path.with_suffix(f".{os.getpid()}.npz")
        np.savez(partial, **latents)
        partial.replace(path)
    with np.load(path) as file:
        return dict(file)


@functools.cache
def yardstick(task: str, split: str) -> Yardstick:
    """The held-out crops that a task is measured on: those of the validation photo, or of the others."""
    photos = {name: p for name, p in data.load_photos("heldout").items() if (name == VALIDATION) == (split != "test")}
    examples = data.evaluation_set(photos, make_task(task), image_size=64, count=COUNT, seed=SEEDS_OF_CROPS[split])
    features = load_features(Path(BASE) / "features").features
    return Yardstick(
        examples["image"],
        examples["condition"],
        load_stable_diffusion(BASE),
        features,
        finish=make_task(task).finish,
    )


def _measure(row: Row, task: str, seed: int, model, split: str) -> dict[str, dict]:
    """Sample -> figures; the features and the values of every picture go to a file beside the trained row."""
    stick, figures, kept = yardstick(task, split), {}, {}
    for sampler, steps, guidance in row.samples:
        pictures, latents = model_sampler(model, steps, sampler=sampler, guidance=guidance)(stick.conditions)
        measured, name = stick.measure(pictures, latents), sample_name(sampler, steps, guidance)
        figures[name] = measured.row()
        kept[f"{name}/features"] = measured.features["frechet_photos"].astype(np.float32)
        kept |= {f"{name}/{key}": values.astype(np.float32) for key, values in measured.values.items()}
        kept[f"{name}/pictures"] = pictures[:PICTURES].astype(np.float16)
    np.savez(values_of(row, task, seed), **kept)
    return figures


def sample_name(sampler: str, steps: int, guidance: float | None) -> str:
    """ddim-4, or ddim-4-guidance-1.5."""
    return f"{sampler}-{steps}" + ("" if guidance is None else f"-guidance-{guidance}")


def _commit() -> str:
    def git(*arguments):
        return subprocess.run(["git", *arguments], capture_output=True, text=True, check=True).stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no")
    return git("log", "-1", "--format=%s") + (" (with changes)" if changed else "")
