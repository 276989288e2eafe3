"""SIGTERM and SIGHUP end a command as they should: with their status, and nothing half-written left behind."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest
from commands import run_here

from codi_tf.io.files import whole_file


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_what_was_begun_is_removed(tmp_path, number):
    """Catches a signal that ends the process at once, with a hidden file or folder left."""

    def main(arguments):
        with whole_file(tmp_path / "out.bin") as partial:
            partial.write_bytes(b"x" * 100)
            signal.raise_signal(number)
            signal.raise_signal(number)  # Python's handler runs before this

    unheard = []
    before = signal.signal(number, lambda *heard: unheard.append(heard))  # that a fault does not end the tests
    try:
        with pytest.raises(SystemExit) as ended:
            run_here(main)
        assert ended.value.code == 128 + number and not list(tmp_path.iterdir()) and not unheard
        signal.raise_signal(number)
        assert len(unheard) == 1  # the handler of before is back
    finally:
        signal.signal(number, before)


def test_what_nohup_ignores_stays_ignored():
    """Catches a command that ends with its terminal although it was started with nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert run_here(lambda arguments: signal.raise_signal(signal.SIGHUP)).returncode == 0
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


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
