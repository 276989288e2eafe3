"""The pieces of the study: one training with its figures each, the order they are made in, and the files they leave.

Needs no TensorFlow. A piece is a row with a task and a seed, or a trial: a row with one of the learning rates. Its
figures are a small file below studies/results, which belongs to the repository; what was trained lies below runs/study.
A piece whose figures exist, made with today's settings, is not trained again, unless another piece starts from it.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from codi_tf import config
from codi_tf.adapters import ADAPTERS
from studies.common import pieces
from studies.common.results import read_json, sample_name
from studies.paper.plan import (
    BY_NAME,
    COMPUTE,
    EARLY_BATCH,
    ROWS,
    SEEDS,
    TASKS,
    TRIAL,
    Row,
    method_of,
    updates_of,
    world_of,
)

RESULTS, RUNS = Path("studies/results"), Path("runs/study")
SHOWN_SEED = 0  # whose images are kept, and whose bundle


@dataclass(frozen=True)
class Piece(pieces.Piece):
    """One training of a row.

    Attributes:
        row: what is trained.
        task: its task, or the name of a world for a row on the base.
        seed: of the training.
        rate: the learning rate of a trial; None: no trial, the row has the rate that its trials chose.
    """

    row: Row
    task: str
    seed: int
    rate: float | None = None

    @property
    def name(self) -> str:
        """The name of its files."""
        return f"{self.row.name}-seed{self.seed}" if self.rate is None else f"{self.row.tuned_as}-rate{self.rate:g}"

    @property
    def key(self) -> tuple[str, str]:
        """What tells pieces apart."""
        return self.task, self.name

    @property
    def title(self) -> str:
        """For people."""
        what = f"seed {self.seed}" if self.rate is None else f"trial of rate {self.rate:g}"
        return f"{self.task}, {self.row.title}, {what}"

    @property
    def figures(self) -> Path:
        """The file of its figures."""
        return RESULTS / self.task / ("trials" if self.rate else ".") / f"{self.name}.json"

    @property
    def run(self) -> Path:
        """The folder of its training."""
        return RUNS / self.task / self.name

    @property
    def lock(self) -> Path:
        """One for all seeds of a row, see `studies.common.training`."""
        return self.run.with_name(f"{self.row.name if self.rate is None else self.name}.lock")


def parent_of(piece: Piece) -> Piece | None:
    """The piece that it starts from; None for one that starts from its world's base."""
    if piece.row.parent is None:
        return None
    parent = BY_NAME[piece.row.parent]
    task = world_of(piece.task).name if parent.on_base else piece.task
    return Piece(parent, task, 0 if parent.once else piece.seed)


def trials_of(row: Row, task: str) -> list[Piece]:
    """The trials of a row's system, in the first task of its world; [] for a row that has none."""
    if row.judged is None:
        return []
    world = world_of(task)
    first = next(one for one in ROWS if one.tuned_as == row.tuned_as)
    trial = dataclasses.replace(first, share=TRIAL, samples=(first.judged,))
    tuned_on = next(name for name, own in TASKS.items() if own is world)
    return [Piece(trial, tuned_on, 0, rate) for rate in world.rates]


def rate_of(piece: Piece) -> float | None:
    """The learning rate of a piece; None as long as its trials are not done.

    It is that of the trial with the lowest decisive measure. A trial without figures diverged. Without trials, or if
    all diverged, it is the first one.
    """
    if piece.rate is not None:
        return piece.rate
    rates, decisive = world_of(piece.task).rates, world_of(piece.task).measures[0]
    found: dict[float, float] = {}
    for trial in trials_of(piece.row, piece.task):
        about = read_json(trial.figures)
        if about is None or about["settings"] != settings_of(trial):
            return None
        (figures,) = about["samples"].values()
        if figures is not None:
            found[trial.rate] = figures[decisive][0]
    return min(found, key=found.__getitem__) if found else rates[0]


def settings_of(piece: Piece) -> list[dict] | None:
    """What the figures of a piece depend on, its stages in their order, as plain data; None if a rate is not known."""
    parent, rate, row, world = parent_of(piece), rate_of(piece), piece.row, world_of(piece.task)
    before = [] if parent is None else settings_of(parent)
    if before is None or rate is None:
        return None
    own = {"row": row.name, "task": piece.task, "seed": piece.seed, "base": world.base}
    if row.method is None:
        own |= {"recipe": world.recipe, "updates": world.early_updates, "batch": EARLY_BATCH}
    else:
        own |= {
            "method": method_of(row, piece.task),
            "adaptation": row.adaptation,
            "train": row.train,
            "rate": rate,
            "batch": world.batch,
        }
        own |= {"updates": updates_of(row, piece.task), "data": world.data, "examples": world.examples}
        own |= {"compute": COMPUTE}
    return json.loads(json.dumps([*before, own]))


def examples_of(piece: Piece) -> Path:
    """The folder of its encoded examples, which other pieces share."""
    if piece.row.method is None:
        return RUNS / "examples" / f"{piece.task}-early"
    space = ADAPTERS[piece.row.adaptation.get("adapter", "mu")].condition_space
    return RUNS / "examples" / (f"{piece.task}-base" if piece.row.on_base else f"{piece.task}-{space}")


def experiment_of(piece: Piece, source: str | None = None) -> config.Experiment:
    """The config of a piece, as `codi train` would take it, on its encoded examples, in an order of its seed.

    Of another `source` it is the config by which examples are encoded, the same ones for all seeds.
    """
    row, world, parent = piece.row, world_of(piece.task), parent_of(piece)
    data = {"source": str(examples_of(piece)), "seed": piece.seed} if source is None else {"source": source}
    if row.method is None:
        steps = world.early_updates
        changes = {"base": world.base, "data.source": data["source"], "train.steps": steps}
        changes |= {"train.warmup_steps": steps // 20, "train.batch_size": EARLY_BATCH}
        changes |= {"train.sample_every": 0, "train.save_every": 0}
        return config.load(world.recipe, [f"{key}={value}" for key, value in changes.items()])
    updates, rate, method = updates_of(row, piece.task), rate_of(piece), method_of(row, piece.task)
    if row.method.get("stage") == 2:
        method["updates"] = updates // len(method["steps"])
    train = {
        "steps": updates,
        "batch_size": world.batch,
        "learning_rate": world.rates[0] if rate is None else rate,
        "warmup_steps": updates // 20,
        "ema_decay": 0.95,
        "seed": piece.seed,
        "log_every": updates,
        "save_every": 0,
        "max_skipped": updates,  # a training that diverges goes on, and its figures say so
    }
    values = {
        "method": method,
        "base": world.base if parent is None else str(parent.result),
        "task": None if row.on_base else {"name": piece.task},
        "data": {**world.data, **data},
        "adaptation": dict(row.adaptation),
        "memory": {"compute": COMPUTE},
        "train": {**train, **row.train},
    }
    return config.from_dict(values)


def is_trained(piece: Piece) -> bool:
    """Whether it has been trained here, with today's settings, and its result is still there."""
    return pieces.is_trained(piece, settings_of(piece))


def is_measured(piece: Piece) -> bool:
    """Whether all of its figures exist, made with today's settings, here or elsewhere."""
    return pieces.is_measured(piece, settings_of(piece), (sample_name(*way) for way in piece.row.samples))


def is_ready(piece: Piece) -> bool:
    """Whether its rate is known, and what it starts from is trained."""
    parent = parent_of(piece)
    return rate_of(piece) is not None and (parent is None or is_trained(parent))


def pieces_of(tasks: Iterable[str], rows: Iterable[Row] = ROWS, seeds: Iterable[int] = SEEDS) -> Iterator[Piece]:
    """The pieces with figures, task by task in the plan's order."""
    for task in tasks:
        for row in rows:
            if task in row.tasks and row.samples:
                yield from (Piece(row, task, seed) for seed in seeds)


def left(wanted: Iterable[Piece]) -> list[Piece]:
    """The wanted pieces without figures, each after its trials and what it starts from, as far as these are missing."""

    def missing(piece: Piece) -> Iterator[Piece]:
        parent = parent_of(piece)
        if parent is not None and not is_trained(parent):
            yield parent
        if piece.rate is None and rate_of(piece) is None:
            yield from (trial for trial in trials_of(piece.row, piece.task) if not is_measured(trial))

    return pieces.in_order((piece for piece in wanted if not is_measured(piece)), missing)


def is_parent(piece: Piece) -> bool:
    """Whether other pieces start from it."""
    return piece.rate is None and any(row.parent == piece.row.name for row in ROWS)
