"""A progress line for long work, with the time that is left."""

from __future__ import annotations

import sys
import time


class Progress:
    """A progress line on standard error: updated in place in a terminal, a new line every 10 % in a log.

    Args:
        label: the name of the work.
        total: units of work in all.
        start: units done by an earlier run; they do not count for the time left.
    """

    def __init__(self, label: str, total: int, start: int = 0):
        self.label, self.total, self.start = label, total, start
        self.began, self.shown = time.monotonic(), -1.0
        self.live = sys.stderr.isatty()

    def update(self, done: int, note: str = "") -> None:
        """Show that `done` units are done, followed by a note."""
        now = time.monotonic()
        tenths = 10 * done // self.total
        due = now - self.shown >= 0.2 if self.live else tenths > max(self.shown, 0)
        if not due and done < self.total:
            return
        self.shown = now if self.live else tenths
        elapsed = now - self.began
        left = elapsed * (self.total - done) / max(done - self.start, 1)
        times = f"{_clock(elapsed)} gone" if done >= self.total else f"{_clock(left)} left"
        text = f"{self.label} {done}/{self.total}, {times}{'  ' + note if note else ''}"
        end = "\n" if not self.live or done >= self.total else ""
        sys.stderr.write(f"\r\x1b[2K{text}{end}" if self.live else f"{text}{end}")
        sys.stderr.flush()


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
