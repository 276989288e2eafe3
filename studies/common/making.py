"""Training a piece and encoding its examples: what can be stopped and started again."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

from codi_tf import config
from codi_tf.cli.cache import encode
from codi_tf.cli.train import train
from codi_tf.data.cached import is_cache, read_meta, shard_paths
from codi_tf.io.locks import Locked
from codi_tf.trainers.trainer import Trainer
from codi_tf.training.experiment import save_result
from codi_tf.training.folder import STATES
from studies.common.pieces import Piece
from studies.common.results import read_json, write_json
from studies.common.training import forget, shared_training

PAUSE = 5  # seconds until a process looks again, while another one encodes


def train_piece(piece: Piece, experiment: config.Experiment, settings: Any) -> None:
    """Train a piece, or go on with its training.

    Its state file counts the CPU seconds of all parts. A training of other settings, or one whose result is gone, is
    begun anew.

    Raises:
        Interrupted: Ctrl-C, SIGTERM or SIGHUP during the training, whose state is saved; the next call goes on with it.
    """
    state = read_json(piece.state)
    if state is None or state["settings"] != settings or state["trained"]:
        shutil.rmtree(piece.run, ignore_errors=True)
        state = {"settings": settings, "trained": False, "cpu_seconds": 0.0}
    print(piece.title, flush=True)
    forget()
    began = time.process_time()
    try:
        train(experiment, piece.run)
        state["trained"] = True
    finally:
        state["cpu_seconds"] += time.process_time() - began
        write_json(piece.state, state)
    shutil.rmtree(piece.run / STATES)


def train_seed(piece: Piece, experiment: config.Experiment, settings: Any) -> Trainer:
    """Train a piece in one go, see `training`. Returns the trainer, which the next call changes."""
    print(piece.title, flush=True)
    shutil.rmtree(piece.run, ignore_errors=True)
    piece.run.mkdir(parents=True)
    began = time.process_time()
    trainer = shared_training(str(piece.lock), experiment).train(experiment)
    save_result(experiment, trainer, piece.result, {"steps": experiment.train.steps, "config": experiment.as_dict()})
    seconds = time.process_time() - began
    write_json(piece.state, {"settings": settings, "trained": True, "cpu_seconds": seconds})
    return trainer


def encode_examples(experiment: config.Experiment, folder: Path, examples: int) -> None:
    """Encode examples, if that is not done; one process at a time does it, and others wait."""
    while not (is_cache(folder) and all(path.is_file() for path in shard_paths(folder, read_meta(folder)))):
        try:
            encode(experiment, folder, examples=examples)
        except Locked:
            time.sleep(PAUSE)


def commit() -> str:
    """The subject of the commit that made the figures, and whether the code had changed since."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], capture_output=True, text=True, check=True).stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!docs", ":!studies/results")
    return git("log", "-1", "--format=%s") + (" (with changes)" if changed else "")
