"""DDPM, ancestral sampling: against the paper's posterior, on data whose distribution is known, and diffusers'."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from gaussian_data import MEAN, SCHEDULE, SHAPE, STD, gaussian_denoiser, level, mean_and_std, noise

from codi_tf.core.errors import UserError
from codi_tf.diffusion import process as diffusion
from codi_tf.diffusion.samplers.ddpm import ddpm_grid
from codi_tf.diffusion.sampling import make_checkpoint_grid, sample, trajectory
from codi_tf.diffusion.scheduler_config import make_schedule_of

CONFIG = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "clip_sample": False}


@pytest.mark.parametrize("num_steps", [1, 4, 50])
def test_steps_draw_from_the_posterior(num_steps):
    """Ho et al. 2020, Eq. 6 and 7, with beta of the whole step, in float64. Catches a wrong mean or variance."""
    grid = ddpm_grid(SCHEDULE, num_steps)
    eps = np.random.default_rng(1).normal(size=(grid.draws, *SHAPE)).astype(np.float32)
    assert grid.draws == num_steps - 1
    times, z = [*(step.t for step in grid.steps), None], np.float64(noise())
    for i, (prediction, z_s) in enumerate(trajectory(gaussian_denoiser(), tf.constant(noise()), grid, eps)):
        (alpha_t, sigma_t), (alpha_s, sigma_s) = level(times[i]), level(times[i + 1])
        beta, x_hat = 1 - (alpha_t / alpha_s) ** 2, np.float64(prediction.x_hat)
        mean = alpha_s * beta / sigma_t**2 * x_hat + np.sqrt(1 - beta) * sigma_s**2 / sigma_t**2 * z
        drawn = np.sqrt(sigma_s**2 / sigma_t**2 * beta) * eps[i] if sigma_s else 0.0
        np.testing.assert_allclose(z_s, mean + drawn, rtol=0, atol=5e-6)
        z = np.float64(z_s)


@pytest.mark.parametrize("num_steps", [2, 10])
def test_a_point_mass_has_its_marginals_after_every_step(num_steps):
    """z_s ~ N(alpha_s m, sigma_s^2), exactly. Catches noise of a wrong strength."""
    grid = ddpm_grid(SCHEDULE, num_steps)
    alpha, sigma = level(999)
    moments = mean_and_std(gaussian_denoiser(std=0.0), grid, alpha * MEAN, sigma)
    ends = [level(t) for t in (*(step.t for step in grid.steps[1:]), None)]
    np.testing.assert_allclose(moments, [(a * MEAN, s) for a, s in ends], rtol=0, atol=3e-6)


def test_it_converges_to_the_distribution_of_the_data():
    """N(m, S^2), at first order: halving the steps halves the error of the standard deviation."""
    alpha, sigma = level(999)
    start = (alpha * MEAN, float(np.hypot(alpha * STD, sigma)))
    ends = {n: mean_and_std(gaussian_denoiser(), ddpm_grid(SCHEDULE, n), *start)[-1] for n in (50, 100, 200)}
    errors = {n: abs(std - STD) for n, (_, std) in ends.items()}
    assert max(abs(mean - MEAN) for mean, _ in ends.values()) < 1e-4
    assert errors[50] > 1.7 * errors[100] > 1.7**2 * errors[200] and errors[200] < 0.02


@pytest.mark.parametrize("spacing", diffusion.TIMESTEP_SPACINGS)
@pytest.mark.parametrize("prediction_type", diffusion.PREDICTION_TYPES)
def test_samples_are_diffusers(monkeypatch, spacing, prediction_type):
    """The whole loop of DDPMScheduler, from the same noise. Catches other times, ends or variances."""
    torch, diffusers = pytest.importorskip("torch"), pytest.importorskip("diffusers")
    from diffusers.schedulers import scheduling_ddpm

    config = {**CONFIG, "timestep_spacing": spacing, "prediction_type": prediction_type, "steps_offset": 1}
    schedule = make_schedule_of(config)
    exact = gaussian_denoiser(schedule=schedule)
    field = {"epsilon": "eps_hat", "v_prediction": "v_hat", "sample": "x_hat"}[prediction_type]
    for num_steps in (1, 5, 20):
        eps = np.random.default_rng(2).normal(size=(num_steps, *SHAPE)).astype(np.float32)
        drawn = iter(eps)
        monkeypatch.setattr(scheduling_ddpm, "randn_tensor", lambda *a, d=drawn, **k: torch.from_numpy(next(d)))
        scheduler = diffusers.DDPMScheduler.from_config(config)
        scheduler.set_timesteps(num_steps)
        z = torch.from_numpy(noise())
        for t in scheduler.timesteps:
            output = getattr(exact(z.numpy(), int(t)), field).numpy()
            z = scheduler.step(torch.from_numpy(output), t, z).prev_sample
        grid = make_checkpoint_grid("ddpm", config, schedule, num_steps)
        assert [step.t for step in grid.steps] == scheduler.timesteps.tolist()
        got = sample(exact, tf.constant(noise()), grid, eps)
        np.testing.assert_allclose(got, z.numpy(), rtol=0, atol=5e-6)


def test_another_variance_than_the_posteriors_is_refused():
    config = {**CONFIG, "variance_type": "fixed_large"}
    with pytest.raises(UserError, match="variance_type is 'fixed_large'.*only fixed_small"):
        make_checkpoint_grid("ddpm", config, make_schedule_of(config), 4)
