"""The sampler on data whose probability-flow ODE has a closed form: x ~ N(m, S^2), elementwise.

The best denoiser is E[x | z_t] = m + alpha S^2 / (alpha^2 S^2 + sigma^2) (z_t - alpha m), and along an ODE trajectory
z_t = alpha_t m + sqrt(alpha_t^2 S^2 + sigma_t^2) u with u constant.
"""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from codi_tf import diffusion
from codi_tf.errors import UserError
from codi_tf.sampling import few_step, few_step_trajectory

SCHEDULE = diffusion.make_schedule("scaled_linear")
MEAN, STD = 0.3, 0.7
SHAPE = (2, 4, 4, 3)


def noise() -> np.ndarray:
    return np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)


def gaussian_denoiser(std: float = STD):
    def denoise(z_t, t):
        alpha_t, sigma_t = diffusion.coefficients(SCHEDULE, t, len(z_t.shape))
        gain = alpha_t * std**2 / (alpha_t**2 * std**2 + sigma_t**2)
        return diffusion.predict(MEAN + gain * (z_t - alpha_t * MEAN), z_t, alpha_t, sigma_t, "sample")

    return denoise


def exact_ode_end(z: np.ndarray, std: float = STD) -> np.ndarray:
    """The end of the trajectory, where alpha = 1 and sigma = 0, in float64."""
    alpha_t, sigma_t = float(SCHEDULE.alpha[-1]), float(SCHEDULE.sigma[-1])
    return MEAN + std * (z - alpha_t * MEAN) / np.sqrt(alpha_t**2 * std**2 + sigma_t**2)


class Recorder:
    """Hands calls through to a denoiser and keeps what went in and out."""

    def __init__(self, denoise):
        self.denoise, self.calls = denoise, []

    def __call__(self, z_t, t):
        prediction = self.denoise(z_t, t)
        self.calls.append((z_t, t, prediction))
        return prediction


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
