"""Reading the results on disk: the figures of every sample and their replicates, from JSON files."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from studies.paper import pieces
from studies.paper.bootstrap import Spread
from studies.paper.plan import ROWS, SEEDS, TASKS, Row
from studies.paper.references import References, read_references


@dataclass(frozen=True)
class Sample:
    """One sample of a trained row, with every seed that exists.

    Attributes:
        row, task: what was trained.
        sampler, steps, guidance: how it was sampled.
        figures: seed -> figures, see `measures.figures_of`.
        references: of its task; None if they have not been made.
        strip: the file of its images; None if they were not saved.
    """

    row: Row
    task: str
    sampler: str
    steps: int
    guidance: float | None
    figures: dict[int, dict]
    references: References | None = None
    strip: Path | None = None

    @property
    def name(self) -> str:
        return pieces.sample_name(self.sampler, self.steps, self.guidance)

    def range(self, measure: str) -> tuple[float, float] | None:
        """The least and the greatest figure of the seeds; None if there is no figure."""
        figures = [of_seed[measure] for of_seed in self.figures.values() if of_seed.get(measure) is not None]
        return (min(figures), max(figures)) if figures else None

    def mean(self, measure: str) -> float | None:
        """The mean over the seeds; None if there is no figure."""
        figures = [of_seed[measure] for of_seed in self.figures.values() if of_seed.get(measure) is not None]
        return float(np.mean(figures)) if figures else None

    @functools.cached_property
    def _spreads(self) -> dict[str, Spread | None]:
        return {}

    def spread(self, measure: str) -> Spread | None:
        """The spread of a measure over seeds and images; None if a seed has no replicates of it."""
        if measure not in self._spreads:
            self._spreads[measure] = self._spread(measure)
        return self._spreads[measure]

    def _spread(self, measure: str) -> Spread | None:
        drawn = [of_seed.get("replicates", {}).get(measure) for of_seed in self.figures.values()]
        if not drawn or None in drawn:
            return None
        figures = np.array([of_seed[measure] for of_seed in self.figures.values()], np.float64)
        return Spread(tuple(self.figures), figures, np.array(drawn, np.float64).T)

    def row_of_figures(self, measures: tuple[str, ...]) -> dict:
        """Means over the seeds, and "NAME_interval" where known: a row for `codi_tf.evaluation.tables`."""
        row = {}
        for measure in measures:
            if self.mean(measure) is None:
                continue
            row[measure] = self.mean(measure)
            spread = self.spread(measure)
            if spread is not None:
                low, high = spread.interval()
                row[f"{measure}_interval"] = (max(low, 0.0), high)  # none of the measures is ever negative
        return row


@dataclass(frozen=True)
class Results:
    """All results on disk.

    Attributes:
        samples: (task, name of a row, name of a sample) -> sample.
        about: (task, name of a row) -> {seed: the content of its JSON file}.
        references: task -> references.
    """

    samples: dict[tuple[str, str, str], Sample]
    about: dict[tuple[str, str], dict[int, dict]]
    references: dict[str, References]

    def of_row(self, task: str, row: str) -> list[Sample]:
        """The samples of a row that exist, in the plan's order."""
        return [sample for (own_task, own_row, _), sample in self.samples.items() if (own_task, own_row) == (task, row)]


def read(metrics: Path = pieces.METRICS, *, rows: tuple[Row, ...] = ROWS, seeds: tuple[int, ...] = SEEDS) -> Results:
    """Read the results on disk; references are read, never made."""
    references = {task: found for task in TASKS if (found := read_references(metrics, task)) is not None}
    samples, about = {}, {}
    for row in rows:
        for task in row.tasks:
            paths = {seed: pieces.metrics_of(row, task, seed, metrics) for seed in seeds}
            of_seeds = {seed: json.loads(path.read_text("utf-8")) for seed, path in paths.items() if path.is_file()}
            if of_seeds:
                about[task, row.name] = of_seeds
            for sampling in row.samples:
                name = pieces.sample_name(*sampling)
                figures = {seed: one["samples"][name] for seed, one in of_seeds.items() if name in one["samples"]}
                if figures:
                    strip = pieces.strip_of(row, task, name, metrics)
                    samples[task, row.name, name] = Sample(
                        row, task, *sampling, figures, references.get(task), strip if strip.is_file() else None
                    )
    return Results(samples, about, references)
