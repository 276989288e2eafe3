"""Importing TensorFlow without the log lines that it and its libraries write."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def quiet_import() -> Iterator[None]:
    """Discard everything that is written to standard error in this block, in which TensorFlow is imported.

    TensorFlow's libraries write to file descriptor 2 while they are loaded, and no setting silences all of them. Later
    log lines of TensorFlow are off, too, unless TF_CPP_MIN_LOG_LEVEL is set. Errors are raised in any case.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    sys.stderr.flush()
    original, sink = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, 2)
    try:
        yield
    finally:
        os.dup2(original, 2)
        os.close(original)
        os.close(sink)
