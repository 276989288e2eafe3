"""Loading libraries without the lines that they write to standard error."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Iterator

from codi_tf.core.errors import UserError

_ONE_AT_A_TIME = threading.RLock()  # a second thread would take the first one's sink for standard error


@contextlib.contextmanager
def silent_stderr() -> Iterator[None]:
    """Discard everything that is written to file descriptor 2 within the block, also by native code."""
    with _ONE_AT_A_TIME:
        sys.stderr.flush()
        original, sink = os.dup(2), os.open(os.devnull, os.O_WRONLY)
        os.dup2(sink, 2)
        try:
            yield
        finally:
            os.dup2(original, 2)
            os.close(original)
            os.close(sink)


@contextlib.contextmanager
def quiet_import() -> Iterator[None]:
    """Discard everything that is written to standard error in this block, in which TensorFlow is imported.

    TensorFlow's libraries write to file descriptor 2 while they are loaded, and no setting silences all of them. Later
    log lines of TensorFlow are off, too, unless TF_CPP_MIN_LOG_LEVEL is set. Errors are raised in any case.

    Raises:
        UserError: see `check_backend`.
    """
    check_backend()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with silent_stderr():
        yield


def check_backend() -> None:
    """Choose TensorFlow as Keras' backend, whatever keras.json says.

    Raises:
        UserError: KERAS_BACKEND names another backend, or Keras was started with one.
    """
    keras = sys.modules.get("keras")
    if keras is not None and hasattr(keras, "backend"):
        found, where = keras.backend.backend(), "Keras was started with the backend"
    else:
        os.environ["KERAS_BACKEND"] = os.environ.get("KERAS_BACKEND") or "tensorflow"
        found, where = os.environ["KERAS_BACKEND"], "KERAS_BACKEND is"
    if found != "tensorflow":
        raise UserError(f"{where} {found!r}: codi_tf computes with TensorFlow; set KERAS_BACKEND=tensorflow")
