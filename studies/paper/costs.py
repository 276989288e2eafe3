"""What a row costs: updates, network passes, and an estimate in core-hours.

A pass is one forward evaluation of the network on a batch. The student, forward and backward, counts 3, and every other
network of the loss 1. That the gradients of an adapter alone take less is not counted.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from studies.common.costs import Lines, add_costs
from studies.common.costs import table as table_of
from studies.paper.pieces import Piece
from studies.paper.plan import EARLY_BATCH, SEEDS, Row, chain, updates_of, world_of

# Seconds of one core: networks are built, compiled and loaded; for a seed that finds them compiled; and for a sample,
# whose images are decoded and measured.
START, AGAIN, SAMPLE = 30.0, 6.0, 1.0


def passes(row: Row) -> int:
    """Network passes of an update of the row's last stage."""
    method = row.method or {"name": "pretrain"}
    if method["name"] == "codi":
        return 3 + (method.get("consistency") != "none") + (method.get("z_s") == "frozen")
    return 3 + {"finetune": 0, "pretrain": 0, "guided": 2, "consistency": 2}[method["name"]]


def budget_of(row: Row) -> tuple[float, float]:
    """(updates, passes) of all stages on the task or for it, in units of the world's updates; early bases are given."""
    stages = [stage for stage in chain(row) if stage.method is not None]
    return sum(stage.share for stage in stages), sum(stage.share * passes(stage) for stage in stages)


def evaluations(row: Row, steps: int, guidance: float | None) -> int:
    """Network evaluations per image: guidance needs two per step, unless the network was trained for the weight."""
    learned = row.method is not None and row.method["name"] == "guided"
    return steps * (1 if guidance is None or learned else 2)


def seconds_of(piece: Piece, of_pass: float | None = None) -> tuple[float, float]:
    """An estimate of (training, measuring) a piece, in seconds of one core.

    Args:
        piece: the piece.
        of_pass: seconds of a pass; None: those that the plan knows.
    """
    world, row = world_of(piece.task), piece.row
    of_pass = world.seconds if of_pass is None else of_pass
    batch = world.batch if row.method is not None else EARLY_BATCH
    images = world.count if piece.rate is None else world.chosen_on
    start = START if piece.rate is not None or piece.seed == SEEDS[0] else AGAIN
    sampled = sum(evaluations(row, steps, guidance) for _, steps, guidance in row.samples) * images
    training = updates_of(row, piece.task) * passes(row) * batch / world.batch * of_pass
    return training + start, sampled / world.batch * of_pass + SAMPLE * len(row.samples)


def cpu_seconds(about: dict[tuple[str, str], dict[int, dict]], row: Row, task: str) -> float | None:
    """Measured CPU seconds of the stages with figures, the mean over the seeds; None if the last one has none.

    Args:
        about: see `results.Results`.
        row, task: what was trained.
    """
    stages = [about.get((task, stage.name)) for stage in chain(row)]
    if not stages[0]:
        return None
    return sum(float(np.mean([one["cpu_seconds"] for one in stage.values()])) for stage in stages if stage)


def table(pieces: Iterable[Piece], of_pass: float | None = None) -> str:
    """The rows of the pieces: updates, passes of an update, trainings, hours of training and of measuring."""
    lines: Lines = {}
    for piece in pieces:
        title = piece.row.name if piece.rate is None else f"{piece.row.tuned_as}, trials"
        costs = (updates_of(piece.row, piece.task), passes(piece.row))
        add_costs(lines, (piece.task, title), costs, seconds_of(piece, of_pass))
    return table_of(lines)
