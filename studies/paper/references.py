"""The references of a task: its held-out crops, original, degraded, and through the autoencoder."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from codi_tf.evaluation.measuring import Evaluator
from studies.paper.strips import read_strip, write_strip

REFERENCES = ("condition", "autoencoder", "original")


@dataclass(frozen=True)
class References:
    """Results without a model.

    Attributes:
        rows: one of REFERENCES -> figures.
        images: one of REFERENCES -> the first images, float32 [12, H, W, 3] in [0, 1].
    """

    rows: dict[str, dict]
    images: dict[str, np.ndarray]


def read_references(metrics: Path, task: str) -> References | None:
    """Read the references of a task; None if they have not been made."""
    figures, strips = _references_of(metrics, task)
    if not (figures.is_file() and all(strip.is_file() for strip in strips.values())):
        return None
    return References(json.loads(figures.read_text("utf-8")), {name: read_strip(path) for name, path in strips.items()})


def make_references(metrics: Path, task: str, evaluator: Evaluator) -> None:
    """Measure the references of a task and write them."""
    shown = {
        "condition": (evaluator.conditions[..., :3], evaluator.of_condition()),
        "autoencoder": (evaluator.reconstructions, evaluator.measure(evaluator.reconstructions, evaluator.latents)),
        "original": (evaluator.images, evaluator.measure(evaluator.images, evaluator.latents)),
    }
    figures, strips = _references_of(metrics, task)
    for name, (images, _) in shown.items():
        write_strip(strips[name], images)
    rows = {name: measured.row() for name, (_, measured) in shown.items()}
    figures.write_text(json.dumps(rows, indent=1) + "\n", "utf-8")


def _references_of(metrics: Path, task: str) -> tuple[Path, dict[str, Path]]:
    folder = metrics / task
    return folder / "references.json", {name: folder / "images" / f"{name}.png" for name in REFERENCES}
