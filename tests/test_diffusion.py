"""Schedules, conversions, the DDIM step, boundary scalings and time grids against formulas written again in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf

from codi_tf.core.errors import UserError
from codi_tf.diffusion import process as diffusion

SHAPE = (3, 4, 5, 2)
TIMES = np.array([0, 371, 999], np.int32)


def draw(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=SHAPE).astype(np.float32)


def reference_alphas_cumprod(name: str, num: int, start: float, end: float) -> list[float]:
    """The same tables by plain Python loops over the definitions."""

    def beta(i: int) -> float:
        fraction = i / (num - 1)
        if name == "linear":
            return start + fraction * (end - start)
        if name == "scaled_linear":
            return (math.sqrt(start) + fraction * (math.sqrt(end) - math.sqrt(start))) ** 2
        alpha_bar = [math.cos((u / num + 0.008) / 1.008 * math.pi / 2) ** 2 for u in (i, i + 1)]
        return min(1.0 - alpha_bar[1] / alpha_bar[0], 0.999)

    product, table = 1.0, []
    for i in range(num):
        product *= 1.0 - beta(i)
        table.append(product)
    return table


@pytest.mark.parametrize("name", diffusion.BETA_SCHEDULES)
@pytest.mark.parametrize(("num", "start", "end"), [(1000, 0.00085, 0.012), (50, 0.0001, 0.02)])
def test_schedule_is_its_definition(name, num, start, end):
    schedule = diffusion.make_schedule(name, num, start, end)
    alphas_cumprod = np.array(reference_alphas_cumprod(name, num, start, end))
    assert schedule.num_steps == num
    assert schedule.alpha.dtype == schedule.sigma.dtype == np.float32
    np.testing.assert_allclose(schedule.alpha, np.sqrt(alphas_cumprod), rtol=1.5e-7)
    np.testing.assert_allclose(schedule.sigma, np.sqrt(1 - alphas_cumprod), rtol=1.5e-7)
    np.testing.assert_allclose(
        schedule.alpha.astype(np.float64) ** 2 + schedule.sigma.astype(np.float64) ** 2, 1, 0, 2e-7
    )
    assert np.all(np.diff(schedule.alpha) < 0) and np.all(np.diff(schedule.sigma) >= 0)


def test_golden_numbers_of_stable_diffusion():
    alpha, sigma = diffusion.make_schedule("scaled_linear")
    np.testing.assert_allclose(alpha[[0, -1]] ** 2, [0.99915, 0.0046601], rtol=2e-6)
    # sigma_min and sigma_max of the k-diffusion wrapper around Stable Diffusion.
    np.testing.assert_allclose((sigma / alpha)[[0, -1]], [0.0292, 14.6146], atol=5e-5)


def test_golden_number_of_ddpm():
    alpha, _ = diffusion.make_schedule("linear", 1000, 0.0001, 0.02)  # Ho et al. 2020
    np.testing.assert_allclose(alpha[-1] ** 2, 4.0358e-5, rtol=1e-4)


def test_schedule_refuses_bad_arguments():
    with pytest.raises(UserError, match="'cosine'.*linear, scaled_linear, squaredcos_cap_v2"):
        diffusion.make_schedule("cosine")
    with pytest.raises(UserError, match="num_train_timesteps is 0"):
        diffusion.make_schedule("linear", 0)
    with pytest.raises(UserError, match="0.02, 0.01"):
        diffusion.make_schedule("linear", 1000, 0.02, 0.01)


@pytest.mark.parametrize("ndim", [2, 4])
def test_coefficients_are_table_entries_that_broadcast(ndim):
    schedule = diffusion.make_schedule("scaled_linear")
    for table, per_sample, shared in zip(
        schedule,
        diffusion.coefficients(schedule, TIMES, ndim),
        diffusion.coefficients(schedule, 371, ndim),
        strict=True,
    ):
        assert per_sample.dtype == shared.dtype == tf.float32
        assert per_sample.shape == (3,) + (1,) * (ndim - 1) and shared.shape == (1,) * ndim
        np.testing.assert_array_equal(np.ravel(per_sample), table[TIMES])
        np.testing.assert_array_equal(np.ravel(shared), table[[371]])


def test_q_sample_and_velocity():
    schedule, x, eps = diffusion.make_schedule("scaled_linear"), draw(0), draw(1)
    alpha, sigma = (table[TIMES].astype(np.float64).reshape(3, 1, 1, 1) for table in schedule)
    coefficients = diffusion.coefficients(schedule, TIMES)
    np.testing.assert_allclose(diffusion.q_sample(x, eps, *coefficients), alpha * x + sigma * eps, atol=1e-6)
    np.testing.assert_allclose(diffusion.velocity(x, eps, *coefficients), alpha * eps - sigma * x, atol=1e-6)


@pytest.mark.parametrize("schedule_name", ["linear", "scaled_linear"])
@pytest.mark.parametrize("prediction_type", diffusion.PREDICTION_TYPES)
def test_predict_recovers_x_eps_and_v_from_any_of_them(prediction_type, schedule_name):
    schedule, x, eps = diffusion.make_schedule(schedule_name), draw(0), draw(1)
    alpha_t, sigma_t = diffusion.coefficients(schedule, TIMES)
    z_t = diffusion.q_sample(x, eps, alpha_t, sigma_t)
    v = diffusion.velocity(x, eps, alpha_t, sigma_t)
    output = {"epsilon": eps, "v_prediction": v, "sample": x}[prediction_type]
    prediction = diffusion.predict(output, z_t, alpha_t, sigma_t, prediction_type)
    for got, expected in zip(prediction, (x, eps, v), strict=True):
        # rounding of z_t, divided by the smallest alpha (0.07) or sigma (0.03)
        np.testing.assert_allclose(got, expected, atol=1.5e-5)


def test_predict_velocity_is_equation_8_and_float32():
    z_t, v_hat = draw(0), tf.cast(draw(1), tf.bfloat16)
    prediction = diffusion.predict(v_hat, z_t, 0.6, 0.8, "v_prediction")
    v = v_hat.numpy().astype(np.float64)
    for got, expected in zip(prediction, (0.6 * z_t - 0.8 * v, 0.6 * v + 0.8 * z_t, v), strict=True):
        assert got.dtype == tf.float32
        np.testing.assert_allclose(got, expected, atol=1e-6)


def test_predict_refuses_an_unknown_type():
    with pytest.raises(UserError, match="'velocity'.*epsilon, v_prediction, sample"):
        diffusion.predict(draw(0), draw(1), 0.6, 0.8, "velocity")


def test_ddim_step_in_both_forms_of_the_paper():
    z_t, v_hat = draw(0).astype(np.float64), draw(1)
    prediction = diffusion.predict(v_hat, z_t, 0.6, 0.8, "v_prediction")
    x_hat = 0.6 * z_t - 0.8 * v_hat
    equation_7 = 0.96 * x_hat + 0.28 * (z_t - 0.6 * x_hat) / 0.8
    equation_9 = 0.96 * (0.6 * z_t - 0.8 * v_hat) + 0.28 * (0.6 * v_hat + 0.8 * z_t)
    np.testing.assert_allclose(diffusion.ddim_step(prediction, 0.96, 0.28), equation_7, atol=1e-6)
    np.testing.assert_allclose(diffusion.ddim_step(prediction, 0.96, 0.28), equation_9, atol=1e-6)


def test_boundary_scalings():
    t = np.array([0, 333, 999], np.int32)  # 0, 1/3 and 1 of the way
    c_skip, c_out = diffusion.boundary_scalings(t, 1000)
    assert c_skip.shape == c_out.shape == (3, 1, 1, 1)
    assert (float(c_skip[0, 0, 0, 0]), float(c_out[0, 0, 0, 0])) == (1.0, 0.0)  # Eq. 11, exactly
    np.testing.assert_allclose(np.ravel(c_skip), [1, 9 / 13, 0.2], rtol=1e-6)
    np.testing.assert_allclose(np.ravel(c_out), [0, 2 / math.sqrt(13), 2 / math.sqrt(5)], rtol=1e-6)
    _, wide = diffusion.boundary_scalings(999, 1000, sigma_data=1.0, ndim=2)
    np.testing.assert_allclose(wide, [[math.sqrt(0.5)]], rtol=1e-6)


def test_bounded_scales_signal_and_noise():
    schedule, z_t = diffusion.make_schedule("scaled_linear"), draw(0)

    def denoise(z_t, t):
        return diffusion.Prediction(2.0 * z_t, 3.0 * z_t, z_t)

    x_hat, eps_hat, v_hat = diffusion.bounded(denoise, schedule)(z_t, TIMES)
    tau = TIMES.reshape(3, 1, 1, 1) / 999
    c_skip, c_out = 0.25 / (tau**2 + 0.25), tau / np.sqrt(tau**2 + 0.25)
    alpha, sigma = (table[TIMES].reshape(3, 1, 1, 1) for table in schedule)
    np.testing.assert_array_equal(x_hat[0], z_t[0])  # the boundary condition f(x, 0) = x
    np.testing.assert_allclose(x_hat, (c_skip + 2 * c_out) * z_t, rtol=1e-6)
    np.testing.assert_allclose(eps_hat, (c_skip + 3 * c_out) * z_t, rtol=1e-6)
    np.testing.assert_allclose(v_hat, alpha * eps_hat - sigma * x_hat, atol=1e-6)


def test_scalings_of_the_noise_alone_leave_the_signal_to_follow():
    """Catches a signal that is scaled, too, or that no longer makes up z_t with the noise."""
    schedule, z_t = diffusion.make_schedule("scaled_linear"), draw(0)

    def denoise(z_t, t):
        return diffusion.predict(3.0 * z_t, z_t, *diffusion.coefficients(schedule, t), "epsilon")

    x_hat, eps_hat, v_hat = diffusion.bounded(denoise, schedule, "noise")(z_t, TIMES)
    tau = TIMES.reshape(3, 1, 1, 1) / 999
    alpha, sigma = (np.float64(table[TIMES].reshape(3, 1, 1, 1)) for table in schedule)
    expected = (0.25 / (tau**2 + 0.25) + 3 * tau / np.sqrt(tau**2 + 0.25)) * z_t
    np.testing.assert_array_equal(eps_hat[0], z_t[0])  # eps_hat(z_0, 0) = z_0
    np.testing.assert_allclose(eps_hat, expected, rtol=1e-6)
    np.testing.assert_allclose(x_hat, (z_t - sigma * expected) / alpha, rtol=1e-5)
    np.testing.assert_allclose(alpha * x_hat + sigma * eps_hat, z_t, atol=2e-6)
    np.testing.assert_allclose(v_hat, alpha * eps_hat - sigma * x_hat, atol=1e-5)
    assert diffusion.bounded(denoise, schedule, False) is denoise


def test_trailing_times():
    assert diffusion.trailing_times(1, 1000) == (999,)
    assert diffusion.trailing_times(2, 1000) == (999, 499)
    assert diffusion.trailing_times(3, 1000) == (999, 666, 332)
    assert diffusion.trailing_times(4, 1000) == (999, 749, 499, 249)
    assert diffusion.trailing_times(50, 1000) == tuple(range(999, -1, -20))
    for num_train in (1, 2, 37, 1000):
        assert diffusion.trailing_times(num_train, num_train) == tuple(range(num_train - 1, -1, -1))
        for num_steps in range(1, num_train + 1):
            times = diffusion.trailing_times(num_steps, num_train)
            assert len(times) == num_steps and times[0] == num_train - 1 and times[-1] >= 0
            assert all(s < t for t, s in zip(times, times[1:], strict=False))


@pytest.mark.parametrize("num_steps", [0, -1, 1001, 2.0, "4", None])
def test_trailing_times_refuses_other_than_1_to_t(num_steps):
    with pytest.raises(UserError, match=f"num_steps is {num_steps!r}.*1 to 1000"):
        diffusion.trailing_times(num_steps, 1000)


@pytest.mark.parametrize("t", [np.int32(371), TIMES], ids=["shared", "per_sample"])
def test_traced_equals_eager(t):
    schedule, x, eps = diffusion.make_schedule("squaredcos_cap_v2"), draw(0), draw(1)

    def everything(x, eps, t):
        alpha_t, sigma_t = diffusion.coefficients(schedule, t)
        z_t = diffusion.q_sample(x, eps, alpha_t, sigma_t)

        def denoise(z_t, t):
            return diffusion.predict(eps, z_t, alpha_t, sigma_t, "v_prediction")

        prediction = diffusion.bounded(denoise, schedule)(z_t, t)
        return diffusion.ddim_step(prediction, *diffusion.coefficients(schedule, t // 2))

    signature = [tf.TensorSpec((None, *SHAPE[1:])), tf.TensorSpec((None, *SHAPE[1:])), tf.TensorSpec(t.shape, tf.int32)]
    traced = tf.function(everything, input_signature=signature)
    np.testing.assert_allclose(traced(x, eps, t), everything(x, eps, t), atol=1e-6)


def test_spaced_times():
    """Against numbers worked out by hand; diffusers' own are compared in test_schedules.py."""
    assert diffusion.spaced_times("leading", 4, 1000) == (750, 500, 250, 0)
    assert diffusion.spaced_times("leading", 3, 1000, offset=1) == (667, 334, 1)
    assert diffusion.spaced_times("leading", 3, 1000, offset=1, without_last=True) == (751, 501, 251)
    assert diffusion.spaced_times("linspace", 1, 1000) == (0,)
    assert diffusion.spaced_times("linspace", 4, 1000, offset=1) == (999, 666, 333, 0)  # which needs no offset
    assert diffusion.spaced_times("linspace", 3, 1000, without_last=True) == (999, 666, 333)
    for without_last in (False, True):
        times = diffusion.spaced_times("trailing", 3, 1000, offset=1, without_last=without_last)
        assert times == diffusion.trailing_times(3, 1000)


@pytest.mark.parametrize(
    ("spacing", "num_steps", "message"),
    [
        ("quadratic", 4, "unknown timestep_spacing 'quadratic'"),
        ("leading", 0, "num_steps is 0"),
        ("linspace", 1001, "num_steps is 1001"),
        ("leading", 1000, "num_steps is 1000"),  # with the offset, the first would be time 1000
        ("trailing", 2.0, "num_steps is 2.0"),
    ],
)
def test_spaced_times_refuses(spacing, num_steps, message):
    with pytest.raises(UserError, match=message):
        diffusion.spaced_times(spacing, num_steps, 1000, offset=1)
