"""Signals that ask a command to end: it cleans up, and long work keeps what is done, before it does."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator

from codi_tf.core.errors import Interrupted

NAMES: dict[int, str] = {
    getattr(signal, name): title  # Windows has no SIGHUP
    for name, title in (("SIGINT", "Ctrl-C"), ("SIGTERM", "SIGTERM"), ("SIGHUP", "SIGHUP"))
    if hasattr(signal, name)
}
BY_USER = 130  # exit status after Ctrl-C, which asks no scheduler to try again
ONE_PRESS = 0.5  # seconds within which two SIGINTs are one Ctrl-C: some launchers pass on what the terminal sent, too


class Ended(SystemExit):
    """A signal asked the process to end. The status is the one that shells give a process that the signal ended."""

    def __init__(self, number: int):
        super().__init__(128 + number)
        self.name = NAMES[number]


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
def ended_by_signals() -> Iterator[None]:
    """Within the block, SIGTERM and SIGHUP raise Ended; further ones are ignored while the block cleans up.

    Ctrl-C raises KeyboardInterrupt, as Python has it. See `_handling` for what is left as it is.
    """
    ending = NAMES.keys() - {signal.SIGINT}

    def end(number: int) -> None:
        for other in ending:
            signal.signal(other, signal.SIG_IGN)
        raise Ended(number)

    try:
        with _handling(ending, end):
            yield
    except Ended as ended:
        _say(f"ended by {ended.name}")
        raise


@contextlib.contextmanager
def stop_noted(what_follows: str) -> Iterator[Stop]:
    """Within the block Ctrl-C, SIGTERM and SIGHUP are noted; a second Ctrl-C ends the process at once.

    See `_handling` for what is left as it is.

    Args:
        what_follows: what the work does when a signal comes, in a few words; the user reads it then.
    """
    stop = Stop()

    def note(number: int) -> None:
        stop.name = stop.name or NAMES[number]

    with _handling(NAMES, note) as heard, _watched(what_follows) if heard else contextlib.nullcontext():
        yield stop


@contextlib.contextmanager
def _handling(numbers: Collection[int], act: Callable[[int], None]) -> Iterator[bool]:
    """Within the block, signals call `act`; whether they do.

    A signal that the process ignores, as SIGHUP under nohup, stays ignored. Signals reach the main thread alone: in
    another one the block changes nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield False
        return
    before = {number: signal.getsignal(number) for number in numbers}
    before = {number: handler for number, handler in before.items() if handler not in (signal.SIG_IGN, None)}
    for number in before:
        signal.signal(number, lambda number, frame: act(number))
    try:
        yield True
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _watched(what_follows: str) -> Iterator[None]:
    """Within the block, a thread answers signals at once.

    Python calls a handler between two of its own instructions, which may be minutes apart; the pipe gets the signal at
    once.
    """
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    watcher = threading.Thread(target=_watch, args=(reading, what_follows), name="signals", daemon=True)
    watcher.start()
    pipe_before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    try:
        yield
    finally:
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
            _say(f"\n{name}: {what_follows}; Ctrl-C twice ends at once")
            said = True
        if byte[0] == signal.SIGINT:
            if pressed is not None and now - pressed > ONE_PRESS:
                _say("\ninterrupted")
                os._exit(BY_USER)
            pressed = pressed or now


def _say(line: str) -> None:
    """Print a line on standard error, which SIGHUP may have closed."""
    with contextlib.suppress(OSError, ValueError):
        print(line, file=sys.stderr, flush=True)
