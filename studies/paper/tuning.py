"""Settings of every method, chosen on the validation photo: seven trials each, half of the budget, one seed."""

from __future__ import annotations

import dataclasses

from studies.paper import pieces
from studies.paper.plan import BY_NAME, TRIALS, Row, Trial

TASK = "super_resolution"


def tune(rows: tuple[str, ...] | None) -> None:
    """Run the missing trials, each after the row that it starts from. The best settings go into the plan by hand."""
    for trial in TRIALS:
        if rows is None or trial.row in rows:
            _make(of_trial(trial))


def _make(row: Row, *, measured: bool = True) -> None:
    """Train a row after the row that it starts from. A measured row is not trained again, unless it is a parent."""
    task = "base" if row.on_base else TASK
    if pieces.is_trained(row, task, 0) or (measured and pieces.is_measured(row, task, 0)):
        return
    if row.parent is not None:
        _make(BY_NAME[row.parent], measured=False)
    with pieces.claimed(row, task) as mine:
        if mine:
            pieces.make(row, task, (0,), split="validation")


def of_trial(trial: Trial) -> Row:
    """The row that a trial trains: that of its method, halved, with its change."""
    row = BY_NAME[f"half_{trial.row}"]
    return dataclasses.replace(
        row,
        name=f"trial_{trial.row}_{trial.name}",
        title=f"{BY_NAME[trial.row].title}, {trial.name}",
        method={**row.method, **trial.method},
        train={**row.train, **trial.train},
        rate=trial.rate,
        samples=trial.samples,
    )
