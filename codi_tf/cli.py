"""What all command lines share: a user's mistake ends in one line and exit status 2."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from codi_tf.errors import UserError


def run_command(main: Callable[[list[str]], None]) -> int:
    """Run `main` with the command line's arguments and return the exit status: 0, 2 (UserError), 130 (Ctrl-C)."""
    try:
        main(sys.argv[1:])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


def start_tensorflow() -> None:
    """Import TensorFlow without the notes that its libraries write about themselves when they are loaded.

    They go straight to file descriptor 2, and no setting reaches all of them. What is said later is left alone.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    sys.stderr.flush()
    kept, sink = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, 2)
    try:
        import tensorflow as tf

        tf.config.list_logical_devices()  # the drivers of accelerators speak up here
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(sink)
