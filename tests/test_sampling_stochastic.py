"""Stochastic samplers on Gaussian data, whose distribution after every step is known."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from gaussian_data import MEAN, SCHEDULE, SHAPE, STD, Recorder, gaussian_denoiser, level, mean_and_std, noise

from codi_tf.diffusion import process as diffusion
from codi_tf.diffusion.samplers.consistency import consistency_grid
from codi_tf.diffusion.samplers.ddim import few_step_grid
from codi_tf.diffusion.samplers.stochastic import stochastic_grid
from codi_tf.diffusion.sampling import make_grid, sample, trajectory


def spread(t: int | None, std: float = STD) -> float:
    """The standard deviation of z_t."""
    alpha, sigma = level(t)
    return float(np.sqrt(alpha**2 * std**2 + sigma**2))


def carried(z, t: int, s: int | None):
    """Where the ODE takes z_t by time s: exact, so that the marginal at t becomes the marginal at s."""
    return level(s)[0] * MEAN + spread(s) / spread(t) * (z - level(t)[0] * MEAN)


def perfect(ends: dict[int, int | None]):
    """A student whose DDIM step from each time t ends where the ODE leads at ends[t], in one step."""

    def denoise(z_t, t):
        t = int(t)
        (alpha_t, sigma_t), (alpha_s, sigma_s) = level(t), level(ends[t])
        x_tilde = diffusion.halving_target(z_t, carried(z_t, t, ends[t]), alpha_t, sigma_t, alpha_s, sigma_s)
        return diffusion.predict(x_tilde, z_t, alpha_t, sigma_t, "sample")

    return denoise


FOUR = {"stochastic": {999: 499, 749: 249, 499: None, 249: None}, "consistency": dict.fromkeys((999, 749, 499, 249))}


@pytest.mark.parametrize("sampler", ["stochastic", "consistency"])
def test_a_perfect_student_has_the_datas_distribution_after_every_step(sampler):
    """Steps along the exact ODE, t -> k, keep the marginals; so do the steps of noise, if they have the right size."""
    grid = make_grid(sampler, SCHEDULE, 4)
    start = (level(999)[0] * MEAN, spread(999))
    for (mean, std), s in zip(mean_and_std(perfect(FOUR[sampler]), grid, *start), (749, 499, 249, None), strict=True):
        np.testing.assert_allclose((mean, std), (level(s)[0] * MEAN, spread(s)), rtol=0, atol=3e-6)


@pytest.mark.parametrize("num_steps", [2, 4, 10])
@pytest.mark.parametrize("sampler", ["stochastic", "consistency"])
def test_moments_of_the_best_denoiser_follow_the_recursion(sampler, num_steps):
    """Mean and variance by the printed equations: first z_k, then the noise, in float64."""
    times = [1000 * (num_steps - i) // num_steps - 1 for i in range(num_steps)] + [None, None]
    mean, variance, expected = 0.1, 1.2, []
    for t, s, k in zip(times, times[1:], times[2:], strict=False):
        if sampler == "consistency":
            k = None  # all the way to the data, and back by as much noise as there was
        (alpha_t, sigma_t), (alpha_s, sigma_s), (alpha_k, sigma_k) = level(t), level(s), level(k)
        gain = alpha_t * STD**2 / spread(t) ** 2  # x_hat = MEAN + gain (z - alpha_t MEAN)
        slope = alpha_k * gain + sigma_k * (1 - alpha_t * gain) / sigma_t  # of z_k in z_t
        x_hat = MEAN + gain * (mean - alpha_t * MEAN)
        mean = alpha_k * x_hat + sigma_k * (mean - alpha_t * x_hat) / sigma_t  # Eq. 4
        variance *= slope**2
        # e^(lambda_s - lambda_k), which is 0 where z_k is clean
        odds = (alpha_s / sigma_s) ** 2 / (alpha_k / sigma_k) ** 2 if sigma_s and sigma_k else 0.0
        mean, variance = alpha_s / alpha_k * mean, (alpha_s / alpha_k) ** 2 * variance + (1 - odds) * sigma_s**2
        expected.append((mean, np.sqrt(variance)))  # Eq. 5
    got = mean_and_std(gaussian_denoiser(), make_grid(sampler, SCHEDULE, num_steps), 0.1, np.sqrt(1.2))
    np.testing.assert_allclose(got, expected, rtol=0, atol=5e-6)


def test_stochastic_steps_are_equations_4_to_7():
    """Eq. 4 and 5, Eq. 6 and 7, with h = t - 3/N, k = t - 2/N, s = t - 1/N; N = 4 from t = 1."""
    eps = np.random.default_rng(1).normal(size=(3, *SHAPE)).astype(np.float32)
    recorder = Recorder(gaussian_denoiser())
    result = sample(recorder, tf.constant(noise()), stochastic_grid(SCHEDULE, 4), eps)
    z = noise()
    assert [int(t) for _, t, _ in recorder.calls] == [999, 749, 499, 249]
    for (z_t, _, prediction), t, s, k, draw in zip(
        recorder.calls, (999, 749), (749, 499), (499, 249), eps, strict=False
    ):
        np.testing.assert_allclose(z_t, z, atol=2e-6)
        (alpha_t, sigma_t), (alpha_s, sigma_s), (alpha_k, sigma_k) = level(t), level(s), level(k)
        z_t, x_hat = np.float64(z_t), np.float64(prediction.x_hat)
        z_k = alpha_k * x_hat + sigma_k * (z_t - alpha_t * x_hat) / sigma_t
        lambda_s, lambda_k = np.log(alpha_s**2 / sigma_s**2), np.log(alpha_k**2 / sigma_k**2)
        z = alpha_s / alpha_k * z_k + np.sqrt((1 - np.exp(lambda_s - lambda_k)) * sigma_s**2) * draw
    (_, _, _), (_, _, _), (z_t, _, third), (z_end, _, fourth) = recorder.calls
    np.testing.assert_allclose(z_t, z, atol=2e-6)
    alpha_s, sigma_s = level(249)  # k = 0: z_k is x_hat, and Eq. 5 the forward process
    np.testing.assert_allclose(z_end, alpha_s * np.float64(third.x_hat) + sigma_s * eps[2], atol=2e-6)
    np.testing.assert_array_equal(result, fourth.x_hat)


def test_consistency_steps_noise_the_prediction_anew():
    eps = np.random.default_rng(1).normal(size=(3, *SHAPE)).astype(np.float32)
    recorder = Recorder(gaussian_denoiser())
    result = sample(recorder, tf.constant(noise()), consistency_grid(SCHEDULE, 4), iter(eps))
    for (_, _, before), (z_s, s, _), draw in zip(recorder.calls, recorder.calls[1:], eps, strict=False):
        alpha_s, sigma_s = level(int(s))
        np.testing.assert_allclose(z_s, alpha_s * np.float64(before.x_hat) + sigma_s * draw, atol=2e-6)
    assert [int(t) for _, t, _ in recorder.calls] == [999, 749, 499, 249]
    np.testing.assert_array_equal(result, recorder.calls[-1][2].x_hat)


@pytest.mark.parametrize("num_steps", [1, 2, 3, 7, 1000])
def test_stochastic_steps_keep_the_schedules_noise_levels(num_steps):
    for schedule in (SCHEDULE, diffusion.make_schedule("squaredcos_cap_v2"), diffusion.make_schedule("linear")):
        plain = few_step_grid(schedule, num_steps)
        for grid in (stochastic_grid(schedule, num_steps), consistency_grid(schedule, num_steps)):
            assert grid.draws == num_steps - 1 and plain.draws == 0
            for step, there in zip(grid.steps, plain.steps, strict=True):
                assert step[:4] == there[:4]
                np.testing.assert_allclose(np.hypot(step.sigma_s, step.noise), there.sigma_s, rtol=1e-12)
            assert grid.steps[-1] == plain.steps[-1]


def test_stochastic_samplers_are_exact_for_a_point_mass():
    eps = np.random.default_rng(1).normal(size=(9, *SHAPE)).astype(np.float32)
    for name in ("stochastic", "consistency"):
        for prediction, _ in trajectory(gaussian_denoiser(std=0.0), noise(), make_grid(name, SCHEDULE, 10), eps):
            np.testing.assert_allclose(prediction.x_hat, np.full(SHAPE, MEAN), atol=1e-6)


def test_missing_noise_is_told_and_noise_of_no_use_is_left():
    grid = stochastic_grid(SCHEDULE, 4)
    with pytest.raises(ValueError, match="fewer tensors than the 3"):
        sample(gaussian_denoiser(), noise(), grid, [noise()] * 2)
    left = iter([noise()] * 4)
    sample(gaussian_denoiser(), noise(), grid, left)
    assert len(list(left)) == 1
