"""Training through Keras: `fit` with its callbacks, and compiling again."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from training_steps import compiled, latents, values


def test_fit_with_ordinary_callbacks_equals_the_plain_loop(tmp_path):
    batch = latents()
    model = compiled(train="adapter", learning_rate=1.0)
    weights, log = tmp_path / "best.weights.h5", tmp_path / "log.csv"
    callbacks = [
        keras.callbacks.TerminateOnNaN(),
        keras.callbacks.ModelCheckpoint(weights, save_weights_only=True),
        keras.callbacks.CSVLogger(log),
        keras.callbacks.LearningRateScheduler(_falling_rate),
    ]
    dataset = tf.data.Dataset.from_tensors(batch).repeat(2)
    history = model.fit(dataset, epochs=2, callbacks=callbacks, verbose=0)

    rows = log.read_text().splitlines()
    assert len(rows) == 3 and set(rows[0].split(",")) >= {"loss", "consistency", "guidance", "gradient_norm"}
    assert history.history["learning_rate"] == pytest.approx([1e-3, 5e-4])

    by_hand = compiled(train="adapter", learning_rate=1.0)
    for step in range(4):
        by_hand.optimizer.learning_rate = _falling_rate(step // 2)
        logs = by_hand.train_step(batch)
    assert history.history["loss"][-1] == pytest.approx(float(logs["loss"]), rel=1e-3)
    for expected, value in zip(values(by_hand.student.variables), values(model.student.variables), strict=True):
        np.testing.assert_allclose(value, expected, atol=2e-5)

    fresh = compiled(train="adapter")
    fresh.load_weights(weights)
    for expected, value in zip(values(model.variables), values(fresh.variables), strict=True):
        np.testing.assert_array_equal(value, expected)
    assert int(fresh.optimizer.iterations) == 4


def _falling_rate(epoch, rate=None):
    return 1e-3 / (epoch + 1)


def test_compiling_again_goes_on_with_the_same_average():
    model = compiled()
    model.train_step(latents())
    average = model.average
    before = values(average.variables)
    model.compile(keras.optimizers.AdamW(1e-4))
    assert model.average is average
    for expected, value in zip(before, values(average.variables), strict=True):
        np.testing.assert_array_equal(value, expected)
