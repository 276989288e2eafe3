"""The training cost of a row, with the rows that it starts from."""

from __future__ import annotations

import numpy as np

from studies.paper.plan import BATCH, BY_NAME, Row


def chain(row: Row) -> list[Row]:
    """A row and the rows that it starts from, the last stage first."""
    return [row] if row.parent is None else [row, *chain(BY_NAME[row.parent])]


def updates(row: Row) -> int:
    """Optimizer updates of all stages."""
    return sum(stage.updates for stage in chain(row))


def evaluations(row: Row) -> int:
    """Network evaluations of all stages; the student's forward and backward pass count as one."""
    return sum(stage.updates * BATCH * (1 + stage.forwards) for stage in chain(row))


def evaluations_per_example(row: Row) -> float:
    """The mean over the training examples of all stages."""
    return evaluations(row) / (updates(row) * BATCH)


def evaluations_of_sampling(row: Row, steps: int, guidance: float | None) -> int:
    """Network evaluations per image: guidance needs two per step, unless the network was trained for the weight."""
    return steps * (1 if guidance is None or row.method["name"] == "guided" else 2)


def cpu_seconds(about: dict[tuple[str, str], dict[int, dict]], row: Row, task: str) -> float | None:
    """CPU seconds of all stages, the mean over the seeds; None if a stage is missing.

    Args:
        about: see `results.Results`.
        row, task: what was trained.
    """
    stages = [about.get(("base" if stage.on_base else task, stage.name)) for stage in chain(row)]
    if not all(stages):
        return None
    return sum(float(np.mean([one["cpu_seconds"] for one in stage.values()])) for stage in stages)
