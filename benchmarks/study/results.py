"""The results that are there: figures of every sample as JSON, values and features of its pictures as NPZ."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.study import bootstrap, pieces
from benchmarks.study.bootstrap import Spread
from benchmarks.study.plan import ROWS, SEEDS, TASKS, Row
from benchmarks.study.references import FD, Folders, References, read_references

SATURATION = "saturation"  # of the pictures that are kept


@dataclass(frozen=True)
class Sample:
    """A trained row, sampled in one way, with every seed that is there.

    Attributes:
        row, task: what was trained.
        sampler, steps, guidance: how it was sampled.
        figures: seed -> figures.
        files: seed -> NPZ, of the seeds that have one.
        references: of its task, None where they have not been made.
    """

    row: Row
    task: str
    sampler: str
    steps: int
    guidance: float | None
    figures: dict[int, dict]
    files: dict[int, Path] = field(default_factory=dict)
    references: References | None = None

    @property
    def name(self) -> str:
        return pieces.sample_name(self.sampler, self.steps, self.guidance)

    def range(self, measure: str) -> tuple[float, float] | None:
        """The least and the greatest figure of the seeds; None where there is none."""
        figures = [own[measure] for own in self.figures.values() if own.get(measure) is not None]
        return (min(figures), max(figures)) if figures else None

    def mean(self, measure: str) -> float | None:
        """The mean of the seeds; None where there is none."""
        figures = [own[measure] for own in self.figures.values() if own.get(measure) is not None]
        return float(np.mean(figures)) if figures else None

    def arrays(self, key: str) -> np.ndarray:
        """What is kept of its pictures, of every seed in `files`, [K, N, ...]."""
        arrays = []
        for file in self.files.values():
            with np.load(file) as stored:
                arrays.append(stored[f"{self.name}/{key}"])
        return np.stack(arrays)

    def pictures(self, seed: int) -> np.ndarray:
        """The pictures that are kept of one seed, float16 [12, H, W, 3] in [-1, 1]."""
        with np.load(self.files[seed]) as stored:
            return stored[f"{self.name}/pictures"]

    @functools.cached_property
    def _spreads(self) -> dict[str, Spread | None]:
        return {}

    def spread(self, measure: str) -> Spread | None:
        """How a measure varies over seeds and pictures; None where what is needed is not there."""
        if measure not in self._spreads:
            self._spreads[measure] = self._spread(measure)
        return self._spreads[measure]

    def _spread(self, measure: str) -> Spread | None:
        key = {FD: "features", SATURATION: "pictures"}.get(measure, measure)
        if set(self.files) != set(self.figures) or (measure in (FD, "sharpness") and self.references is None):
            return None
        values, statistic = self.arrays(key), bootstrap.mean
        if measure == FD:
            statistic = bootstrap.frechet_to(self.references.features)
        elif measure == "sharpness":
            statistic = bootstrap.ratio_to(self.references.sharpness)
        elif measure == SATURATION:
            values = saturation(values)
        return bootstrap.spread(tuple(self.files), values, statistic) if np.isfinite(values).all() else None

    def row_of_figures(self, measures: tuple[str, ...]) -> dict:
        """Means over the seeds, and name_interval where there is one: a row as `codi_tf.reporting` shows it."""
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
    """Everything that is there.

    Attributes:
        samples: (task, name of a row, name of a sample) -> sample.
        about: (task, name of a row) -> {seed: what the JSON says}.
        references: task -> references.
    """

    samples: dict[tuple[str, str, str], Sample]
    about: dict[tuple[str, str], dict[int, dict]]
    references: dict[str, References]

    def of_row(self, task: str, row: str) -> list[Sample]:
        """The samples of a row that are there, in the plan's order."""
        return [sample for (own_task, own_row, _), sample in self.samples.items() if (own_task, own_row) == (task, row)]


def saturation(pictures: np.ndarray) -> np.ndarray:
    """(max - min) of red, green and blue, the mean over a picture: 0 is grey. [..., H, W, 3] in [-1, 1] -> [...]."""
    return np.mean(np.ptp(np.asarray(pictures, np.float64), axis=-1), axis=(-2, -1)) / 2


def read(folders: Folders, *, rows: tuple[Row, ...] = ROWS, seeds: tuple[int, ...] = SEEDS) -> Results:
    """Read what is there; references are read, never made."""
    references = {task: own for task in TASKS if (own := read_references(folders, task)) is not None}
    samples, about = {}, {}
    for row in rows:
        for task in row.tasks:
            own = {
                seed: json.loads(path.read_text("utf-8")) for seed, path in _there(folders.figures, row, task, seeds)
            }
            files = dict(_there(folders.values, row, task, seeds))
            if own:
                about[task, row.name] = own
            for sampler, steps, guidance in row.samples:
                name = pieces.sample_name(sampler, steps, guidance)
                figures = {seed: one["samples"][name] for seed, one in own.items() if name in one["samples"]}
                if figures:
                    kept = {seed: file for seed, file in files.items() if seed in figures}
                    samples[task, row.name, name] = Sample(
                        row, task, sampler, steps, guidance, figures, kept, references.get(task)
                    )
    return Results(samples, about, references)


def _there(path_of, row: Row, task: str, seeds: tuple[int, ...]) -> list[tuple[int, Path]]:
    paths = [(seed, path_of(row, task, seed)) for seed in seeds]
    return [(seed, path) for seed, path in paths if path.is_file()]
