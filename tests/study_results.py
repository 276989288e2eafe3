"""Results of the study in a folder, made up."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import make_base

from codi_tf import data
from codi_tf.evaluation.loading import metrics_with
from codi_tf.evaluation.measuring import Evaluator, Measured
from codi_tf.tasks import make_task
from studies.paper import pieces
from studies.paper.measures import FD, figures_of
from studies.paper.plan import BY_NAME, SEEDS, TASKS
from studies.paper.strips import write_strip

N, D, S = 24, 3, 16


def put(
    folder,
    name: str,
    offset: float,
    evaluator,
    *,
    seeds=SEEDS,
    error: float = 0.1,
    sharpness: float = 0.5,
    task=TASKS[0],
):
    """Results of a row: every sample's features are the reference's, shifted: FD-photos is 2 offset^2."""
    row = BY_NAME[name]
    references = evaluator.measure(evaluator.images, evaluator.latents).references
    values = {"psnr": np.full(N, 20.0), "ssim": np.full(N, 0.5), "latent_error": np.full(N, error)}
    values["sharpness"] = sharpness * references["sharpness"] / references["sharpness"].mean()
    values[FD] = references[FD] + offset
    measured = Measured(evaluator.metrics, values, references)
    images = np.clip(evaluator.images * (1 - offset / 10), -1, 1)
    samples = {pieces.sample_name(*way): figures_of(measured, images) for way in row.samples}
    for seed in seeds:
        about = {"commit": "Some commit", "stages": pieces.chain_of(row, task, seed), "cpu_seconds": 7}
        path = pieces.metrics_of(row, task, seed, folder)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(pieces.as_json({**about, "samples": samples}))
    write_strip(pieces.strip_of(row, task, "ddim-4", folder), images)


@pytest.fixture(scope="module")
def evaluator():
    examples = data.evaluation_set(
        data.load_photos("heldout"), make_task("super_resolution"), image_size=S, count=N, seed=0
    )

    def first_pixels(images):
        return images[:, 0, :2, 0]

    return Evaluator(examples["image"], examples["condition"], make_base(), metrics_with(first_pixels))


@pytest.fixture
def folder(tmp_path):
    """Where results lie."""
    return tmp_path / "runs" / "study" / "metrics"
