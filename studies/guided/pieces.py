"""The pieces of the study: a row with a seed each, what a piece needs, and its config. Needs no TensorFlow."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from codi_tf import config
from codi_tf.io.yaml_files import read_yaml
from studies.common import pieces
from studies.common.results import sample_name
from studies.guided.plan import BATCH, SEEDS, STUDENTS, Row, Way, World

RESULTS, RUNS = Path("studies/results/guided"), Path("runs/guided")
SHOWN_SEED = 0  # whose images are kept
# Seconds of one core: networks are built and compiled; for a seed that finds them compiled; a sampler is compiled; and
# for a sample, whose images are decoded and measured.
START, AGAIN, SAMPLER, SAMPLE = 30.0, 6.0, 9.0, 2.0


@dataclass(frozen=True)
class Piece(pieces.Piece):
    """One training of a row, or the samples of one."""

    world: World
    row: Row
    seed: int

    @property
    def name(self) -> str:
        """The name of its files."""
        return f"{self.row.name}-seed{self.seed}"

    @property
    def key(self) -> tuple[str, str]:
        return self.world.name, self.name

    @property
    def title(self) -> str:
        return f"{self.world.name}, {self.row.name}, seed {self.seed}"

    @property
    def figures(self) -> Path:
        return RESULTS / self.world.name / f"{self.name}.json"

    @property
    def run(self) -> Path:
        return RUNS / self.world.name / self.name

    @property
    def result(self) -> Path:
        return Path(self.row.folder) if self.row.folder else super().result

    @property
    def lock(self) -> Path:
        """One for all seeds of a row, see `studies.common.training`."""
        return self.run.with_name(f"{self.row.name}.lock")

    @property
    def samples(self) -> tuple[Way, ...]:
        """What is measured of it."""
        return tuple(way for ways in self.row.samples.values() for way in ways)


def pieces_of(worlds: Iterable[World], rows: Iterable[str] | None = None, seeds: Iterable[int] = SEEDS) -> list[Piece]:
    """The pieces with figures, in the plan's order; a row that serves all seeds has one.

    Args:
        worlds: of the plan.
        rows: names; None: all.
        seeds: of the others.
    """
    wanted = None if rows is None else set(rows)
    return [
        Piece(world, row, seed)
        for world in worlds
        for row in world.rows
        if row.samples and (wanted is None or row.name in wanted)
        for seed in ((SEEDS[0],) if row.once else seeds)
    ]


def models_of(piece: Piece) -> list[Piece]:
    """The pieces that it starts from, or whose results it samples."""
    rows = (piece.world.row(name) for name in piece.row.models)
    return [Piece(piece.world, row, SEEDS[0] if row.once else piece.seed) for row in rows]


def reader_of(world: World) -> Piece | None:
    """The piece that trains the reader of a world; None where it has a folder."""
    return next((Piece(world, row, SEEDS[0]) for row in world.rows if row.name == world.reader), None)


def settings_of(piece: Piece) -> list[dict]:
    """What the figures of a piece depend on, its stages in their order, as plain data; not where its files are."""
    before = [stage for model in models_of(piece) for stage in settings_of(model)]
    own = {"row": piece.row.name, "seed": piece.seed} | ({"folder": piece.row.folder} if piece.row.folder else {})
    if piece.row.config is not None:
        own |= {"config": piece.row.config, "its_hash": _hash_of(piece.row.config)}
        own |= {"changes": piece.row.changes, "updates": piece.row.updates, "encoded": piece.row.encoded}
        own |= {"examples": piece.world.examples if piece.row.encoded else 0}
    if piece.row.samples:
        own |= {"images": piece.world.count, "measures": piece.world.measures}
    return json.loads(json.dumps([*before, own]))


@functools.cache
def _hash_of(path: str) -> str:
    """The beginning of a hash of a config's values, which comments do not change."""
    text = json.dumps(read_yaml(Path(path)), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def examples_of(piece: Piece) -> Path:
    """The folder of its encoded examples, which other pieces of its world share."""
    return RUNS / piece.world.name / "examples" / piece.row.encoded.replace(":", "-")


def experiment_of(piece: Piece, *, to_encode: bool = False) -> config.Experiment:
    """The config of a piece, as `codi train` would take it; `to_encode`: that by which its examples are encoded."""
    row, models = piece.row, models_of(piece)
    assert row.config is not None
    changes = {**row.changes, "train.steps": row.updates, "train.seed": piece.seed, "train.sample_every": 0}
    if models:
        changes["base"] = str(models[0].result)
    if row.encoded:
        changes |= {"data.source": row.encoded if to_encode else str(examples_of(piece)), "data.seed": piece.seed}
    if to_encode:
        changes["data.seed"] = 0  # the same examples for all seeds
    return config.load(row.config, [f"{key}={json.dumps(value)}" for key, value in changes.items()])


def is_trained(piece: Piece) -> bool:
    """Whether it has been trained here with today's settings, or trains nothing."""
    return piece.row.config is None or pieces.is_trained(piece, settings_of(piece))


def is_measured(piece: Piece) -> bool:
    """Whether all of its figures exist, made with today's settings, here or elsewhere."""
    return pieces.is_measured(piece, settings_of(piece), (sample_name(*way) for way in piece.samples))


def needs_of(piece: Piece) -> Iterator[Piece]:
    """The pieces that have to be trained before it."""
    yield from models_of(piece)
    reader = reader_of(piece.world)
    if reader is not None and piece.row.samples:
        yield reader


def left(wanted: Iterable[Piece]) -> list[Piece]:
    """The wanted pieces without figures, each after what it needs, as far as that is missing."""
    return pieces.in_order(
        (piece for piece in wanted if not is_measured(piece)),
        lambda piece: (one for one in needs_of(piece) if not is_trained(one)),
    )


def is_ready(piece: Piece) -> bool:
    """Whether all that it needs is trained here."""
    return all(map(is_trained, needs_of(piece)))


def is_needed(piece: Piece) -> bool:
    """Whether others start from it, or sample it."""
    return piece.row.name == piece.world.reader or any(piece.row.name in row.models for row in piece.world.rows)


# --- what it costs


def passes_of(piece: Piece) -> int:
    """Network passes of an update: 3 of the student, forward and backward, and 2 of a teacher in distillation."""
    return 0 if piece.row.config is None else 5 if piece.row.models else 3


def evaluations(piece: Piece, way: Way) -> int:
    """Network evaluations per image: guidance needs two a step, unless the network was trained for the weight."""
    _, steps, guidance = way
    there = steps if len(piece.row.models) > 1 else 0  # of a transfer, without guidance
    return there + steps * (2 if piece.row.doubled and guidance != 1.0 else 1)


def encoding_of(left: Iterable[Piece]) -> dict[tuple[str, str], float]:
    """(world, source) -> an estimate of the seconds of one core that its examples take, for what is left to be made."""
    found = {(piece.world.name, piece.row.encoded): piece.world for piece in left if piece.row.encoded}
    return {key: world.examples / BATCH * world.fresh for key, world in found.items()}


def seconds_of(piece: Piece) -> tuple[float, float]:
    """An estimate of (training, measuring) a piece, in seconds of one core."""
    world, row = piece.world, piece.row
    if row.name == world.reader:
        return row.updates * 0.2 + START, 0.0  # a small network on half of a batch, whose scenes are rendered anew
    fresh = 0.0 if row.encoded or row.config is None else world.fresh
    batch = (BATCH if row.once else STUDENTS) / STUDENTS
    start = 0.0 if row.config is None else START if piece.seed == SEEDS[0] else AGAIN
    training = row.updates * (passes_of(piece) * batch * world.seconds + fresh)
    sampled = sum(evaluations(piece, way) for way in piece.samples) * world.count / STUDENTS * world.seconds
    return training + start, sampled + SAMPLE * len(piece.samples) + (SAMPLER if piece.samples else 0.0)
