"""python -m studies.paper plan|train|report [--tasks ..] [--rows ..] [--seeds 0,1,2]

`plan` prints what is to be made and how long it takes, `train` makes it, and `report` writes docs/study.md from the
results in the repository. `train` can be stopped and started again, and run in several processes, also on several
machines: one process at a time works on a piece.
"""

from __future__ import annotations

import argparse
import sys

from codi_tf.core.command_line import run_command, start_tensorflow
from studies.common.arguments import check_names, names, study_parser
from studies.common.pieces import work
from studies.paper import costs, pieces
from studies.paper.pieces import Piece
from studies.paper.plan import BY_NAME, ROWS, SEEDS, TASKS, world_of


def _plan(options: argparse.Namespace) -> None:
    """Print the pieces that are left with their costs, of each world."""
    left = pieces.left(_wanted(options))
    worlds = {world_of(task).name: task for task in reversed(options.tasks)}
    for world, task in reversed(worlds.items()):
        own = [piece for piece in left if world_of(piece.task).name == world]
        print(costs.table(own, _seconds_of_a_pass(task) if options.measure else None) if own else f"{world}: done")


def _seconds_of_a_pass(task: str) -> float:
    start_tensorflow()
    from studies.paper.making import seconds_of_a_pass

    seconds = seconds_of_a_pass(task)
    print(f"measured: a network pass on a batch of {task} takes {seconds:.3f} s")
    return seconds


def _train(options: argparse.Namespace) -> None:
    start_tensorflow()
    from studies.paper import making

    work(lambda: pieces.left(_wanted(options)), pieces.is_ready, making.make)
    print("done")


def _wanted(options: argparse.Namespace) -> list[Piece]:
    rows = ROWS if options.rows is None else [BY_NAME[name] for name in options.rows]
    return list(pieces.pieces_of(options.tasks, rows, options.seeds))


def _main(arguments: list[str]) -> None:
    parser = study_parser("paper", __doc__, SEEDS)
    parser.add_argument("--tasks", type=names, default=tuple(TASKS), help=f"some of {', '.join(TASKS)}")
    parser.add_argument("--measure", action="store_true", help="of plan: estimate from a step that is measured here")
    options = parser.parse_args(arguments)
    check_names("--rows", options.rows or (), BY_NAME)
    check_names("--tasks", options.tasks, TASKS)
    if options.what == "plan":
        _plan(options)
    elif options.what == "train":
        _train(options)
    else:
        from studies.paper.report import write

        write()


if __name__ == "__main__":
    sys.exit(run_command(_main))
