"""Reading the results: the figures of every sample, from the files of the repository. Needs no TensorFlow."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from studies.common.intervals import Spread
from studies.common.results import read_result, row_of, sample_name, spread_of
from studies.paper import pieces
from studies.paper.pieces import Piece
from studies.paper.plan import ROWS, SEEDS, TASKS, Row


@dataclass(frozen=True)
class Sample:
    """One sample of a trained row, with every seed that exists.

    Attributes:
        row, task: what was trained.
        sampler, steps, guidance: how it was sampled.
        figures: seed -> figures, see `measures.figures_of`; without those of trainings that diverged.
        diverged: the number of seeds without figures.
    """

    row: Row
    task: str
    sampler: str
    steps: int
    guidance: float | None
    figures: dict[int, dict]
    diverged: int

    @property
    def name(self) -> str:
        """See `results.sample_name`."""
        return sample_name(self.sampler, self.steps, self.guidance)

    @property
    def strip(self) -> Path:
        """The file of its first images; it may be missing."""
        return strip_of(self.task, self.row.name, self.name)

    def range(self, measure: str) -> tuple[float, float] | None:
        """The least and the greatest figure of the seeds; None without figures."""
        figures = [of_seed[measure][0] for of_seed in self.figures.values() if measure in of_seed]
        return (min(figures), max(figures)) if figures else None

    @functools.cached_property
    def _spreads(self) -> dict[str, Spread | None]:
        return {}

    def spread(self, measure: str) -> Spread | None:
        """The spread of a measure over seeds and images; None if it has no figures."""
        if measure not in self._spreads:
            self._spreads[measure] = spread_of(self.figures, measure)
        return self._spreads[measure]

    def row_of_figures(self, measures: Iterable[str]) -> dict:
        """Means over the seeds and "NAME_interval": a row for `codi_tf.evaluation.tables`."""
        return row_of({measure: self.spread(measure) for measure in measures})


@dataclass(frozen=True)
class Results:
    """All results.

    Attributes:
        samples: (task, name of a row, name of a sample) -> sample.
        about: (task, name of a row) -> {seed: the content of its JSON file}.
        trials: (task, name of a system) -> {rate: the content of its JSON file}.
        references: task -> {one of "condition", "autoencoder", "original", "other": figures}.
        stale: the pieces whose results were made with other settings than the plan's.
    """

    samples: dict[tuple[str, str, str], Sample]
    about: dict[tuple[str, str], dict[int, dict]]
    trials: dict[tuple[str, str], dict[float, dict]]
    references: dict[str, dict[str, dict]]
    stale: list[Piece]

    def of_row(self, task: str, row: str) -> list[Sample]:
        """The samples of a row that exist, in the plan's order."""
        return [sample for (own_task, own_row, _), sample in self.samples.items() if (own_task, own_row) == (task, row)]


def read(*, rows: tuple[Row, ...] = ROWS, seeds: tuple[int, ...] = SEEDS) -> Results:
    """Read all results.

    Raises:
        UserError: a file of results is damaged.
    """
    references = {task: found for task in TASKS if (found := read_result(references_of(task))) is not None}
    results = Results({}, {}, {}, references, [])
    for row in rows:
        for task in (name for name in row.tasks if name in TASKS):
            _read_trials(results, row, task)
            own = {seed: Piece(row, task, seed) for seed in seeds}
            about = {seed: found for seed, piece in own.items() if (found := read_result(piece.figures)) is not None}
            if about:
                results.about[task, row.name] = about
            results.stale.extend(own[seed] for seed in about if not pieces.is_measured(own[seed]))
            for way in row.samples:
                name = sample_name(*way)
                found = {seed: one["samples"][name] for seed, one in about.items() if name in one["samples"]}
                figures = {seed: one for seed, one in found.items() if one is not None}
                if found:
                    diverged = len(found) - len(figures)
                    results.samples[task, row.name, name] = Sample(row, task, *way, figures, diverged)
    return results


def _read_trials(results: Results, row: Row, task: str) -> None:
    found = {
        trial.rate: one for trial in pieces.trials_of(row, task) if (one := read_result(trial.figures)) is not None
    }
    if found and task == pieces.trials_of(row, task)[0].task:
        results.trials[task, row.tuned_as] = found


def references_of(task: str) -> Path:
    """The file of a task's references."""
    return pieces.RESULTS / task / "references.json"


def strip_of(task: str, row: str, sample: str = "") -> Path:
    """The file of a sample's first images, side by side, or of a reference's."""
    return pieces.RESULTS / task / "images" / (f"{row}-{sample}.jpg" if sample else f"{row}.jpg")
