"""What Keras' compile, fit and evaluate take: it does what it says, or one line says what to use instead."""

from __future__ import annotations

import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import make_model
from tiny import tiny_base
from training_steps import compiled, latents, values

from codi_tf.core.errors import UserError

SGD = keras.optimizers.SGD


def model_with(optimizer="adamw", **options):
    model = make_model(tiny_base(), train="adapter", mu_rate=1.0)
    model.compile(optimizer, **options)
    return model


def dataset(count=2):
    return tf.data.Dataset.from_tensors(latents()).repeat(count)


def line_of(call) -> str:
    with pytest.raises(UserError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("options", "instead"),
    [
        ({"loss": "mse"}, r"CoDi\(method="),
        ({"loss_weights": [1.0]}, "guidance_weight"),
        ({"metrics": ["mae"]}, "codi evaluate"),
        ({"weighted_metrics": ["mae"]}, "codi evaluate"),
        ({"optimiser": "sgd"}, "it takes optimizer, jit_compile"),
        ({"optimizer": None}, "give one of keras.optimizers"),
        ({"optimizer": "adamx"}, "give one of keras.optimizers"),
        ({"optimizer": SGD(0.1, gradient_accumulation_steps=4)}, r"CoDi\(accumulate="),
        ({"optimizer": SGD(0.1, loss_scale_factor=8.0)}, "compute='float16'"),
        ({"optimizer": keras.optimizers.LossScaleOptimizer(SGD(0.1))}, "compute='float16'"),
        ({"optimizer": SGD(0.1, use_ema=True)}, r"CoDi\(ema_decay="),
    ],
)
def test_what_compile_cannot_do_is_refused(options, instead):
    """Catches options that a step ignores: gradients divided by a scale that the loss never had, and worse."""
    line = line_of(lambda: model_with(**options))
    assert re.search(instead, line), line


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float16"])
def test_a_dtype_policy_that_nothing_follows_is_refused(policy):
    """Catches half precision that is asked for and not used."""
    keras.config.set_dtype_policy(policy)
    try:
        line = line_of(model_with)
    finally:
        keras.config.set_dtype_policy("float32")
    assert policy in line and "compute='float16'" in line


@pytest.mark.parametrize("clip", [{"clipnorm": 0.01}, {"clipvalue": 1e-3}, {"global_clipnorm": 0.02}])
def test_keras_optimizers_clip_the_whole_batchs_gradient(clip):
    """Catches clipping that is left out: against the rule, by hand, on the gradient of an unclipped step."""
    plain, clipped = model_with(SGD(1.0)), model_with(SGD(1.0, **clip))
    start = values(plain.student.adapter.variables)
    for model in (plain, clipped):
        model.train_step(latents())
    moves = [b - a for a, b in zip(start, values(plain.student.adapter.variables), strict=True)]
    norm = np.sqrt(sum(np.square(move.astype("float64")).sum() for move in moves))
    for old, move, new in zip(start, moves, values(clipped.student.adapter.variables), strict=True):
        if "clipnorm" in clip:
            expected = move * min(1.0, 0.01 / max(np.linalg.norm(move), 1e-12))
        elif "clipvalue" in clip:
            expected = np.clip(move, -1e-3, 1e-3)
        else:
            expected = move * min(1.0, 0.02 / norm)
        np.testing.assert_allclose(new - old, expected, atol=2e-7)


def test_schedules_of_the_learning_rate_count_updates():
    """Catches a schedule that stands still: an update at rate 0 changes nothing."""
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([0], [1e-2, 0.0])
    model = model_with(SGD(schedule))
    start = values(model.student.variables)
    model.train_step(latents())
    first = values(model.student.variables)
    model.train_step(latents())
    assert not all(map(np.array_equal, start, first)) and all(
        map(np.array_equal, first, values(model.student.variables))
    )


@pytest.mark.slow  # traces; test_fit.py keeps a fit that equals steps by hand
@pytest.mark.parametrize("options", [{"run_eagerly": True}, {"steps_per_execution": 2}])
def test_how_steps_are_run_changes_no_weight(options):
    """Catches draws that depend on how steps are called."""
    plain, other = model_with(), model_with(**options)
    losses = [model.fit(dataset(), verbose=0).history["loss"] for model in (plain, other)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    for expected, value in zip(values(plain.student.variables), values(other.student.variables), strict=True):
        np.testing.assert_allclose(value, expected, atol=1e-5)


def test_what_stands_beside_a_batch_is_refused():
    """Catches weights and targets that nothing uses."""
    model, x = model_with(), {key: value.numpy() for key, value in latents().items()}
    for name in ("y", "sample_weight", "class_weight"):
        assert line_of(lambda name=name: model.fit(x, **{name: {0: 1.0}})).startswith(f"fit({name}=...)")
        assert line_of(lambda name=name: model.train_on_batch(x, **{name: {0: 1.0}})).startswith("train_on_batch(")
    assert line_of(lambda: model.fit(x, validation_data=(x, x))).startswith("fit(y=...)")
    assert line_of(lambda: model.evaluate(x, x)).startswith("evaluate(y=...)")
    for call in (model.predict, model.predict_on_batch, model):
        assert "generate(condition" in line_of(lambda call=call: call(x))


def test_evaluate_gives_the_methods_losses_by_draws_of_its_own(eager):
    """Catches an evaluation that fails, changes weights, or moves training's draws; val_loss for callbacks."""
    model, other = compiled(train="adapter"), compiled(train="adapter")
    stop = keras.callbacks.EarlyStopping("val_loss", patience=0, min_delta=1e9)
    history = model.fit(dataset(), epochs=5, validation_data=dataset(1), callbacks=stop, verbose=0).history
    assert len(history["val_loss"]) == 2  # stopped after the first epoch that was no better
    other.fit(dataset(), epochs=2, verbose=0)
    for expected, value in zip(values(other.variables), values(model.variables), strict=True):
        np.testing.assert_array_equal(value, expected)
    assert history["val_loss"][-1] == pytest.approx(history["val_consistency"][-1] + history["val_guidance"][-1])

    before = values(model.variables)
    first, again = (model.evaluate(dataset(2), verbose=0, return_dict=True) for _ in range(2))
    assert first == again and all(map(np.array_equal, before, values(model.variables)))
    batch = {key: value.numpy() for key, value in latents().items()}
    assert model.evaluate(batch, verbose=0)[0] == pytest.approx(history["val_loss"][-1], rel=1e-5)
    assert model.test_on_batch(batch)[0] == pytest.approx(history["val_loss"][-1], rel=1e-5)
    assert first["loss"] != pytest.approx(history["val_loss"][-1], rel=1e-3)  # the second batch has other draws


@pytest.mark.slow  # traces; test_batches.py keeps each form of data
def test_arrays_and_generators_are_batches_too():
    """Catches forms of data that Keras takes and a step does not."""
    plain, x = model_with(), {key: value.numpy() for key, value in latents(4).items()}
    halves = [{key: value[i : i + 2] for key, value in x.items()} for i in (0, 2)]
    for half in halves:
        plain.train_step(half)
    arrays, generator, on_batch = model_with(), model_with(), model_with()
    arrays.fit(x, batch_size=2, shuffle=False, verbose=0)
    generator.fit((half for half in halves), verbose=0)
    for half in halves:
        on_batch.train_on_batch(half)
    for model in (arrays, generator, on_batch):
        for expected, value in zip(values(plain.student.variables), values(model.student.variables), strict=True):
            np.testing.assert_allclose(value, expected, atol=1e-5)
