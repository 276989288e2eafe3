"""Steps that are not finite, micro-batches, float16: what a step does when numbers or memory run out."""

from __future__ import annotations

import dataclasses
import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import make_model
from tiny import tiny_base, tiny_run

from codi_tf import config
from codi_tf.cli.train import train
from codi_tf.core.errors import UserError
from codi_tf.methods.codi import ConditionalDistillation
from codi_tf.trainers.optimizers import FusedAdamW
from codi_tf.trainers.trainer import FIRST_SCALE
from codi_tf.training.states import read_state

pytestmark = pytest.mark.usefixtures("eager")


def latents(count=4, poison=None):
    random = np.random.default_rng(0)
    batch = {name: random.normal(size=(count, 4, 4, 4)).astype("float32") for name in ("latent", "condition_latent")}
    if poison is not None:
        batch["latent"][1, 0, 0, 0] = poison
    return {name: tf.constant(value) for name, value in batch.items()}


def compiled(optimizer=FusedAdamW, **options):
    model = make_model(tiny_base(), ema_decay=0.9, **options)
    model.compile(optimizer(1e-3, global_clipnorm=1.0))
    return model


def values(model):
    networks = (model.student, model.target, model.average)
    return [v.numpy() for part in (*networks, model.optimizer) for v in part.variables]


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("optimizer", [FusedAdamW, keras.optimizers.AdamW])
@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_a_step_that_is_not_finite_changes_nothing_and_is_counted(optimizer, poison):
    model = compiled(optimizer)
    model.train_step(latents())
    before = values(model)
    for count in (1, 2):
        logs = model.train_step(latents(poison=poison))
        assert float(logs["skipped"]) == 1 and int(model.skipped_in_row.numpy()) == count
    assert same(values(model), before)
    logs = model.train_step(latents())
    assert float(logs["skipped"]) == 0 and int(model.skipped_in_row.numpy()) == 0
    assert not same(values(model), before) and np.isfinite(np.concatenate([v.ravel() for v in values(model)])).all()


@pytest.mark.parametrize("t", ["shared", "per_sample"])
def test_micro_batches_give_the_step_of_the_whole_batch(t):
    """The same draws, gradient, clipping, and one optimizer step."""
    method = ConditionalDistillation(t=t, delta=30)
    whole, divided = compiled(method=method), compiled(method=method, accumulate=2)
    logs = [{name: float(v) for name, v in model.train_step(latents()).items()} for model in (whole, divided)]
    assert logs[0] == pytest.approx(logs[1], rel=1e-5)
    for a, b in zip(values(whole), values(divided), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-4, atol=2e-5)  # Adam's first step is a sign: rounding shows
    assert int(divided.optimizer.iterations) == 1


def test_the_scale_of_a_float16_loss_falls_until_gradients_fit_and_such_steps_are_not_held_against_the_data():
    model = compiled(scaled=True)
    assert float(model.scale.numpy()) == FIRST_SCALE
    before = values(model)
    model.scale.assign(2.0**24)
    poisoned = latents(poison=1e36)  # its loss is finite, but not 2^24 times it
    logs = model.train_step(poisoned)
    assert float(logs["skipped"]) == 1 and same(values(model), before)
    assert float(model.scale.numpy()) == 2.0**23 and int(model.skipped_in_row.numpy()) == 0
    model.scale.assign(1.0)
    model.train_step(latents(poison=np.nan))
    assert float(model.scale.numpy()) == 1 and int(model.skipped_in_row.numpy()) == 1


def test_the_scale_changes_no_gradient_and_grows_again():
    plain, scaled = compiled(), compiled(scaled=True)
    logs = [float(model.train_step(latents())["gradient_norm"]) for model in (plain, scaled)]
    assert logs[0] == pytest.approx(logs[1], rel=1e-6)
    assert same(values(plain), values(scaled))  # a power of two
    scaled.good_steps.assign(1999)
    scaled.train_step(latents())
    assert float(scaled.scale.numpy()) == 2 * FIRST_SCALE and int(scaled.good_steps.numpy()) == 0


# Runs


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """An experiment whose rate makes its weights infinite in the first step."""
    values = tiny_run(tmp_path_factory.mktemp("guards"), steps=9, learning_rate=1e38, max_skipped=3)
    return config.from_dict(values)


def test_a_run_that_diverges_ends_with_the_state_before_it(run, tmp_path):
    with (
        pytest.warns(UserWarning, match="not finite") as warned,
        pytest.raises(UserError, match="step 4: loss or gradient not finite, 3 times in a row by now") as caught,
    ):
        train(run, tmp_path / "run")
    line = str(caught.value)
    assert "(examples 6 to 7 in the order of data.seed)" in line and "\n" not in line
    texts = [str(one.message) for one in warned if "not finite" in str(one.message)]
    assert [text.split()[1] for text in texts] == ["2", "3"]
    (state,) = (tmp_path / "run" / "checkpoints").iterdir()
    assert state.name == "step-00000004.safetensors" and read_state(state)["optimizer/00000"] == 1
    assert not (tmp_path / "run" / "result").exists()


def test_skipped_steps_of_a_call_are_named_and_left_out_of_the_log(run, tmp_path):
    """Four steps in a call, of which the first is good."""
    together = dataclasses.replace(run.train, steps=4, steps_per_call=4, log_every=4, max_skipped=9)
    with pytest.warns(UserWarning, match=r"3 of the steps 1 to 4 skipped, .*\(examples 0 to 7 in the order"):
        train(dataclasses.replace(run, train=together), tmp_path / "run")
    (line,) = (json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    assert line["skipped"] == 3 and np.isfinite(line["loss"]) and line["loss"] > 0


def test_a_batch_that_cannot_be_divided_is_refused(run, tmp_path):
    with pytest.raises(UserError, match=r"train.accumulate is 4: it must divide train.batch_size 2"):
        dataclasses.replace(run.train, accumulate=4)


def test_the_log_says_how_fast_it_was(run, tmp_path):
    calm = dataclasses.replace(run, train=dataclasses.replace(run.train, learning_rate=1e-3, steps=4, log_every=2))
    train(calm, tmp_path / "run")
    *_, last = (json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    assert last["images_per_second"] > 0 and last["peak_memory_gb"] > 0.1
    shares = [last[f"{part}_share"] for part in ("input", "network", "average")]
    assert all(0 <= share < 1 for share in shares) and sum(shares) == pytest.approx(1)
