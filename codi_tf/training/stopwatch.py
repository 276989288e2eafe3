"""The speed of a run, and TensorFlow's profile of some of its updates."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import tensorflow as tf

from codi_tf.trainers.trainer import Trainer
from codi_tf.training.loop import make_average_alone

WARM = 3  # updates before the first one that is profiled


class Stopwatch:
    """Times the calls of a run.

    Args:
        trainer, strategy: of the run.
        first: the update that the run resumes from.
        last: its last update.
        profile: the number of updates to record, after the first three; 0 for none.
        logs: the folder for the profile.
    """

    def __init__(self, trainer: Trainer, strategy, *, first: int, last: int, profile: int, logs: Path):
        self.last, self.logs = last, str(logs)
        self.profiled = range(first + WARM, min(first + WARM + profile, last))
        self._average = make_average_alone(trainer, strategy)
        self._seconds, self._steps, self._compiled = 0.0, 0, False

    def alone(self, step: int) -> bool:
        """Whether the update after `step` must be a separate call: true up to the last one that is profiled."""
        return bool(self.profiled) and step < self.profiled.stop

    @contextlib.contextmanager
    def timed(self, step: int, count: int) -> Iterator[None]:
        """Times the block: `count` updates after `step`."""
        if self.profiled and step == self.profiled.start:
            tf.profiler.experimental.start(self.logs)
        began = time.perf_counter()
        yield
        if self._compiled:  # the first call includes tracing
            self._seconds += time.perf_counter() - began
            self._steps += count
        self._compiled = True
        if self.profiled and step + count == self.profiled.stop:
            tf.profiler.experimental.stop()

    def figures(self, waited: float, batch_size: int) -> dict[str, float]:
        """Images per second, and shares of the time of an update, since the last call; {} before the first update.

        The share of the input is the time that updates waited for it. The moving average is timed here, separately. The
        share of the network is the rest: forward and backward pass, the sum over replicas, the optimizer, and Python.

        Args:
            waited: the mean of the seconds that an update waited for its input.
            batch_size: images per update.
        """
        if not self._steps:
            return {}
        step, self._seconds, self._steps = self._seconds / self._steps, 0.0, 0
        self._average()  # the first call traces
        began = time.perf_counter()
        self._average()
        average = time.perf_counter() - began
        return {
            "images_per_second": batch_size / step,
            "input_share": waited / step,
            "network_share": 1.0 - (waited + average) / step,
            "average_share": average / step,
        }
