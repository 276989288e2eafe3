"""The line that tells how far a run is."""

from __future__ import annotations

import io
import sys

import pytest

from codi_tf.core import progress
from codi_tf.core.progress import Progress


class Screen(io.StringIO):
    """A terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch):
    """Moves the time on by so many seconds."""
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])

    def move(seconds: float) -> None:
        now[0] += seconds

    return move


def show(monkeypatch, clock, stream, *, start=0, first=30) -> str:
    """What is written of twenty units, 30 seconds each but for the first; the last comes quickly."""
    monkeypatch.setattr(sys, "stderr", stream)
    shown = Progress("training", 20)
    for done in range(start + 1, 20):
        clock(first if done == start + 1 else 30)
        shown.update(done, "loss 1.5")
    clock(0.1)
    shown.update(20)
    return stream.getvalue()


def test_on_a_terminal_one_line_renews_itself(monkeypatch, clock):
    text = show(monkeypatch, clock, Screen())
    lines = text.split("\r\x1b[2K")[1:]
    assert len(lines) == 20 and text.count("\n") == 1 and text.endswith("\n")
    assert lines[0] == "training 1/20, 0:30 elapsed  loss 1.5"
    assert lines[1] == "training 2/20, 9:00 left  loss 1.5"
    assert lines[18] == "training 19/20, 0:30 left  loss 1.5"
    assert lines[19] == "training 20/20, 9:30 elapsed\n"


def test_a_terminal_is_not_flooded(monkeypatch, clock):
    stream = Screen()
    monkeypatch.setattr(sys, "stderr", stream)
    shown = Progress("training", 1000)
    for done in range(1, 1000):
        clock(0.01)
        shown.update(done)
    assert 40 < stream.getvalue().count("\r") < 60  # 10 seconds, every 0.2


def test_a_log_gets_a_line_every_tenth(monkeypatch, clock):
    lines = show(monkeypatch, clock, io.StringIO()).splitlines()
    assert [line.split(",")[0] for line in lines] == [f"training {done}/20" for done in range(2, 21, 2)]
    assert lines[0] == "training 2/20, 9:00 left  loss 1.5" and lines[-1] == "training 20/20, 9:30 elapsed"


@pytest.mark.parametrize("start", [0, 10])
def test_the_first_update_and_an_earlier_run_do_not_count_for_the_time_left(monkeypatch, clock, start):
    """The first one compiles, which takes minutes: a run of three minutes was said to take two hours."""
    lines = show(monkeypatch, clock, io.StringIO(), start=start, first=110).splitlines()
    places = [f"training {done}/20" for done in range(start + 2, 21, 2)]
    if start:
        assert lines.pop(0) == "training 11/20, 1:50 elapsed  loss 1.5"
    assert [line.split(",")[0] for line in lines] == places
    assert lines[0] == f"training {start + 2}/20, {(18 - start) // 2}:00 left  loss 1.5"


def test_what_takes_long_once_is_forgotten(monkeypatch, clock):
    """The first log compiles, too: for the rest of the run the time left was three times too long."""
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    shown = Progress("training", 100)
    for done in range(1, 41):
        clock(200 if done in (1, 10) else 1)
        shown.update(done)
    lines = stream.getvalue().splitlines()
    assert lines[1:] == ["training 20/100, 1:20 left", "training 30/100, 1:10 left", "training 40/100, 1:00 left"]


def test_hours_are_told(monkeypatch, clock):
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    shown = Progress("training", 10)
    clock(3725)
    shown.update(1)
    assert stream.getvalue() == "training 1/10, 1:02:05 elapsed\n"
    clock(3725)
    shown.update(5)
    assert stream.getvalue().endswith("training 5/10, 1:17:36 left\n")
