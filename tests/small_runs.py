"""Runs of `codi train` on a tiny model, for tests: their settings, and how one ends before its time."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny import tiny_base, tiny_photos

from codi_tf import config
from codi_tf.checkpoints.folder import save_base
from codi_tf.cli.train import train
from codi_tf.training import monitor


def make_start(folder: Path) -> Path:
    """The folder of a base, with photos beside it, below `folder`."""
    (folder / "base").mkdir()
    save_base(tiny_base(), folder / "base")
    tiny_photos(folder / "photos")
    return folder / "base"


TRAIN = {
    "steps": 3,
    "batch_size": 2,
    "warmup_steps": 0,
    "learning_rate": 1e-3,
    "ema_decay": 0.5,
    "log_every": 1,
    "save_every": 1,
    "weight_decay": 0.01,
}


def experiment(start, **changes) -> config.Experiment:
    values = {
        "method": {"name": "codi", "delta": 5},
        "base": str(start),
        "task": {"name": "super_resolution"},
        "data": {"image_size": 16, "source": str(start.with_name("photos"))},
        "train": dict(TRAIN),
    }
    for path, value in changes.items():
        section, _, key = path.partition("__")
        if key:
            values[section][key] = value
        else:
            values[section] = value
    return config.from_dict(values)


FINISHED = {
    "train": {**TRAIN, "steps": 1, "sample_every": 1},
    "task": {"name": "super_resolution", "scale": 2},
}


class Crash(BaseException):
    """The end of a process, as far as one can be had here."""


def crash(monkeypatch, run: config.Experiment, out: Path, step: int):
    """A run that ends at a step, before its state is saved."""

    class Crashing(monitor.Monitor):
        def step(self, current, count, sums):
            super().step(current, count, sums)
            if current == step:
                raise Crash

    with monkeypatch.context() as patch, pytest.raises(Crash):
        patch.setattr(monitor, "Monitor", Crashing)
        train(run, out)


MEASURED = {"peak_memory_gb", "images_per_second", "input_share", "network_share", "average_share"}  # never the same


def metrics(out):
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in MEASURED} for line in lines]
