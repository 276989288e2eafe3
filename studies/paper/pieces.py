"""Training and measuring one row of the study for one task, with every seed; one file for each result.

Trained rows are saved below runs/study/, their figures below runs/study/metrics/. A row with figures is not trained
again, also on another machine, unless another row starts from it.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from codi_tf import config, data
from codi_tf.checkpoints.stable_diffusion import load_stable_diffusion
from codi_tf.core.errors import UserError
from codi_tf.core.progress import Progress
from codi_tf.core.signals import stop_noted
from codi_tf.data.precompute import encode_once, latent_batches
from codi_tf.evaluation.features import load_features
from codi_tf.evaluation.loading import metrics_with
from codi_tf.evaluation.measuring import Evaluator
from codi_tf.evaluation.samplers import model_sampler
from codi_tf.io.files import whole_file
from codi_tf.io.locks import Locked, only_one
from codi_tf.methods.networks import encode_condition
from codi_tf.tasks import make_task
from codi_tf.training.experiment import build_trainer, save_result
from codi_tf.training.states import restore_newest, state_values, write_state
from studies.paper.measures import figures_of
from studies.paper.plan import BATCH, BY_NAME, Row
from studies.paper.strips import write_strip

BASE = "assets/photos-base"
RUNS, METRICS = Path("runs/study"), Path("runs/study/metrics")
SHOWN_FOLDER = Path("docs/images/study")  # tables and images that docs/results.md links
STAGES = "stages.json"  # the settings of a trained row, in its folder
EXAMPLES = 8000  # encoded once per task
CROPS = {"image_size": 64, "seed": 0, "recolor": True}
COUNT = 384  # crops that are measured
SHOWN = ("ddim-4", "ddim-50")  # samples whose first images are saved, for one seed
SHOWN_SEED = 0
VALIDATION = "coffee"  # the held-out photo that settings are chosen on; the others are the test
SEEDS_OF_CROPS = {"test": 1, "validation": 2}


def experiment_of(row: Row, task: str, seed: int) -> config.Experiment:
    """The config of a row, as `python -m codi_tf.train` would take it."""
    train = {"steps": row.updates, "batch_size": BATCH, "learning_rate": row.rate, "warmup_steps": 50, "seed": seed}
    values = {
        "method": row.method,
        "train": {**train, **row.train},
        "data": {"image_size": 64, "recolor": True, "encode_once": EXAMPLES},
        "adaptation": dict(row.adaptation),
        "base": BASE if row.parent is None else str(result_of(BY_NAME[row.parent], task, seed)),
        "task": None if row.on_base else {"name": task},
    }
    return config.from_dict(values)


def result_of(row: Row, task: str, seed: int) -> Path:
    """The folder of a trained row."""
    return RUNS / ("base" if row.on_base else task) / f"{row.name}-seed{seed}"


def state_of(row: Row, task: str, seed: int) -> Path:
    """The folder of the state of a row that was interrupted."""
    return result_of(row, task, seed).with_name(f".{row.name}-seed{seed}.state")


def metrics_of(row: Row, task: str, seed: int, metrics: Path = METRICS) -> Path:
    """The file of its figures."""
    return metrics / ("base" if row.on_base else task) / f"{row.name}-seed{seed}.json"


def strip_of(row: Row, task: str, sample: str, metrics: Path = METRICS) -> Path:
    """The file of the first images of a sample."""
    return metrics / task / "images" / f"{row.name}-{sample}.png"


def chain_of(row: Row, task: str, seed: int) -> list[dict]:
    """The configs and samples of all stages of a row, as plain data."""
    before = [] if row.parent is None else chain_of(BY_NAME[row.parent], task, seed)
    experiment = experiment_of(row, task, seed).as_dict()
    return json.loads(json.dumps([*before, {**experiment, "samples": row.samples}]))


def with_todays_defaults(stages: list[dict]) -> list[dict]:
    """Recorded stages in the form of `chain_of`, with the settings that did not exist then."""
    known = []
    for stage in stages:
        settings = {key: value for key, value in stage.items() if key != "samples"}
        known.append({**config.from_record(settings).as_dict(), "samples": stage["samples"]})
    return json.loads(json.dumps(known))


def is_trained(row: Row, task: str, seed: int) -> bool:
    """Whether a row has been trained here, with these settings."""
    stages = _read(result_of(row, task, seed) / STAGES)
    return stages is not None and with_todays_defaults(stages) == chain_of(row, task, seed)


def is_measured(row: Row, task: str, seed: int) -> bool:
    """Whether a row with these settings has been measured, here or elsewhere."""
    about = _read(metrics_of(row, task, seed))
    if about is None:
        return False
    whole = all("replicates" in figures for figures in about["samples"].values())
    return whole and with_todays_defaults(about["stages"]) == chain_of(row, task, seed)


@contextlib.contextmanager
def claimed(row: Row, task: str) -> Iterator[bool]:
    """Lock a row for this process; yield whether it has the lock."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(only_one(RUNS / f"{task}-{row.name}.lock", f"works on {row.name} of {task}"))
            mine = True
        except Locked:
            mine = False
        yield mine


def make(row: Row, task: str, seeds: tuple[int, ...], *, split: str = "test") -> None:
    """Train a row with some seeds and measure what is not measured yet. The seeds share one traced trainer.

    Raises:
        Interrupted: Ctrl-C, SIGTERM or SIGHUP during a training, whose state is saved; the next call goes on with it.
    """
    trainer = train_step = None
    for seed in seeds:
        experiment = experiment_of(row, task, seed)
        fresh = build_trainer(experiment)
        latents = _latents(task, row, fresh)
        if trainer is None:
            trainer, draws = fresh, tf.Variable(seed)
            trainer.seed = draws
            batches = latent_batches(latents, batch_size=BATCH, seed=seed)
            traced = tf.function(trainer.train_step, autograph=False)
            train_step = traced.get_concrete_function(batches.element_spec)
        else:
            for variable, value in zip(_variables(trainer), _variables(fresh), strict=True):
                variable.assign(value)
            draws.assign(seed)
        trainer.seed = seed
        stages = chain_of(row, task, seed)
        seconds, logs = _train(trainer, train_step, row, task, seed, latents, stages)
        shutil.rmtree(result_of(row, task, seed), ignore_errors=True)  # of other settings
        result_of(row, task, seed).parent.mkdir(parents=True, exist_ok=True)
        save_result(experiment, trainer, result_of(row, task, seed), {"study": row.name, "seed": seed})
        if not is_measured(row, task, seed):
            about = {
                "row": row.name,
                "task": task,
                "seed": seed,
                "split": split,
                "commit": _commit(),
                "stages": stages,
                "cpu_seconds": round(seconds),
                "loss": float(logs["loss"]),
                "samples": _measure(row, task, seed, trainer, split),
            }
            _write(metrics_of(row, task, seed), as_json(about))
        _write(result_of(row, task, seed) / STAGES, json.dumps(stages))
        shutil.rmtree(state_of(row, task, seed), ignore_errors=True)


def _train(
    trainer, train_step, row: Row, task: str, seed: int, latents: dict, stages: list[dict]
) -> tuple[float, dict]:
    """Train to the row's last update; return the seconds of the processor and the last logs.

    Raises Interrupted when a signal comes; the state is saved.
    """
    folder = state_of(row, task, seed)
    first, before = _resume(trainer, folder, stages)
    batches = latent_batches(latents, batch_size=BATCH, seed=seed, start_step=first)
    progress, began, logs = Progress(f"{task}: {row.title}, seed {seed}", row.updates), time.process_time(), {}
    with stop_noted("the state is saved after this update") as stop:
        for step, batch in enumerate(batches.take(row.updates - first), start=first + 1):
            logs = train_step(batch)
            if step % 50 == 0 or step == row.updates:
                progress.update(step, f"loss {float(logs['loss']):.4f}")
            if stop and step < row.updates:
                seconds = before + time.process_time() - began
                write_state(folder / f"step-{step:08d}.safetensors", state_values(trainer))
                _write(folder / STAGES, json.dumps({"stages": stages, "cpu_seconds": seconds}))
                raise stop.interrupted(
                    f"stopped by {{by}} at update {step} of {row.name} of {task}, seed {seed}; its state is saved: the "
                    "same command goes on"
                )
    return before + time.process_time() - began, logs


def _resume(trainer, folder: Path, stages: list[dict]) -> tuple[int, float]:
    """The update that a row was interrupted at, to which the trainer is set, and the seconds so far; else (0, 0)."""
    about = _read(folder / STAGES)
    with contextlib.suppress(UserError):  # no state that can be read
        if about is not None and about["stages"] == stages:
            return restore_newest(trainer, folder), about["cpu_seconds"]
    shutil.rmtree(folder, ignore_errors=True)
    return 0, 0.0


def _read(path: Path) -> Any:
    """The content of a JSON file that `_write` wrote; None if there is none, or a damaged one."""
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None


def _write(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    with whole_file(path) as partial:
        partial.write_text(text, "utf-8")


def as_json(about: dict) -> str:
    """Indented JSON, with lists of numbers on one line."""
    text = json.dumps(about, indent=1)
    return re.sub(r"\[[-\d.e,+\s]*\]", lambda match: re.sub(r"\s+", " ", match[0]), text) + "\n"


def _variables(trainer) -> list:
    frozen = trainer.method.frozen
    return [*trainer.variables, *trainer.optimizer.variables, *([] if frozen is None else frozen.variables)]


def _latents(task: str, row: Row, trainer) -> dict[str, np.ndarray]:
    """The encoded training examples of a task, from a file that is created if it is missing."""
    base, student = trainer.method.base, trainer.student
    path = RUNS / f"latents-{task}-{student.condition_space}.npz"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        photos, count = data.load_photos("train"), EXAMPLES
        batches = data.batches(photos, None if row.on_base else make_task(task), batch_size=32, **CROPS)
        progress = Progress(f"encoding examples ({task})", count)
        latents = encode_once(
            base, batches, count, progress.update, encode_condition=functools.partial(encode_condition, base, student)
        )
        partial = path.with_suffix(f".{os.getpid()}.npz")
        np.savez(partial, **latents)
        partial.replace(path)
    with np.load(path) as file:
        return dict(file)


def photos_of(split: str) -> dict[str, np.ndarray]:
    """The held-out photo that settings are chosen on ("validation"), or the others ("test")."""
    photos = data.load_photos("heldout")
    return {name: photo for name, photo in photos.items() if (name == VALIDATION) == (split != "test")}


@functools.cache
def evaluator(task: str, split: str) -> Evaluator:
    """The evaluator of a task on crops of the photos of a split."""
    examples = data.evaluation_set(
        photos_of(split), make_task(task), image_size=64, count=COUNT, seed=SEEDS_OF_CROPS[split]
    )
    metrics = metrics_with(load_features(Path(BASE) / "features").features)
    base = load_stable_diffusion(BASE)
    about = {"finish": make_task(task).finish, "enlarged": make_task(task).has_low_resolution}
    return Evaluator(examples["image"], examples["condition"], base, metrics, **about)


def _measure(row: Row, task: str, seed: int, model, split: str) -> dict[str, dict]:
    """Sample -> figures. Saves the first images of some samples."""
    figures = {}
    for sampler, steps, guidance in row.samples:
        originals, name = evaluator(task, split), sample_name(sampler, steps, guidance)
        images, latents = model_sampler(model, steps, sampler=sampler, guidance=guidance)(originals.conditions)
        figures[name] = figures_of(originals.measure(images, latents), images)
        if split == "test" and seed == SHOWN_SEED and name in SHOWN:
            write_strip(strip_of(row, task, name), images)
    return figures


def sample_name(sampler: str, steps: int, guidance: float | None) -> str:
    """The name of a sample: ddim-4, or ddim-4-guidance-1.5."""
    return f"{sampler}-{steps}" + ("" if guidance is None else f"-guidance-{guidance}")


def _commit() -> str:
    def git(*arguments):
        return subprocess.run(["git", *arguments], capture_output=True, text=True, check=True).stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!docs")
    return git("log", "-1", "--format=%s") + (" (with changes)" if changed else "")
