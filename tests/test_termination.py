"""SIGTERM and SIGHUP end a command as they should: with their status, and nothing half-written left behind."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

# In a process of its own: what other tests load may have handlers of signals, too.
PROGRAM = """
import signal, sys
from pathlib import Path
from codi_tf.core.command_line import run_command
from codi_tf.io.files import whole_file

folder, number, before = Path(sys.argv[1]), int(sys.argv[2]), signal.Handlers(int(sys.argv[3]))

def main(arguments):
    with whole_file(folder / "out.bin") as partial:
        partial.write_bytes(b"x" * 100)
        signal.raise_signal(number)
        signal.raise_signal(number)  # Python's handler runs before this

signal.signal(number, before)
try:
    status = run_command(main)
finally:
    assert signal.getsignal(number) == before, "the handler of before is not back"
sys.exit(status)
"""


def ended(folder, number: signal.Signals, before: signal.Handlers) -> subprocess.CompletedProcess:
    words = [sys.executable, "-c", PROGRAM, folder, str(int(number)), str(int(before))]
    return subprocess.run(words, capture_output=True, text=True)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_what_was_begun_is_removed(tmp_path, number):
    """Catches a signal that ends the process at once, with a hidden file or folder left."""
    done = ended(tmp_path, number, signal.SIG_DFL)
    assert (done.returncode, done.stderr) == (128 + number, f"ended by {number.name}\n")
    assert not list(tmp_path.iterdir())


def test_what_nohup_ignores_stays_ignored(tmp_path):
    """Catches a command that ends with its terminal although it was started with nohup."""
    done = ended(tmp_path, signal.SIGHUP, signal.SIG_IGN)
    assert done.returncode == 0, done.stderr
    assert [file.name for file in tmp_path.iterdir()] == ["out.bin"]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_an_export_leaves_nothing(bundle, tmp_path, number):
    """Catches a hidden folder of the model's size that stays beside the package."""
    command = [sys.executable, "-m", "export", bundle, "--format", "tflite", "--size", "64", "--steps", "8"]
    out = ["--out", tmp_path / "made" / "package"]
    heard = signal.signal(number, signal.default_int_handler)  # where tests run under nohup, a child would ignore it
    process = subprocess.Popen([*command, *out], stderr=subprocess.PIPE, text=True)
    signal.signal(number, heard)
    while process.poll() is None and not list((tmp_path / "made").glob(".*/**/model.tflite")):
        time.sleep(0.05)
    process.send_signal(number)
    _, errors = process.communicate()
    assert process.returncode == 128 + number, errors
    assert errors == f"ended by {number.name}\n"
    assert not list((tmp_path / "made").iterdir())
