"""What results are measured on: the held-out crops of a task as they are, degraded, and through the autoencoder."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.study import pieces
from benchmarks.study.plan import Row
from codi_tf.reporting.measuring import Yardstick

FD = "frechet_photos"
REFERENCES = ("condition", "autoencoder", "original")


@dataclass(frozen=True)
class Folders:
    """Where figures lie, and where what is measured picture by picture."""

    metrics: Path = pieces.METRICS
    runs: Path = pieces.RUNS

    def figures(self, row: Row, task: str, seed: int) -> Path:
        return self.metrics / pieces.metrics_of(row, task, seed).relative_to(pieces.METRICS)

    def values(self, row: Row, task: str, seed: int) -> Path:
        return self.runs / pieces.values_of(row, task, seed).relative_to(pieces.RUNS)


@dataclass(frozen=True)
class References:
    """What a task is measured on, and what needs no model.

    Attributes:
        rows: one of REFERENCES -> figures.
        features: of the originals through the autoencoder, which FD-photos compares with, [N, D].
        sharpness: of the originals, [N], of mean 1.
        pictures: one of REFERENCES -> the first pictures, [12, H, W, 3] in [-1, 1].
    """

    rows: dict[str, dict]
    features: np.ndarray
    sharpness: np.ndarray
    pictures: dict[str, np.ndarray]


def read_references(folders: Folders, task: str) -> References | None:
    """The references of a task; None where they have not been made."""
    figures, arrays = _references_of(folders, task)
    if not (figures.is_file() and arrays.is_file()):
        return None
    with np.load(arrays) as stored:
        pictures = {name: stored[f"{name}/pictures"] for name in REFERENCES}
        return References(json.loads(figures.read_text("utf-8")), stored["features"], stored["sharpness"], pictures)


def make_references(folders: Folders, task: str, stick: Yardstick) -> None:
    """Measure what needs no model, once for a task."""
    shown = {
        "condition": (stick.conditions[..., :3], stick.of_condition()),
        "autoencoder": (stick.reconstructions, stick.measure(stick.reconstructions, stick.latents)),
        "original": (stick.images, stick.measure(stick.images, stick.latents)),
    }
    references = shown["original"][1].references
    arrays = {f"{name}/pictures": pictures[: pieces.PICTURES] for name, (pictures, _) in shown.items()}
    arrays |= {"features": references[FD], "sharpness": references["sharpness"]}
    figures, path = _references_of(folders, task)
    for file in (figures, path):
        file.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **arrays)
    rows = {name: measured.row() for name, (_, measured) in shown.items()}
    figures.write_text(json.dumps(rows, indent=1) + "\n", "utf-8")


def _references_of(folders: Folders, task: str) -> tuple[Path, Path]:
    return folders.metrics / task / "references.json", folders.runs / task / "references.npz"
