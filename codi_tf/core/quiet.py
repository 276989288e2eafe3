"""Importing TensorFlow without the notes that it and its libraries write about themselves."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def quiet_import() -> Iterator[None]:
    """Within the block TensorFlow may be imported, and nothing reaches standard error.

    TensorFlow's libraries write to file descriptor 2 while they are loaded, and no setting silences all of them. Later
    notes of TensorFlow itself are off unless TF_CPP_MIN_LOG_LEVEL is set: errors are raised in any case.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    sys.stderr.flush()
    kept, sink = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(sink)
