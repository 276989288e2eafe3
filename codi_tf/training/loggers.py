"""Callbacks that log a run elsewhere: its settings, and each line of metrics.jsonl at its update.

A resumed run goes on in the record of before: its number is in the run's folder.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator

import keras

from codi_tf.core.errors import UserError, first_line
from codi_tf.core.paths import as_path, is_remote
from codi_tf.io.files import flat


class Wandb(keras.callbacks.Callback):
    """Logs to Weights & Biases. Where and how follows from its environment variables, as WANDB_PROJECT, WANDB_MODE."""

    def on_train_begin(self, logs=None):
        """Begin the record, or go on with it. Raises UserError if that fails, as without an account."""
        import wandb  # pyright: ignore[reportMissingImports]

        folder, record = as_path(self.params["folder"]), Record(self.params["folder"], "wandb")
        with _told("wandb", wandb.errors.Error):
            how = {"name": folder.name, "config": self.params["config"]}
            how |= {} if is_remote(folder) else {"dir": str(folder)}  # it writes on this machine alone
            self.run = wandb.init(id=record.number(), resume="allow", **how)  # without an id it makes one
        record.keep(self.run.id)

    def on_epoch_end(self, epoch, logs=None):
        """Log a line of metrics.jsonl."""
        figures = dict(logs or {})
        self.run.log(figures, step=int(figures.pop("step", epoch)))  # Keras makes it a float

    def on_train_end(self, logs=None):
        """End the record; all is sent then."""
        self.run.finish()


class Mlflow(keras.callbacks.Callback):
    """Logs to MLflow. Where and how follows from its environment variables, as MLFLOW_TRACKING_URI."""

    def on_train_begin(self, logs=None):
        """Begin the record, or go on with it. Raises UserError if that fails, as without its server."""
        import mlflow  # pyright: ignore[reportMissingImports]

        folder, record = as_path(self.params["folder"]), Record(self.params["folder"], "mlflow")
        earlier = record.number()
        with _told("mlflow", mlflow.exceptions.MlflowException):
            run = mlflow.start_run(run_id=earlier, run_name=None if earlier else folder.name)
            if earlier is None:
                mlflow.log_params(flat(self.params["config"]))
        record.keep(run.info.run_id)

    def on_epoch_end(self, epoch, logs=None):
        """Log a line of metrics.jsonl; what is not finite is left out."""
        import mlflow  # pyright: ignore[reportMissingImports]

        figures = dict(logs or {})
        step = int(figures.pop("step", epoch))
        mlflow.log_metrics({name: value for name, value in figures.items() if math.isfinite(value)}, step=step)

    def on_train_end(self, logs=None):
        """End the record."""
        import mlflow  # pyright: ignore[reportMissingImports]

        mlflow.end_run()


class Record:
    """The number that a tracker gives a run, in a file of the run's folder."""

    def __init__(self, folder: str, tracker: str):
        self.path = as_path(folder) / f"{tracker}.id"

    def number(self) -> str | None:
        """The number; None for a new run."""
        return self.path.read_text(encoding="utf-8").strip() if self.path.is_file() else None

    def keep(self, number: str) -> None:
        """Write it down."""
        self.path.write_text(f"{number}\n", encoding="utf-8")


@contextlib.contextmanager
def _told(tracker: str, kind: type[Exception]) -> Iterator[None]:
    try:
        yield
    except kind as error:
        raise UserError(f"--callback is {tracker}: {first_line(error)}; correct that, or leave it out") from error
