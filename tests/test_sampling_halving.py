"""Grids of progressive halving: two steps of the teacher are one of the student."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from gaussian_data import SCHEDULE, gaussian_denoiser, level, noise

from codi_tf.core.errors import UserError
from codi_tf.diffusion import process as diffusion
from codi_tf.diffusion.halving import halving_steps
from codi_tf.diffusion.samplers.ddim import few_step_grid
from codi_tf.diffusion.samplers.stochastic import stochastic_grid


def test_halving_leads_over_the_middle_of_every_step():
    pairs = halving_steps(SCHEDULE, 4)
    assert [(pair.t, pair.mid) for pair in pairs] == [(999, 874), (749, 624), (499, 374), (249, 124)]
    assert [pair[6:] for pair in pairs] == [level(s) for s in (749, 499, 249, None)]
    for pair in pairs:
        assert pair[1:3] == level(pair.t) and pair[4:6] == level(pair.mid)


def test_halving_for_the_stochastic_sampler_leads_over_the_next_time():
    pairs = halving_steps(SCHEDULE, 4, stochastic=True)
    assert [(pair.t, pair.mid) for pair in pairs] == [(999, 749), (749, 499), (499, 249), (249, 124)]
    assert [pair[6:] for pair in pairs] == [level(s) for s in (499, 249, None, None)]
    for pair, step in zip(pairs, stochastic_grid(SCHEDULE, 4).steps, strict=True):  # the same DDIM step, without noise
        kept = step.alpha_s / pair.alpha_s * pair.sigma_s
        assert (pair.t, kept) == (step.t, pytest.approx(step.sigma_s, rel=1e-12))
    assert halving_steps(SCHEDULE, 1, stochastic=True) == halving_steps(SCHEDULE, 1)


@pytest.mark.parametrize("num_steps", [1, 3, 4, 333])
def test_a_teachers_grid_is_the_halved_one(num_steps):
    """Two steps of the teacher's grid are one pair, whatever the rounding of the times."""
    pairs = halving_steps(SCHEDULE, num_steps)
    teacher = few_step_grid(SCHEDULE, 2 * num_steps).steps
    assert [pair[:3] for pair in pairs] == [step[:3] for step in teacher[::2]]
    assert [pair[3:6] for pair in pairs] == [step[:3] for step in teacher[1::2]]
    assert [pair[6:] for pair in pairs] == [step[3:5] for step in teacher[1::2]]


@pytest.mark.parametrize("stochastic", [False, True])
@pytest.mark.parametrize("num_steps", [1, 4])
def test_one_step_with_the_halved_target_is_two_steps_of_the_teacher(num_steps, stochastic):
    """And the target is a mean of what the teacher said, weighted by the ways in alpha / sigma."""
    teacher = gaussian_denoiser()
    for pair in halving_steps(SCHEDULE, num_steps, stochastic=stochastic):
        z_t = tf.constant(noise())
        first = teacher(z_t, pair.t)
        second = teacher(diffusion.ddim_step(first, pair.alpha_mid, pair.sigma_mid), pair.mid)
        z_s = diffusion.ddim_step(second, pair.alpha_s, pair.sigma_s)
        x_tilde = diffusion.halving_target(z_t, z_s, pair.alpha_t, pair.sigma_t, pair.alpha_s, pair.sigma_s)
        student = diffusion.predict(x_tilde, z_t, pair.alpha_t, pair.sigma_t, "sample")
        np.testing.assert_allclose(diffusion.ddim_step(student, pair.alpha_s, pair.sigma_s), z_s, atol=1e-6)
        if pair.sigma_s == 0.0:
            np.testing.assert_array_equal(x_tilde, second.x_hat)
        else:
            a, b, c = (
                pair.alpha_t / pair.sigma_t,
                pair.alpha_mid / pair.sigma_mid,
                pair.alpha_s / pair.sigma_s,
            )
            mean = ((b - a) * np.float64(first.x_hat) + (c - b) * np.float64(second.x_hat)) / (c - a)
            np.testing.assert_allclose(x_tilde, mean, atol=5e-6)


@pytest.mark.parametrize("num_steps", [0, 501, 2.0])
def test_halving_refuses_more_steps_than_there_are_times_between(num_steps):
    with pytest.raises(UserError, match=f"num_steps is {num_steps}; it must be a whole number from 1 to 500"):
        halving_steps(SCHEDULE, num_steps)
