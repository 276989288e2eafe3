"""Results of the study, made up, below the working folder."""

from __future__ import annotations

import numpy as np

from studies.common.intervals import GROUPS
from studies.common.measures import SATURATION
from studies.common.results import sample_name, write_json, write_strip
from studies.paper import pieces
from studies.paper.pieces import Piece
from studies.paper.plan import BY_NAME, SEEDS, chain, world_of
from studies.paper.results import references_of, strip_of

TASK = "super_resolution"
FD = "frechet_photos"


def figures(task: str, value: float, *, error: float = 0.1, sharpness: float = 0.5) -> dict[str, list]:
    """Figures of a sample: its decisive measure is `value`, whatever group is left out."""
    measures = world_of(task).measures
    own = dict.fromkeys((*measures, SATURATION), 0.5) | {measures[0]: value}
    own |= {"latent_error": error, "sharpness": sharpness}
    return {name: [one, [one] * GROUPS] for name, one in own.items()}


def tune(*rows: str, task: str = TASK, best: int = 0) -> None:
    """The trials of rows and of what they start from: the rate at place `best` has the lowest measure."""
    for row in (stage for name in rows for stage in reversed(chain(BY_NAME[name]))):
        trials = pieces.trials_of(row, task)
        for place, trial in enumerate(trials):
            (way,) = trial.row.samples
            samples = {sample_name(*way): figures(trial.task, float(place != best))}
            write(trial, samples)


def write(piece: Piece, samples: dict) -> None:
    """The file of a piece."""
    about = {"settings": pieces.settings_of(piece), "commit": "Some commit", "samples": samples, "cpu_seconds": 7}
    write_json(piece.figures, about)


def put(name: str, value: float, *, task: str = TASK, seeds=SEEDS, **options) -> None:
    """Results of a row, tuned: every sample has the decisive measure `value`, in seed k more by k / 100."""
    row = BY_NAME[name]
    tune(name, task=task)
    for seed in seeds:
        own = figures(task, value + seed / 100, **options)
        write(Piece(row, task, seed), {sample_name(*way): own for way in row.samples})
    strip(strip_of(task, name, "ddim-4"))


def put_references(task: str = TASK) -> None:
    """References with an autoencoder whose sharpness is 0.5."""
    row = {name: 0.5 for name in world_of(task).measures}
    write_json(references_of(task), dict.fromkeys(("condition", "autoencoder", "original"), row))
    for name in ("condition", "autoencoder", "original"):
        strip(strip_of(task, name))


def put_trained(piece: Piece) -> None:
    """A piece that was trained here."""
    piece.result.mkdir(parents=True)
    state = {"settings": pieces.settings_of(piece), "trained": True, "cpu_seconds": 7.0}
    write_json(piece.state, state)


def strip(path) -> None:
    """Two images of 64 pixels."""
    write_strip(path, np.random.default_rng(0).uniform(-1, 1, (2, 64, 64, 3)), 2)
