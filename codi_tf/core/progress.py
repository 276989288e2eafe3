"""A progress line for long work, with the time that is left."""

from __future__ import annotations

import collections
import contextlib
import sys
import time


class Progress:
    """A progress line on standard error: updated in place in a terminal, a new line every 10 % in a log.

    Args:
        label: the name of the work.
        total: units of work in all.
    """

    def __init__(self, label: str, total: int):
        self.label, self.total = label, total
        self.began, self.shown = time.monotonic(), -1.0
        self.first: int | None = None  # units done at the first update
        self.marks: collections.deque[tuple[float, int]] = collections.deque()  # moments, and the units done then
        self.live = sys.stderr.isatty()

    def update(self, done: int, note: str = "") -> None:
        """Show that `done` units are done, followed by a note."""
        now = time.monotonic()
        self._mark(now, done)
        tenths = 10 * done // self.total
        due = now - self.shown >= 0.2 if self.live else tenths > max(self.shown, 0)
        if not due and done < self.total:
            return
        self.shown = now if self.live else tenths
        text = f"{self.label} {done}/{self.total}, {self._times(now, done)}{'  ' + note if note else ''}"
        end = "\n" if not self.live or done >= self.total else ""
        with contextlib.suppress(OSError):  # a terminal that was closed, or a full disk, must not end the work
            sys.stderr.write(f"\r\x1b[2K{text}{end}" if self.live else f"{text}{end}")
            sys.stderr.flush()

    def _mark(self, now: float, done: int) -> None:
        """Keep moments of the last half of the work so far: what took longer only once, as compiling, is forgotten."""
        if self.first is None:
            self.first = done
        if not self.marks or now - self.marks[-1][0] >= 1.0:
            self.marks.append((now, done))
        while len(self.marks) > 1 and 2 * (self.marks[1][1] - self.first) <= done - self.first:
            self.marks.popleft()

    def _times(self, now: float, done: int) -> str:
        """The time that is left; the time elapsed at the first update, whose pace says nothing, and at the end."""
        began, before = self.marks[0]
        if done >= self.total or done <= before:
            return f"{_clock(now - self.began)} elapsed"
        return f"{_clock((now - began) * (self.total - done) / (done - before))} left"


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
