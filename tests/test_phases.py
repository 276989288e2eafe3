"""The phases of progressive distillation: planned, unequally long, each with its own run of the learning rate."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from tiny import tiny_base

from codi_tf import config
from codi_tf.adapters.adapted import AdaptedUNet
from codi_tf.core.errors import UserError
from codi_tf.diffusion.halving import halving_steps
from codi_tf.methods.draws import Draws
from codi_tf.methods.guided import Guided
from codi_tf.training.experiment import make_optimizer


def stage_2(**options) -> Guided:
    return Guided(stage=2, **options)


def test_a_plan_names_the_teacher_and_the_last_student():
    """Catches a first student of as many steps as the teacher, and a plan that a saved run could not read again."""
    settings = stage_2(steps={"from": 512, "to": 4}, updates=[2000, 20000])
    assert settings.steps == [256, 128, 64, 32, 16, 8, 4] and settings.sampling_steps == 4
    assert settings.phase_updates == [2000] * 6 + [20000]
    assert settings.phase_lengths(32000) == (*[2000] * 6, 20000)
    assert settings.phase_lengths(33000)[-1] == 21000  # the rest
    assert stage_2(steps=settings.steps, updates=settings.updates) == settings


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": {"from": 512, "to": 5}}, "from must be to, times 2 for each phase"),
        ({"steps": {"from": 4, "to": 4}}, "from must be to, times 2"),
        ({"steps": {"from": 4, "to": 8}}, "from must be to, times 2"),
        ({"steps": {"from": 512}}, "as {from: 512, to: 4}"),
        ({"steps": {"from": 512, "to": 4, "by": 2}}, "as {from: 512, to: 4}"),
        ({"steps": {"from": "512", "to": 4}}, "as {from: 512, to: 4}"),
        ({"steps": [8, 4], "updates": []}, "must be the optimizer steps of a phase, or a list"),
        ({"steps": [8, 4], "updates": [5, 0]}, "must be the optimizer steps of a phase, or a list"),
        ({"steps": [8, 4], "updates": [5, 6, 7]}, "there are only 2 phases"),
    ],
)
def test_bad_plans_are_refused_in_one_line(options, message):
    with pytest.raises(UserError, match=message) as error:
        stage_2(**{"updates": 1, **options})
    assert "\n" not in str(error.value)


def test_phases_of_unequal_length_begin_at_their_own_updates():
    """Catches steps and teachers that change at multiples of the first phase's length."""
    base = tiny_base()
    settings = stage_2(steps=[8, 4, 2], updates=[2, 3, 4])
    method = settings.build(base, AdaptedUNet(base.unet, name="student"))
    average = method.start_average()
    x, changed = tf.zeros((100, 4, 4, 4)), []
    for step in range(10):
        for variable in average.variables[:1]:
            variable.assign(variable + 1.0)
        before = method.teacher.variables[0].numpy()
        method.begin_step(tf.constant(step, tf.int64))
        if not np.array_equal(before, method.teacher.variables[0].numpy()):
            changed.append(step)
        drawn = set(np.asarray(method._draw_steps(x, Draws(0, tf.constant(step, tf.int64))).t).tolist())
        count = 8 if step < 2 else 4 if step < 5 else 2
        assert drawn == {one.t for one in halving_steps(base.schedule, count)}
    assert changed == [2, 5]


def test_the_rate_restarts_with_each_phase_and_does_not_drift():
    """Catches restarts after equal shares of the run, which drift away from phases of unequal length."""
    settings = stage_2(steps=[8, 4, 2], updates=[3, 7, 9])
    train = config.Train(steps=23, cycles=0, warmup_steps=0, learning_rate=2.0)
    optimizer = make_optimizer(train, settings.phase_lengths(train.steps))
    optimizer.build([])
    lengths, rates = (3, 7, 13), []
    for step in range(24):
        optimizer.iterations.assign(step)
        rates.append(float(optimizer.learning_rate))
    expected = [1.0 + np.cos(np.pi * k / length) for length in lengths for k in range(length)]
    np.testing.assert_allclose(rates, [*expected, 0.0], atol=1e-6)
    rate = optimizer._learning_rate
    again = keras.optimizers.schedules.deserialize(
        keras.optimizers.schedules.serialize(rate), custom_objects={"CosinePhases": type(rate)}
    )
    assert float(again(4)) == rates[4]


def test_a_run_of_one_phase_decays_once():
    optimizer = make_optimizer(config.Train(steps=10, cycles=0, warmup_steps=0, learning_rate=2.0))
    np.testing.assert_allclose([float(optimizer._learning_rate(k)) for k in (0, 5, 10)], [2.0, 1.0, 0.0], atol=1e-6)
    with pytest.raises(UserError, match="train.cycles is 0: it needs decay cosine and warmup_steps 0"):
        config.Train(steps=10, cycles=0)
