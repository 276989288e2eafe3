"""Training state on disk: everything that a resumed run needs to go on as if it had not stopped."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from codi_tf.errors import UserError
from codi_tf.trainer import Trainer

_NAME = re.compile(r"step-(\d{8})\.safetensors")


def save_state(trainer: Trainer, folder: Path, step: int, *, keep: int) -> Path:
    """Write weights, moving average and optimizer state of a step, whole or not at all; keep the newest `keep`."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step-{step:08d}.safetensors"
    partial = path.with_suffix(".partial")
    try:
        save_file({key: np.asarray(variable.numpy()) for key, variable in _variables(trainer).items()}, partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    for old in sorted(_steps(folder).items())[:-keep]:
        old[1].unlink()
    return path


def restore_newest(trainer: Trainer, folder: Path) -> int:
    """Set the trainer to the newest state in a folder and return its step; 0, and nothing set, where there is none.

    Raises:
        UserError: for a truncated state or one of another experiment.
    """
    steps = _steps(folder)
    if not steps:
        return 0
    step, path = max(steps.items())
    try:
        values = load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: truncated ({error}); delete it to resume from the state before it") from None
    variables = _variables(trainer)
    if values.keys() != variables.keys() or any(values[k].shape != tuple(variables[k].shape) for k in variables):
        raise UserError(f"{path}: the state of another experiment; choose another --out, or delete {folder}")
    for key, variable in variables.items():
        variable.assign(values[key])
    return step


def _steps(folder: Path) -> dict[int, Path]:
    if not folder.is_dir():
        return {}
    return {int(match[1]): path for path in folder.iterdir() if (match := _NAME.fullmatch(path.name))}


def _variables(trainer: Trainer) -> dict:
    parts = {"weights": trainer.variables, "optimizer": trainer.optimizer.variables}
    # Positions, not paths: two layers of a model may have variables of the same path.
    return {f"{part}/{i:05d}": v for part, variables in parts.items() for i, v in enumerate(variables)}
