"""How fast a run is, and TensorFlow's profile of some of its steps."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import tensorflow as tf

from codi_tf.trainers.trainer import Trainer
from codi_tf.training.loop import make_average_alone

WARM = 3  # steps before those that are profiled


class Stopwatch:
    """Times the calls of a run.

    Args:
        trainer, strategy: what runs.
        first: the step that the run resumes from.
        last: its last step.
        profile: steps that are recorded, after the first three; 0 for none.
        logs: the folder that the profile is written to.
    """

    def __init__(self, trainer: Trainer, strategy, *, first: int, last: int, profile: int, logs: Path):
        self.last, self.logs = last, str(logs)
        self.profiled = range(first + WARM, min(first + WARM + profile, last))
        self._average = make_average_alone(trainer, strategy)
        self._seconds, self._steps, self._compiled = 0.0, 0, False

    def alone(self, step: int) -> bool:
        """Whether the step after `step` is to be a call of its own: those up to the last that is profiled."""
        return bool(self.profiled) and step < self.profiled.stop

    @contextlib.contextmanager
    def timed(self, step: int, count: int) -> Iterator[None]:
        """Times the block: `count` steps after `step`."""
        if self.profiled and step == self.profiled.start:
            tf.profiler.experimental.start(self.logs)
        began = time.perf_counter()
        yield
        if self._compiled:  # the first call traces the step
            self._seconds += time.perf_counter() - began
            self._steps += count
        self._compiled = True
        if self.profiled and step + count == self.profiled.stop:
            tf.profiler.experimental.stop()

    def figures(self, waited: float, batch_size: int) -> dict[str, float]:
        """Images a second and the shares of a step, since the last time; {} before there is any.

        Input is what the step waited for. The moving average is measured by itself, here and now. The network's share
        is the rest: forward and backward pass, the sum over replicas, the optimizer, and what Python does in between.

        Args:
            waited: seconds that a step waited for its input, the mean.
            batch_size: images of a step.
        """
        if not self._steps:
            return {}
        step, self._seconds, self._steps = self._seconds / self._steps, 0.0, 0
        self._average()  # traces the first time
        began = time.perf_counter()
        self._average()
        average = time.perf_counter() - began
        return {
            "images_per_second": batch_size / step,
            "input_share": waited / step,
            "network_share": 1.0 - (waited + average) / step,
            "average_share": average / step,
        }
