"""Ctrl-C, SIGTERM and SIGHUP are noted, and what must not wait for the work does not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from codi_tf.core import progress
from codi_tf.core.errors import Interrupted
from codi_tf.core.signals import stop_noted

# A call that gives Python no turn, as one of TensorFlow that takes minutes.
BUSY = """
import hashlib
from codi_tf.core.signals import stop_noted
with stop_noted("it is saved") as stop:
    print("ready", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 200_000_000)
    print(stop.name, flush=True)
"""


@pytest.fixture(autouse=True)
def heard():
    """A process in the background may ignore Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    ("number", "name", "status"),
    [(signal.SIGINT, "Ctrl-C", 130), (signal.SIGTERM, "SIGTERM", 75), (signal.SIGHUP, "SIGHUP", 75)],
)
def test_each_is_noted_and_said_and_ends_nothing(capfd, number, name, status):
    """Only SIGTERM was: Ctrl-C and a closed terminal lost what was not saved."""
    outside = signal.signal(number, signal.SIG_DFL)  # the tests themselves may run under nohup
    try:
        with stop_noted("the state is saved") as stop:
            assert not stop
            signal.raise_signal(number)
            assert stop and stop.name == name
            signal.raise_signal(signal.SIGTERM)
            assert stop.name == name  # the first one counts
            error = stop.interrupted("stopped by {by}: go on")
        assert signal.getsignal(number) == signal.SIG_DFL
    finally:
        signal.signal(number, outside)
    assert isinstance(error, Interrupted) and (str(error), error.status) == (f"stopped by {name}: go on", status)
    assert f"{name}: the state is saved; Ctrl-C twice ends at once" in capfd.readouterr().err


def test_what_the_process_ignores_stays_ignored():
    """nohup: a closed terminal is no reason to stop."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_noted("") as stop:
            signal.raise_signal(signal.SIGHUP)
            assert not stop
    finally:
        signal.signal(signal.SIGHUP, before)


def test_another_thread_than_the_main_one_changes_nothing():
    """Python allows handlers in the main thread alone."""
    before, found = signal.getsignal(signal.SIGTERM), []

    def work():
        with stop_noted("") as stop:
            found.append((bool(stop), signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [(False, before)]


def test_the_second_ctrl_c_ends_a_process_that_is_busy():
    """A handler in Python would wait for the call to end, and so would the user."""
    process = subprocess.Popen(
        [sys.executable, "-c", BUSY], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None and process.stderr is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    assert process.stderr.readline() == "\n"
    assert process.stderr.readline() == "Ctrl-C: it is saved; Ctrl-C twice ends at once\n"
    process.send_signal(signal.SIGINT)  # the same press, which a launcher passes on
    time.sleep(0.7)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=10)
    assert (process.returncode, out, err) == (130, "", "\ninterrupted\n")


def test_a_closed_terminal_does_not_end_the_work(monkeypatch):
    """After SIGHUP every line of progress fails; the state was lost with the first one."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as closed:
        monkeypatch.setattr(sys, "stderr", closed)
        progress.Progress("training", 2).update(1)
        with pytest.raises(BrokenPipeError):
            closed.close()
