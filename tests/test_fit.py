"""Training through Keras: `fit` with its callbacks, and compiling again."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from training_steps import compiled, latents, values


def test_fit_with_ordinary_callbacks_equals_the_plain_loop(eager, tmp_path):
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

    by_hand, losses = compiled(train="adapter", learning_rate=1.0), []
    for step in range(4):
        by_hand.optimizer.learning_rate = _falling_rate(step // 2)
        losses.append(float(by_hand.train_step(batch)["loss"]))
    assert history.history["loss"] == pytest.approx([np.mean(losses[:2]), np.mean(losses[2:])], rel=1e-3)
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


def test_an_epoch_reports_the_mean_of_its_batches(eager):
    """Catches the last batch's loss in place of the epoch's, by which callbacks would judge noise."""
    batches = [latents(count) for count in (4, 4, 2)]
    dataset = tf.data.Dataset.from_generator(
        lambda: iter(batches),
        output_signature={key: tf.TensorSpec([None, 4, 4, 4]) for key in batches[0]},
    )
    alone = compiled(learning_rate=0.0, mu_rate=1.0)
    logs = [{name: float(value) for name, value in alone.train_step(batch).items()} for batch in batches]
    model = compiled(learning_rate=0.0, mu_rate=1.0)
    history = model.fit(dataset, epochs=1, verbose=0).history
    for name in ("loss", "consistency", "guidance", "gradient_norm"):
        expected = np.average([one[name] for one in logs], weights=[4, 4, 2])  # over examples, as in Keras
        assert history[name] == [pytest.approx(expected, rel=1e-5)]
    assert history["skipped"] == [0.0]


def test_skipped_updates_are_left_out_of_the_mean_and_warned_of(eager):
    """Catches NaN in an epoch's mean, and a loss of 0, the best of all, where every update was skipped."""
    good, bad = latents(), {key: value * np.nan for key, value in latents().items()}

    def fit(model, *batches):
        dataset = tf.data.Dataset.from_tensor_slices({key: tf.stack([b[key] for b in batches]) for key in good})
        return model.fit(dataset, verbose=0).history

    alone, model = compiled(train="adapter"), compiled(train="adapter")
    loss = float(alone.train_step(good)["loss"])
    with pytest.warns(UserWarning, match="epoch 1: 1 updates were skipped, their loss or gradient was not finite"):
        history = fit(model, good, bad)
    assert history["loss"] == [pytest.approx(loss, rel=1e-5)] and history["skipped"] == [1.0]
    with pytest.warns(UserWarning, match="2 updates were skipped"):
        history = fit(model, bad, bad)
    assert np.isnan(history["loss"][0]) and history["skipped"] == [2.0]
