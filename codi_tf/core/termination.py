"""SIGTERM and SIGHUP as exceptions, so that what a command has begun is cleaned up before it ends."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator

SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]  # Windows has no SIGHUP


class Ended(SystemExit):
    """A signal asked the process to end. The status is the one that shells give a process that the signal ended."""

    def __init__(self, number: int):
        super().__init__(128 + number)
        self.name = signal.Signals(number).name


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """Within the block, SIGTERM and SIGHUP raise Ended; further ones are ignored while the block cleans up.

    A signal that the process ignores, as SIGHUP under nohup, stays ignored. Signals reach the main thread alone: in
    another one the block changes nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number, frame):
        for other in before:
            signal.signal(other, signal.SIG_IGN)
        raise Ended(number)

    before = {number: signal.getsignal(number) for number in SIGNALS}
    before = {number: handler for number, handler in before.items() if handler is not signal.SIG_IGN}
    for number in before:
        signal.signal(number, end)
    try:
        yield
    except Ended as ended:
        with contextlib.suppress(OSError, ValueError):  # a terminal that is gone
            print(f"ended by {ended.name}", file=sys.stderr, flush=True)
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
