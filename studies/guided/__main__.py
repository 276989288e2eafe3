"""python -m studies.guided plan|train|report [--worlds pixels,latents] [--rows ..] [--seeds 0,1,2]

`plan` prints what is to be made and how long it takes, `train` makes it, and `report` writes docs/guided.md from the
results in the repository. `train` can be stopped and started again, and run in several processes, also on several
machines that share runs/: one process at a time works on a piece.
"""

from __future__ import annotations

import argparse
import sys

from codi_tf.core.command_line import run_command, start_tensorflow
from studies.common.arguments import check_names, names, study_parser
from studies.common.costs import add_costs, table
from studies.common.pieces import work
from studies.guided import pieces
from studies.guided.pieces import Piece
from studies.guided.plan import SEEDS, WORLDS


def _plan(options: argparse.Namespace) -> None:
    """Print the pieces that are left with their costs, of each world."""
    left, lines = pieces.left(_wanted(options)), {}
    for (world, source), seconds in pieces.encoding_of(left).items():
        add_costs(lines, (world, f"examples of {source}"), (0, 0), (seconds, 0.0))
    for piece in left:
        costs = (piece.row.updates, pieces.passes_of(piece))
        add_costs(lines, (piece.world.name, piece.row.name), costs, pieces.seconds_of(piece))
    print(table(lines) if lines else "done")


def _train(options: argparse.Namespace) -> None:
    start_tensorflow()
    from studies.guided.making import make

    work(lambda: pieces.left(_wanted(options)), pieces.is_ready, make)
    print("done")


def _wanted(options: argparse.Namespace) -> list[Piece]:
    return pieces.pieces_of([WORLDS[name] for name in options.worlds], options.rows, options.seeds)


def _main(arguments: list[str]) -> None:
    parser = study_parser("guided", __doc__, SEEDS)
    parser.add_argument("--worlds", type=names, default=tuple(WORLDS), help=f"some of {', '.join(WORLDS)}")
    options = parser.parse_args(arguments)
    check_names("--worlds", options.worlds, WORLDS)
    known = [row.name for name in options.worlds for row in WORLDS[name].rows if row.samples]
    check_names("--rows", options.rows or (), known)
    if options.what == "plan":
        _plan(options)
    elif options.what == "train":
        _train(options)
    else:
        from studies.guided.report import write

        write()


if __name__ == "__main__":
    sys.exit(run_command(_main))
