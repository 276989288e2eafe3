"""The samplers on data whose probability-flow ODE has a closed form: x ~ N(m, S^2), elementwise.

The best denoiser is E[x | z_t] = m + alpha S^2 / (alpha^2 S^2 + sigma^2) (z_t - alpha m), and along an ODE trajectory
z_t = alpha_t m + sqrt(alpha_t^2 S^2 + sigma_t^2) u with u constant. test_schedules.py compares with diffusers' solvers.
"""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from gaussian_data import MEAN, SCHEDULE, SHAPE, STD, Recorder, gaussian_denoiser, noise

from codi_tf.core.errors import UserError
from codi_tf.diffusion import process as diffusion
from codi_tf.diffusion.grid import sdedit_grid, sdedit_start
from codi_tf.diffusion.samplers import SAMPLERS
from codi_tf.diffusion.samplers.consistency import consistency_grid
from codi_tf.diffusion.samplers.ddim import ddim_grid, few_step_grid
from codi_tf.diffusion.samplers.dpm import dpm_grid
from codi_tf.diffusion.samplers.stochastic import stochastic_grid
from codi_tf.diffusion.sampling import few_step, few_step_trajectory, guided, make_grid, sample, trajectory


def exact_ode_end(z: np.ndarray, std: float = STD) -> np.ndarray:
    """The end of the trajectory, where alpha = 1 and sigma = 0, in float64."""
    alpha_t, sigma_t = float(SCHEDULE.alpha[-1]), float(SCHEDULE.sigma[-1])
    return MEAN + std * (z - alpha_t * MEAN) / np.sqrt(alpha_t**2 * std**2 + sigma_t**2)


@pytest.mark.parametrize("num_steps", [1, 2, 4, 50])
def test_a_step_is_one_network_evaluation(num_steps):
    recorder = Recorder(gaussian_denoiser())
    few_step(recorder, tf.constant(noise()), SCHEDULE, num_steps)
    interval = 1000 // num_steps
    assert [int(t) for _, t, _ in recorder.calls] == list(range(999, -1, -interval))
    assert all(t.dtype == tf.int32 and t.shape == () for _, t, _ in recorder.calls)


def test_one_step_is_the_predicted_signal_itself():
    z = tf.constant(noise())
    np.testing.assert_array_equal(few_step(gaussian_denoiser(), z, SCHEDULE, 1), gaussian_denoiser()(z, 999).x_hat)


def test_steps_follow_equation_7():
    recorder = Recorder(gaussian_denoiser())
    result = few_step(recorder, tf.constant(noise()), SCHEDULE, 4)
    np.testing.assert_array_equal(recorder.calls[0][0], noise())
    times = (999, 749, 499, 249)
    for (z_t, _, prediction), (z_s, _, _), t, s in zip(
        recorder.calls, recorder.calls[1:], times, times[1:], strict=False
    ):
        (alpha_t, alpha_s), (sigma_t, sigma_s) = (table[[t, s]].astype(np.float64) for table in SCHEDULE)
        z_t, x_hat = np.float64(z_t), np.float64(prediction.x_hat)
        np.testing.assert_allclose(z_s, alpha_s * x_hat + sigma_s * (z_t - alpha_t * x_hat) / sigma_t, atol=2e-6)
    np.testing.assert_array_equal(result, recorder.calls[-1][2].x_hat)


def test_converges_to_the_exact_ode_solution_at_first_order():
    z = noise()
    errors = {
        n: np.abs(few_step(gaussian_denoiser(), tf.constant(z), SCHEDULE, n) - exact_ode_end(z)).max()
        for n in (25, 50, 100, 200)
    }
    for n in (25, 50, 100):  # halving the step halves the error
        assert 1.7 < errors[n] / errors[2 * n] < 2.2
    assert errors[200] < 0.025


@pytest.mark.parametrize("num_steps", [1, 3, 50])
def test_is_exact_for_a_point_mass_in_any_number_of_steps(num_steps):
    z = tf.constant(noise())
    eps = (noise() - SCHEDULE.alpha[-1] * MEAN) / SCHEDULE.sigma[-1]
    predictions = list(few_step_trajectory(gaussian_denoiser(std=0.0), z, SCHEDULE, num_steps))
    assert len(predictions) == num_steps
    for prediction in predictions:  # signal and noise are constant along the trajectory
        np.testing.assert_allclose(prediction.x_hat, np.full(SHAPE, MEAN), atol=1e-6)
        np.testing.assert_allclose(prediction.eps_hat, eps, atol=5e-5)


def test_trajectory_ends_where_the_sampler_does():
    z = tf.constant(noise())
    *_, last = few_step_trajectory(gaussian_denoiser(), z, SCHEDULE, 4)
    np.testing.assert_array_equal(last.x_hat, few_step(gaussian_denoiser(), z, SCHEDULE, 4))


@pytest.mark.parametrize("num_steps", [0, 1001, 4.0])
def test_refuses_a_number_of_steps_outside_the_schedule(num_steps):
    with pytest.raises(UserError, match=f"num_steps is {num_steps}"):
        few_step(gaussian_denoiser(), tf.constant(noise()), SCHEDULE, num_steps)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_traced_equals_eager(jit_compile):
    def sample(z):
        return few_step(gaussian_denoiser(), z, SCHEDULE, 4)

    traced = tf.function(sample, jit_compile=jit_compile)
    np.testing.assert_allclose(traced(tf.constant(noise())), sample(tf.constant(noise())), atol=2e-6)


def test_converts_to_tflite_with_builtin_operators_only():
    @tf.function(input_signature=[tf.TensorSpec(SHAPE)])
    def sample(z):
        return few_step(diffusion.bounded(gaussian_denoiser(), SCHEDULE), z, SCHEDULE, 4)

    module = tf.Module()
    # Without Flex: an operator that LiteRT does not have makes the conversion fail.
    content = tf.lite.TFLiteConverter.from_concrete_functions([sample.get_concrete_function()], module).convert()
    interpreter = Interpreter(model_content=content)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], noise())
    interpreter.invoke()
    got = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    np.testing.assert_allclose(got, sample(tf.constant(noise())), atol=2e-6)


# --- the solvers


def uniform_schedule(num_steps: int = 1201) -> diffusion.Schedule:
    """log(alpha / sigma) falls evenly from 4 to -4, so that linspace times are the solvers' natural grid."""
    alpha = 1 / np.sqrt(1 + np.exp(-2 * np.linspace(4, -4, num_steps)))
    return diffusion.Schedule(alpha.astype(np.float32), np.sqrt(1 - alpha**2).astype(np.float32))


def exact_ode_at(z: np.ndarray, schedule: diffusion.Schedule, t: int) -> np.ndarray:
    alpha, sigma = (table.astype(np.float64) for table in schedule)
    u = (z - alpha[-1] * MEAN) / np.sqrt(alpha[-1] ** 2 * STD**2 + sigma[-1] ** 2)
    return alpha[t] * MEAN + np.sqrt(alpha[t] ** 2 * STD**2 + sigma[t] ** 2) * u


def solver_error(num_steps: int, extrapolate: str, **options) -> float:
    schedule = uniform_schedule()
    grid = dpm_grid(schedule, num_steps, extrapolate=extrapolate, ends_clean=False, **options)
    end = sample(gaussian_denoiser(schedule=schedule), tf.constant(noise()), grid)
    return np.abs(end - exact_ode_at(noise(), schedule, 0)).max()


@pytest.mark.parametrize("extrapolate", ["sample", "epsilon"])
def test_solvers_converge_at_second_order(extrapolate):
    errors = {n: solver_error(n, extrapolate, lower_order_final=False) for n in (20, 40, 80, 160)}
    for n in (20, 40, 80):  # halving the step quarters the error
        assert 3.6 < errors[n] / errors[2 * n] < 4.3
    assert errors[160] < 4e-4


@pytest.mark.parametrize("beta_schedule", ["linear", "scaled_linear", "squaredcos_cap_v2"])
@pytest.mark.parametrize("extrapolate", ["sample", "epsilon"])
def test_solver_steps_follow_the_papers(extrapolate, beta_schedule):
    """DPM-Solver++ (Lu et al. 2022b), Eq. 9 and algorithm 2, DPM-Solver (2022a), Eq. 3.7, multistep; in float64."""
    schedule = diffusion.make_schedule(beta_schedule)
    alpha, sigma = (table.astype(np.float64) for table in schedule)
    grid = dpm_grid(schedule, 20, extrapolate=extrapolate, ends_clean=False)
    lengths = []
    z, before = noise(), None
    steps = trajectory(gaussian_denoiser(schedule=schedule), tf.constant(z), grid)
    times = [*(step.t for step in grid.steps), 0]
    for t, s, (prediction, z_s) in zip(times, times[1:], steps, strict=False):
        lengths.append(np.log(alpha[s] / sigma[s]) - np.log(alpha[t] / sigma[t]))
        h, now = lengths[-1], np.float64(prediction.x_hat if extrapolate == "sample" else prediction.eps_hat)
        d = now if before is None else now + (now - before) / (2 * lengths[-2] / h)
        if extrapolate == "sample":
            expected = sigma[s] / sigma[t] * z - alpha[s] * np.expm1(-h) * d
        else:
            expected = alpha[s] / alpha[t] * z - sigma[s] * np.expm1(h) * d
        scale = alpha[s] / alpha[t] * np.abs(z).max() if extrapolate == "epsilon" else np.abs(expected).max()
        np.testing.assert_allclose(z_s, expected, rtol=0, atol=2e-6 * scale)
        z, before = np.float64(z_s), now


def test_few_steps_end_in_a_first_order_step():
    """The last of fewer than 15 steps is DDIM's; so is the first of any number, and all others are extrapolated."""
    for num_steps, first_order in ((2, [0, 1]), (14, [0, 13]), (15, [0]), (40, [0])):
        grid = dpm_grid(SCHEDULE, num_steps, extrapolate="epsilon", ends_clean=False)
        assert [i for i, step in enumerate(grid.steps) if step.ratio == 0] == first_order
    ends = [dpm_grid(SCHEDULE, 40, extrapolate="sample", ends_clean=True).steps[-1]]
    ends += [dpm_grid(SCHEDULE, 40, extrapolate="sample", ends_clean=False, euler_at_final=True).steps[-1]]
    assert [step.ratio for step in ends] == [0, 0]
    assert ends[0][3:5] == (1, 0) and ends[1][3:5] == (SCHEDULE.alpha[0], SCHEDULE.sigma[0])


GRIDS = {
    "few_step": lambda n: few_step_grid(SCHEDULE, n),
    "ddim": lambda n: ddim_grid(SCHEDULE, n, offset=1),
    "dpm": lambda n: dpm_grid(SCHEDULE, n, extrapolate="epsilon", ends_clean=False),
    "dpm++": lambda n: dpm_grid(SCHEDULE, n, extrapolate="sample", ends_clean=True),
}


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("num_steps", [1, 2, 4, 50])
def test_a_step_of_any_sampler_is_one_network_evaluation(name, num_steps):
    recorder = Recorder(gaussian_denoiser())
    end = sample(recorder, tf.constant(noise()), GRIDS[name](num_steps))
    assert len(recorder.calls) == num_steps
    times = [int(t) for _, t, _ in recorder.calls]
    assert times == sorted(set(times), reverse=True)
    assert end.shape == SHAPE and end.dtype == tf.float32


@pytest.mark.parametrize("name", GRIDS)
def test_steps_are_connected(name):
    """What a step ends with is what the next evaluation sees, and the last is the result."""
    recorder = Recorder(gaussian_denoiser())
    steps = list(trajectory(recorder, tf.constant(noise()), GRIDS[name](5)))
    for (z_t, _, prediction), (said, _) in zip(recorder.calls, steps, strict=True):
        assert said is prediction
        assert z_t.dtype == tf.float32
    for (_, z_s), (z_t, _, _) in zip(steps, recorder.calls[1:], strict=False):
        assert z_s is z_t
    if name != "ddim":  # whose stride may miss the next time, as in diffusers
        steps = GRIDS[name](5).steps
        assert [step[3:5] for step in steps[:-1]] == [step[1:3] for step in steps[1:]]


def test_solvers_are_exact_for_a_point_mass():
    """Signal and noise are constant then, and extrapolating a constant gives it back."""
    for name in ("dpm", "dpm++"):
        for prediction, _ in trajectory(gaussian_denoiser(std=0.0), tf.constant(noise()), GRIDS[name](20)):
            np.testing.assert_allclose(prediction.x_hat, np.full(SHAPE, MEAN), atol=1e-6)
            eps = (noise() - SCHEDULE.alpha[-1] * MEAN) / SCHEDULE.sigma[-1]
            np.testing.assert_allclose(prediction.eps_hat, eps, atol=1e-4)


# --- samplers by name


TRAILING = [name for name in SAMPLERS if name != "lcm"]  # which has times of its own: test_lcm.py


@pytest.mark.parametrize("sampler", TRAILING)
@pytest.mark.parametrize("num_steps", [1, 2, 4, 50])
def test_every_sampler_starts_at_the_last_time_and_ends_clean(sampler, num_steps):
    grid = make_grid(sampler, SCHEDULE, num_steps)
    assert [step.t for step in grid.steps] == list(range(999, -1, -1000 // num_steps))
    assert grid.draws == (num_steps - 1 if sampler in ("ddpm", "stochastic", "consistency") else 0)
    recorder, eps = Recorder(gaussian_denoiser()), [noise()] * grid.draws
    end = sample(recorder, tf.constant(noise()), grid, eps)
    assert len(recorder.calls) == num_steps
    assert end.shape == SHAPE and end.dtype == tf.float32
    np.testing.assert_array_equal(end, recorder.calls[-1][2].x_hat)


@pytest.mark.parametrize("sampler", ["ddim", "dpm", "dpm++"])
def test_every_deterministic_sampler_comes_to_the_end_of_the_ode(sampler):
    """The solvers with much less of an error, which is that of their last step, of first order."""
    grid = make_grid(sampler, SCHEDULE, 100)
    error = np.abs(sample(gaussian_denoiser(), tf.constant(noise()), grid) - exact_ode_end(noise())).max()
    assert error < {"ddim": 0.04, "dpm": 0.015, "dpm++": 0.013}[sampler]


@pytest.mark.parametrize("sampler", TRAILING)
@pytest.mark.parametrize("num_steps", [667, 999, 1000])
def test_every_sampler_can_use_all_times(sampler, num_steps):
    for beta_schedule in diffusion.BETA_SCHEDULES:
        grid = make_grid(sampler, diffusion.make_schedule(beta_schedule), num_steps)
        assert len(grid.steps) == num_steps and np.isfinite(grid.steps).all()


def test_samplers_have_their_names():
    assert make_grid("ddim", SCHEDULE, 5) == few_step_grid(SCHEDULE, 5)
    assert make_grid("stochastic", SCHEDULE, 5) == stochastic_grid(SCHEDULE, 5)
    assert make_grid("consistency", SCHEDULE, 5) == consistency_grid(SCHEDULE, 5)
    assert make_grid("dpm", SCHEDULE, 5).extrapolate == "epsilon"
    assert make_grid("dpm++", SCHEDULE, 5).extrapolate == "sample"
    for name in ("dpm", "dpm++"):
        assert [step.ratio > 0 for step in make_grid(name, SCHEDULE, 5).steps] == [False, True, True, True, False]
        assert make_grid(name, SCHEDULE, 2).steps == few_step_grid(SCHEDULE, 2).steps
    assert all(make_grid(name, SCHEDULE, 1).steps == few_step_grid(SCHEDULE, 1).steps for name in TRAILING)
    for name in SAMPLERS:
        with pytest.raises(UserError, match="num_steps is 1001"):
            make_grid(name, SCHEDULE, 1001)
    with pytest.raises(UserError, match="unknown sampler 'euler': known are consistency, ddim, ddpm, dpm, dpm"):
        make_grid("euler", SCHEDULE, 4)


# --- image to image


def test_sdedit_takes_the_last_steps():
    grid = GRIDS["dpm++"](20)
    for strength, kept in ((0.8, 16), (0.05, 1), (1.0, 20), (0.79, 15), (1, 20)):
        part = sdedit_grid(grid, strength)
        assert part.steps == grid.steps[20 - kept :] and part.extrapolate == "sample"
    recorder = Recorder(gaussian_denoiser())
    sample(recorder, tf.constant(noise()), sdedit_grid(grid, 0.3))
    assert [int(t) for _, t, _ in recorder.calls] == [step.t for step in grid.steps[-6:]]


def test_sdedit_starts_at_the_noise_level_of_its_first_time():
    x, eps = noise() * 0.5, noise()[::-1]
    grid = sdedit_grid(GRIDS["ddim"](20), 0.5)
    t = grid.steps[0].t
    assert t == 451
    expected = np.float64(SCHEDULE.alpha[t]) * x + np.float64(SCHEDULE.sigma[t]) * eps
    np.testing.assert_allclose(sdedit_start(tf.constant(x), tf.constant(eps), grid), expected, atol=1e-6)


def test_sdedit_of_a_point_mass_is_exact():
    """From x = MEAN, noised by any eps, every sampler comes back to MEAN."""
    for name in ("ddim", "dpm++"):
        grid = sdedit_grid(GRIDS[name](10), 0.6)
        z = sdedit_start(tf.fill(SHAPE, MEAN), tf.constant(noise()), grid)
        np.testing.assert_allclose(sample(gaussian_denoiser(std=0.0), z, grid), np.full(SHAPE, MEAN), atol=1e-6)


@pytest.mark.parametrize(
    ("strength", "message"),
    [(0.0, "strength is 0.0"), (1.1, "strength is 1.1"), (float("nan"), "strength is nan"), (0.04, "leaves none")],
)
def test_sdedit_refuses_useless_strengths(strength, message):
    with pytest.raises(UserError, match=message):
        sdedit_grid(GRIDS["ddim"](20), strength)


# --- guidance


def test_guidance_is_the_papers_formula():
    """(1 + w) e_c - w e_u with w = scale - 1; no guidance at 1, the unconditional output at 0."""
    unconditional, conditional = noise(), noise()[::-1].copy()
    for w in (-1.0, 0.0, 0.5, 6.5):
        expected = (1 + w) * np.float64(conditional) - w * np.float64(unconditional)
        np.testing.assert_allclose(guided(unconditional, conditional, 1 + w), expected, rtol=0, atol=1e-5)


def test_guidance_of_outputs_is_guidance_of_predictions():
    """x_hat, eps_hat and v_hat depend linearly on the output, whose weights 1 - scale and scale sum to 1."""
    z, (u, c) = noise(), np.random.default_rng(1).normal(size=(2, *SHAPE)).astype(np.float32)
    for kind in diffusion.PREDICTION_TYPES:
        of_u, of_c, of_both = (diffusion.predict(e, z, 0.6, 0.8, kind) for e in (u, c, guided(u, c, 7.5)))
        for field in diffusion.Prediction._fields:
            expected = guided(getattr(of_u, field), getattr(of_c, field), 7.5)
            np.testing.assert_allclose(getattr(of_both, field), expected, atol=1e-4)


def test_guidance_computes_in_float32():
    half = tf.constant([0.1, 0.2], tf.bfloat16)
    assert guided(half, half, 7.5).dtype == tf.float32
