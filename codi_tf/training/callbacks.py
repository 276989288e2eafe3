"""Keras callbacks in a run: how they are named, and when they are called. Their loggers are in `loggers`."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from codi_tf.core.errors import Interrupted, UserError

if TYPE_CHECKING:
    import keras

LOGGERS = {  # name -> the package that it needs, and its callback
    "wandb": ("wandb", "codi_tf.training.loggers:Wandb"),
    "mlflow": ("mlflow", "codi_tf.training.loggers:Mlflow"),
}
_PLACE = re.compile(r"(?P<module>\w+(\.\w+)*):(?P<name>\w+)")


def check_callback(text: str) -> None:
    """Check, before TensorFlow is imported, a name of a callback: one of LOGGERS, or MODULE:CLASS.

    Raises:
        UserError: another form, or a package or module that is not there.
    """
    package, place = LOGGERS.get(text, (None, text))
    if package is not None and not _is_there(package):
        raise UserError(f"--callback is {text}: the package {package} is missing: pip install {package}")
    found = _PLACE.fullmatch(place)
    if found is None:
        raise UserError(f"--callback is {text}: use {', '.join(LOGGERS)} or MODULE:CLASS, as my_logs:Progress")
    if not _is_there(found["module"].partition(".")[0]):  # of a module within a package, the search imports the package
        raise _missing(text, found["module"])


def make_callback(text: str) -> keras.callbacks.Callback:
    """The callback of a name that `check_callback` accepts: CLASS(), what a function of that name returns, or itself.

    Raises:
        UserError: the module has no such name, or it gives no Keras callback.
    """
    import keras

    check_callback(text)
    found = _PLACE.fullmatch(LOGGERS.get(text, ("", text))[1])
    assert found is not None
    try:
        module = importlib.import_module(found["module"])
    except ModuleNotFoundError as error:
        raise _missing(text, error.name or found["module"]) from None
    if not hasattr(module, found["name"]):
        raise UserError(f"--callback is {text}: {found['module']} has no {found['name']}; correct the name")
    made = getattr(module, found["name"])
    made = made() if callable(made) else made
    if not isinstance(made, keras.callbacks.Callback):
        raise UserError(f"--callback is {text}: gives {type(made).__name__}, and not a keras.callbacks.Callback")
    return made


class Callbacks:
    """Calls the callbacks of a run as `model.fit` does, from the update on that the run resumes from.

    A batch is one call of the loop, of up to `train.steps_per_call` updates: its number is that of its last update,
    counted from 0 over the whole run, and its logs are the means of the losses over its updates. An epoch ends with
    each line of metrics.jsonl: its number is that of the line, counted from 0, and its logs are those of the line.

    A callback that sets `model.stop_training` ends the training after the call, and the run makes its result; it stops
    several workers as a signal does.

    Args:
        callbacks: on the first worker; on others there are none.
        trainer: the model of the callbacks.
        epoch: the number of the lines that are there.
        about: `params` of the callbacks.
    """

    def __init__(
        self,
        callbacks: Sequence[keras.callbacks.Callback],
        trainer: keras.Model,
        *,
        epoch: int,
        about: Mapping[str, Any],
    ):
        import keras

        self._list = keras.callbacks.CallbackList(list(callbacks), model=trainer, verbose=0, **about)
        self._trainer, self._epoch, self._within = trainer, epoch, False

    @property
    def stopped(self) -> bool:
        """Whether a callback has ended the training."""
        return bool(self._trainer.stop_training)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """The block is the training; it ends for the callbacks, too, when it is interrupted and its state is saved.

        Raises:
            UserError: a callback fails as it reads, writes or connects.
        """
        self._trainer.stop_training = False
        with _told():
            self._list.on_train_begin()
        try:
            yield
        except Interrupted:
            self._list.on_train_end()
            raise
        with _told():
            self._list.on_train_end()

    def before(self, step: int) -> None:
        """Before the updates after `step`. Raises UserError, see `running`."""
        with _told():
            if not self._within:
                self._list.on_epoch_begin(self._epoch)
                self._within = True
            self._list.on_train_batch_begin(step)

    def after(self, step: int, count: int, sums: Mapping[str, float], line: Mapping[str, float] | None) -> None:
        """After the `count` updates up to `step`. Raises UserError, see `running`.

        Args:
            step: the number of updates.
            count: how many there were in the call.
            sums: of their logs, see `loop.make_loop`.
            line: what was written into metrics.jsonl; None where nothing was.
        """
        from codi_tf.training.loop import WAITED

        counted = count - sums["skipped"]  # the sums do not include skipped updates
        losses = {name: total / counted for name, total in sums.items() if name not in ("skipped", WAITED) and counted}
        with _told():
            self._list.on_train_batch_end(step - 1, {**losses, "skipped": sums["skipped"]})
            if line:
                self._list.on_epoch_end(self._epoch, {"step": step, **line})
                self._epoch, self._within = self._epoch + 1, False


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """An OSError of a callback becomes a UserError: it is not the run's folder that cannot be written."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"--callback: one fails ({reason}); correct it or leave it out, and resume") from error


def _missing(text: str, module: str) -> UserError:
    return UserError(f"--callback is {text}: there is no module {module}; put its folder into PYTHONPATH")


def _is_there(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):  # a module that is only half there
        return False
