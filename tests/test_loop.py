"""The loop's clock: time spent waiting for a batch is told apart from time spent on it."""

from __future__ import annotations

import time

import numpy as np
import pytest
import tensorflow as tf
from conftest import make_model
from tiny import tiny_base

from codi_tf.trainers.optimizers import FusedAdamW
from codi_tf.training.loop import WAITED, make_loop

STEPS, PAUSE = 6, 0.25  # seconds


@pytest.fixture(scope="module")
def run():
    """(run, batches): a compiled loop, and a dataset of one batch again and again."""
    model = make_model(tiny_base())
    model.compile(FusedAdamW(1e-3))
    random = np.random.default_rng(0)
    batch = {name: random.normal(size=(8, 8, 8, 4)).astype("float32") for name in ("latent", "condition_latent")}
    batches = tf.data.Dataset.from_tensors(batch).repeat()
    run = make_loop(model, tf.distribute.get_strategy())
    run(iter(batches), tf.constant(1), tf.constant(0))  # traces
    return run, batches


def waiting(run, batches) -> tuple[float, float]:
    """Seconds that STEPS steps of one call waited, and that they took."""
    iterator = iter(batches)
    began = time.perf_counter()
    sums = run(iterator, tf.constant(STEPS), tf.constant(0))
    return float(sums[WAITED]), time.perf_counter() - began


def test_batches_that_are_there_take_no_time(run):
    waited, took = waiting(*run)
    assert 0 < waited < 0.2 * took


def test_batches_that_come_late_are_waited_for(run):
    run, batches = run
    _, quick = waiting(run, batches)

    def late(x):
        return tf.numpy_function(lambda x: (time.sleep(PAUSE), x)[1], [x], tf.float32)

    slow = batches.map(
        lambda batch: {k: tf.ensure_shape(late(v) if k == "latent" else v, v.shape) for k, v in batch.items()}
    )
    waited, took = waiting(run, slow)
    assert STEPS * PAUSE / 2 < waited < took  # the next batch is made beside the step
    assert took - waited < 3 * quick
