"""Reading the results: the figures of every sample, from the files of the repository. Needs no TensorFlow."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from studies.common.results import read_result, row_of_figures, sample_name
from studies.guided import pieces
from studies.guided.pieces import Piece
from studies.guided.plan import SEEDS, Row, Way, World


@dataclass(frozen=True)
class Sample:
    """One sample of a row, with every seed that exists.

    Attributes:
        row: what was trained or sampled.
        system: of the sample, a key of `plan.SYSTEMS`.
        way: sampler, steps and guidance.
        figures: seed -> figures, see `measures.figures_of`; without those of trainings that diverged.
        evaluations: of the network, for an image.
        strip: the file of its first images; it may be missing.
    """

    row: Row
    system: str
    way: Way
    figures: dict[int, dict]
    evaluations: int
    strip: Path

    @property
    def steps(self) -> int:
        return self.way[1]

    @property
    def w(self) -> float:
        """The paper's guidance weight."""
        return round(self.way[2] - 1.0, 6)

    def row_of_figures(self, measures: Iterable[str]) -> dict:
        """Means over the seeds and "NAME_interval": a row for `codi_tf.evaluation.tables`."""
        return row_of_figures(self.figures, measures)


@dataclass(frozen=True)
class Results:
    """The results of a world.

    Attributes:
        world: the world.
        samples: those that exist, in the plan's order.
        references: one of "original", "autoencoder", "other", "condition" -> figures.
        commits: that made them.
        stale: the pieces whose results were made with other settings than the plan's.
    """

    world: World
    samples: list[Sample]
    references: dict[str, dict]
    commits: set[str]
    stale: list[Piece]

    def of(self, system: str, **wanted) -> list[Sample]:
        """The samples of a system, those with some steps or some w."""
        return [
            one
            for one in self.samples
            if one.system == system and all(getattr(one, name) == value for name, value in wanted.items())
        ]


def read(world: World) -> Results:
    """Read the results of a world. Raises UserError for a damaged file."""
    results = Results(world, [], read_result(references_of(world)) or {}, set(), [])
    for row in (row for row in world.rows if row.samples):
        own = pieces.pieces_of([world], [row.name], SEEDS)
        about = {piece: found for piece in own if (found := read_result(piece.figures)) is not None}
        results.commits.update(found["commit"] for found in about.values())
        results.stale.extend(piece for piece in about if not pieces.is_measured(piece))
        for system, ways in row.samples.items():
            for way in ways:
                name = sample_name(*way)
                made = {piece.seed: found["samples"].get(name) for piece, found in about.items()}
                figures = {seed: found for seed, found in made.items() if found is not None}
                if figures:
                    strip = strip_of(world, row.name, name)
                    count = pieces.evaluations(Piece(world, row, SEEDS[0]), way)
                    results.samples.append(Sample(row, system, way, figures, count, strip))
    return results


def references_of(world: World) -> Path:
    """The file of a world's references."""
    return pieces.RESULTS / world.name / "references.json"


def strip_of(world: World, row: str, sample: str = "") -> Path:
    """The file of a sample's first images, side by side, or of a reference's."""
    return pieces.RESULTS / world.name / "images" / (f"{row}-{sample}.jpg" if sample else f"{row}.jpg")
