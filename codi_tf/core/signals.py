"""Signals that end long work without loss: they are recorded, and the work stops at its next safe point."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator

from codi_tf.core.errors import Interrupted

NAMES: dict[int, str] = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM", signal.SIGHUP: "SIGHUP"}
BY_USER = 130  # exit status after Ctrl-C, which asks no scheduler to try again
ONE_PRESS = 0.5  # seconds within which two SIGINTs are one Ctrl-C: some launchers pass on what the terminal sent, too


class Stop:
    """Whether a signal asked to stop.

    Attributes:
        name: the first one, "Ctrl-C", "SIGTERM" or "SIGHUP"; None until one comes.
    """

    name: str | None = None

    def __bool__(self) -> bool:
        return self.name is not None

    def interrupted(self, line: str) -> Interrupted:
        """The exception that ends the work; `{by}` in its line stands for the signal, or for another worker's."""
        by_user = self.name == NAMES[signal.SIGINT]
        line = line.format(by=self.name or "another worker")
        return Interrupted(line, status=BY_USER) if by_user else Interrupted(line)


@contextlib.contextmanager
def stop_noted(what_follows: str) -> Iterator[Stop]:
    """Within the block Ctrl-C, SIGTERM and SIGHUP are noted; a second Ctrl-C ends the process at once.

    A signal that the process ignores, as SIGHUP under nohup, stays ignored. Signals reach the main thread alone: in
    another one the block changes nothing.

    Args:
        what_follows: what the work does when a signal comes, in a few words; the user reads it then.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def note(number, frame) -> None:
        stop.name = stop.name or NAMES[signal.Signals(number)]

    heard = [number for number in NAMES if signal.getsignal(number) is not signal.SIG_IGN]
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    # Python calls a handler between two of its own instructions, which may be minutes apart; the pipe gets the signal
    # at once.
    watcher = threading.Thread(target=_watch, args=(reading, what_follows), name="signals", daemon=True)
    watcher.start()
    pipe_before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    before = {number: signal.signal(number, note) for number in heard}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(pipe_before)
        os.close(writing)
        watcher.join()
        os.close(reading)


def _watch(reading: int, what_follows: str) -> None:
    """Says at once that a signal was heard, and ends the process at the second Ctrl-C."""
    said, pressed = False, None
    while byte := os.read(reading, 1):
        name, now = NAMES.get(byte[0]), time.monotonic()
        if name is None:
            continue
        if not said:
            said = _say(f"{name}: {what_follows}; Ctrl-C twice ends at once")
        if byte[0] == signal.SIGINT:
            if pressed is not None and now - pressed > ONE_PRESS:
                _say("interrupted")
                os._exit(BY_USER)
            pressed = pressed or now


def _say(line: str) -> bool:
    """Print a line on standard error, which SIGHUP may have closed."""
    with contextlib.suppress(OSError, ValueError):
        print(f"\n{line}", file=sys.stderr, flush=True)
    return True
