"""States: everything on disk that a run needs to resume as if it had not stopped."""

from __future__ import annotations

import os
import threading
import warnings
from pathlib import Path

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from codi_tf.core.errors import UserError
from codi_tf.core.paths import is_remote
from codi_tf.io.files import whole_file
from codi_tf.io.hashing import arrays_sha256
from codi_tf.io.plain_files import check_plain
from codi_tf.io.remote import on_this_machine
from codi_tf.trainers.trainer import Trainer
from codi_tf.training.folder import states_in

DIGEST = "sha256"  # key in a file's header: the digest of the tensors' bytes, in the order of their names


class StateWriter:
    """Writes the states of a run in the background: weights, moving average, optimizer, counters.

    A state appears whole or not at all, and older states are removed only after that. So a crash at any moment leaves
    the newest complete state.

    Args:
        trainer: the trainer whose state is saved.
        folder: the folder of the states.
        keep: the number of newest states that stay on disk.
        keep_every: the states of every `keep_every`-th update stay, too; 0 for none.
    """

    def __init__(self, trainer: Trainer, folder: Path, *, keep: int, keep_every: int = 0):
        self.trainer, self.folder, self.keep, self.keep_every = trainer, folder, keep, keep_every
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None

    def save(self, step: int) -> Path:
        """Read the state of an update, and write it while the caller continues. Waits for the previous state.

        Raises:
            UserError: the previous state could not be written.
        """
        self.wait()
        values = state_values(self.trainer)
        path = self.folder / f"step-{step:08d}.safetensors"
        self._thread = threading.Thread(target=self._write, args=(path, values), name="checkpoint")
        self._thread.start()
        return path

    def wait(self) -> None:
        """Wait until the last state is on disk. Raises UserError if it could not be written."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _write(self, path: Path, values: dict[str, np.ndarray]) -> None:
        try:
            write_state(path, values)
            self._remove_old()
        except Exception as error:  # noqa: BLE001  (raised by `wait`, in the caller's thread)
            self._error = error

    def _remove_old(self) -> None:
        steps = states_in(self.folder)
        for step in sorted(steps)[: -self.keep]:
            if not self.keep_every or step % self.keep_every:
                steps[step].unlink(missing_ok=True)


def state_values(trainer: Trainer) -> dict[str, np.ndarray]:
    """The state of a trainer as arrays; later updates leave them as they are."""
    # An assignment gives a variable a new tensor and leaves the old one as it was: no copy is needed.
    return {key: _stored(variable) for key, variable in _variables(trainer).items()}


def write_state(path: Path, values: dict[str, np.ndarray]) -> None:
    """Write named arrays with their checksum, whole or not at all, and flush them to the disk.

    Raises:
        UserError: the file cannot be written.
    """
    with whole_file(path) as partial:
        try:
            save_file(values, partial, metadata={DIGEST: _digest(values)})
        except SafetensorError as error:
            raise OSError(str(error)) from None
        _sync(partial)
    if not is_remote(path):
        _sync(path.parent)  # the file's new name


def read_state(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a state.

    Raises:
        UserError: the file is truncated, or its checksum does not match.
    """
    try:
        check_plain(path)
        with on_this_machine(path) as near:
            values = load_file(near)
            with safe_open(near, framework="numpy") as file:
                written = (file.metadata() or {}).get(DIGEST)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: truncated or damaged ({error})") from None
    if written != _digest(values):
        raise UserError(f"{path}: damaged, its checksum does not match")
    return values


def restore_newest(trainer: Trainer, folder: Path) -> int:
    """Set the trainer to the newest readable state in a folder and return its update; 0 where there is no state.

    A damaged state causes a warning, and the one before it is used. Partial files of a crash are removed.

    Raises:
        UserError: all states are damaged, or they belong to another experiment.
    """
    for left in folder.glob(".step-*") if folder.is_dir() else ():  # see `files.whole_file`
        left.unlink(missing_ok=True)
    steps = states_in(folder)
    for step in sorted(steps, reverse=True):
        try:
            values = read_state(steps[step])
        except UserError as error:
            warnings.warn(f"{error}; the state before it is used", stacklevel=2)
            continue
        _assign(trainer, values, steps[step])
        return step
    if steps:
        raise UserError(f"{folder}: none of its states can be read; delete it to start again")
    return 0


def _assign(trainer: Trainer, values: dict[str, np.ndarray], path: Path) -> None:
    variables = _variables(trainer)
    if values.keys() != variables.keys() or any(_is_other(values[k], variables[k]) for k in variables):
        raise UserError(f"{path}: the state of another experiment; choose another --out, or delete {path.parent}")
    for key, variable in variables.items():
        variable.assign(values[key].view(ml_dtypes.bfloat16) if variable.dtype == "bfloat16" else values[key])


def _stored(variable) -> np.ndarray:
    """The value of a variable; bfloat16 as its bits, because safetensors has no such NumPy arrays."""
    value = np.asarray(variable.numpy())
    return value.view(np.uint16) if variable.dtype == "bfloat16" else value


def _is_other(value: np.ndarray, variable) -> bool:
    """Whether a stored value cannot be that of a variable."""
    return value.shape != tuple(variable.shape) or (value.dtype == np.uint16) != (variable.dtype == "bfloat16")


def _digest(values: dict[str, np.ndarray]) -> str:
    return arrays_sha256(values[key] for key in sorted(values))


def _sync(path: Path) -> None:
    """Flush a file or folder to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _variables(trainer: Trainer) -> dict:
    parts = {"weights": trainer.variables, "optimizer": trainer.optimizer.variables}
    # Positions, not paths: two layers of a model may have variables of the same path.
    return {f"{part}/{i:05d}": v for part, variables in parts.items() for i, v in enumerate(variables)}
