"""python -m studies.paper train|tune|report [--tasks ..] [--rows ..] [--seeds 0,1,2]

`train` makes the missing results, `tune` runs the trials that choose settings, `report` writes docs/results.md. `train`
can be stopped and started again, and run in several processes: one process at a time works on a row.
"""

from __future__ import annotations

import argparse
import sys

from codi_tf.core.command_line import ArgumentParser, run_command, start_tensorflow
from codi_tf.core.errors import UserError
from studies.paper import costs
from studies.paper.plan import BY_NAME, ROWS, SEEDS, TASKS, Row


def _train(options: argparse.Namespace) -> None:
    start_tensorflow()
    from studies.paper import pieces

    while True:
        left = _left(options)
        for row, task, seeds in left:
            parent = None if row.parent is None else BY_NAME[row.parent]
            if parent is not None and not all(pieces.is_trained(parent, task, seed) for seed in seeds):
                continue
            with pieces.claimed(row, task) as mine:
                if mine:
                    pieces.make(row, task, seeds)
                    break
        else:
            names = ", ".join(f"{row.name} of {task}" for row, task, _ in left)
            return print(f"left for other processes, or until their parents are trained: {names}" if left else "done")


def _left(options: argparse.Namespace) -> list[tuple[Row, str, tuple[int, ...]]]:
    """The rows without figures and their seeds, each after the rows that it starts from."""
    from studies.paper import pieces

    left: dict[tuple[str, str], set[int]] = {}
    for row, task in _chosen(options):
        for seed in options.seeds:
            if not pieces.is_measured(row, task, seed):
                for stage in reversed(costs.chain(row)):
                    if stage is row or not pieces.is_trained(stage, task, seed):
                        left.setdefault((stage.name, "base" if stage.on_base else task), set()).add(seed)
    return [(BY_NAME[name], task, tuple(sorted(seeds))) for (name, task), seeds in left.items()]


def _chosen(options: argparse.Namespace) -> list[tuple[Row, str]]:
    rows = ROWS if options.rows is None else [BY_NAME[name] for name in options.rows]
    return [(row, task) for task in ("base", *options.tasks) for row in rows if task in row.tasks]


def _main(arguments: list[str]) -> None:
    parser = ArgumentParser(prog="python -m studies.paper", description=__doc__)
    parser.add_argument("what", choices=("train", "tune", "report"))
    parser.add_argument("--tasks", type=_names, default=TASKS, help=f"some of {', '.join(TASKS)}")
    parser.add_argument("--rows", type=_names, help="rows by their names in studies/paper/plan.py (default: all)")
    parser.add_argument("--seeds", type=_numbers, default=SEEDS, help="with commas between them")
    options = parser.parse_args(arguments)
    for flag, names, known in (("--rows", options.rows or (), BY_NAME), ("--tasks", options.tasks, TASKS)):
        for name in names:
            if name not in known:
                raise UserError(f"{flag} has {name}: use names of {', '.join(known)}")
    if options.what == "train":
        _train(options)
    elif options.what == "tune":
        start_tensorflow()
        from studies.paper.tuning import tune

        tune(options.rows)
    else:
        start_tensorflow()
        from studies.paper.report import write

        write()


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


if __name__ == "__main__":
    sys.exit(run_command(_main))
