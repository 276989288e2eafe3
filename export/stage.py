"""`stage`: what a long command says of each of its steps."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Iterator

from codi_tf.core.errors import UserError, explained


@contextlib.contextmanager
def stage(label: str) -> Iterator[None]:
    """Print a label and the seconds that the block takes; show other output only if the block fails."""
    print(f"{label} ...", end="", flush=True)
    began = time.monotonic()
    with tempfile.TemporaryFile() as log:
        try:
            with _redirected(log):
                yield
        except (UserError, KeyboardInterrupt, SystemExit):
            print(flush=True)
            raise
        except Exception as error:
            print(flush=True)
            if explained(error) is None:  # a bug; else the command line says all in one line
                log.seek(0)
                sys.stderr.write(log.read().decode(errors="replace"))
            raise
    print(f" {time.monotonic() - began:.1f} s", flush=True)


@contextlib.contextmanager
def _redirected(log) -> Iterator[None]:
    """Redirect standard output and error, also of native code, into a file."""
    streams = (sys.stdout, sys.stderr)
    for stream in streams:
        stream.flush()
    saved = {number: os.dup(number) for number in (1, 2)}
    try:
        for number in saved:
            os.dup2(log.fileno(), number)
        yield
    finally:
        for stream in streams:
            stream.flush()
        for number, copy in saved.items():
            os.dup2(copy, number)
            os.close(copy)
