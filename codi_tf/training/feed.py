"""The batches of a run: of one shape, or of buckets that take turns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from codi_tf import config
from codi_tf.data.buckets import Turns, sources_of_buckets
from codi_tf.data.counts import Counts
from codi_tf.trainers.trainer import Trainer
from codi_tf.training.experiment import distributed_batches


class Feed:
    """The iterators that updates take their batches from.

    Args:
        iterators: distributed ones, one for each bucket; without buckets, one.
        sources: what they read, as many.
        turns: which bucket an update's batch is of; None without buckets.

    Attributes:
        counts: what the updates have read.
    """

    def __init__(self, iterators: Sequence[Any], sources: Sequence[Any], turns: Turns | None = None):
        self.iterators, self.sources, self.turns = iterators, sources, turns
        self.counts = Counts(sources)

    def at(self, step: int, most: int) -> tuple[Any, int]:
        """The iterator of update `step`, and how many updates from there on may take theirs from it, at most `most`."""
        if self.turns is None:
            return self.iterators[0], most
        bucket, count = self.turns.at(step), 1
        while count < most and self.turns.at(step + count) == bucket:
            count += 1
        return self.iterators[bucket], count

    def count(self, step: int, updates: int, batch_size: int, sums: dict[str, float]) -> None:
        """Count what `updates` updates from `step` on have read; for `sums` see `Counts.add`. Raises UserError."""
        bucket = 0 if self.turns is None else self.turns.at(step)
        before = step if self.turns is None else self.turns.before(step)[bucket]
        self.counts.add(updates * batch_size, first=before * batch_size, source=bucket, **sums)


def open_feed(experiment: config.Experiment, trainer: Trainer, strategy, start_step: int, *, source=None) -> Feed:
    """The batches from update `start_step` on, for `loop.make_loop`, whose function traces each shape once.

    Args:
        experiment, trainer, strategy, start_step: see `experiment.distributed_batches`.
        source: of `experiment.load_source`, split "train"; None only for encoded examples.

    Raises:
        UserError: see `experiment.build_dataset` and `buckets.sources_of_buckets`.
    """
    data = experiment.data
    if not data.buckets:
        return Feed([iter(distributed_batches(experiment, trainer, strategy, start_step, source=source))], [source])
    sources = sources_of_buckets(source, data.shapes, data.source)
    turns = Turns(tuple(map(len, sources)), data.seed)
    iterators = [
        iter(distributed_batches(experiment, trainer, strategy, first, source=own, image_size=shape))
        for own, shape, first in zip(sources, data.shapes, turns.before(start_step), strict=True)
    ]
    return Feed(iterators, sources, turns)
