"""Settings of every method, chosen on the validation photo: five trials each, half of the budget, one seed."""

from __future__ import annotations

import dataclasses

from benchmarks.study import pieces
from benchmarks.study.plan import BY_NAME, TRIALS, Row, Trial

TASK = "super_resolution"


def tune(rows: tuple[str, ...] | None) -> None:
    """Run the trials that are missing. What is chosen, by FD-photos at 4 evaluations, is written into the plan."""
    for trial in TRIALS:
        row = of_trial(trial)
        if (rows is None or trial.row in rows) and not pieces.is_done(row, TASK, 0):
            with pieces.claimed(row, TASK) as mine:
                if mine:
                    pieces.make(row, TASK, (0,), split="validation")


def of_trial(trial: Trial) -> Row:
    """The row that a trial trains: that of its method, shorter."""
    row = BY_NAME[trial.row]
    method = {**row.method, **trial.method}
    if "updates" in method and "updates" not in trial.method:
        method["updates"] //= 2
    return dataclasses.replace(
        row,
        name=f"trial_{trial.row}_{trial.name}",
        title=f"{row.title}, {trial.name}",
        method=method,
        train={**row.train, **trial.train},
        updates=row.updates // 2,
        rate=trial.rate,
        samples=trial.samples,
    )
