"""The commands within this process: to start Python and TensorFlow anew takes seconds.

That a command works as a process of its own is tested once for each, by the tests that start one.
"""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
from collections.abc import Callable
from unittest import mock

from codi_tf.core.command_line import run_command


def run_here(main: Callable[[list[str]], None], *arguments) -> subprocess.CompletedProcess:
    """Exit status, standard output and standard error of a command's `main`."""
    words = [main.__module__, *map(str, arguments)]
    out, err = io.StringIO(), io.StringIO()
    with mock.patch.object(sys, "argv", words), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = run_command(main)
    return subprocess.CompletedProcess(words, status, out.getvalue(), err.getvalue())
