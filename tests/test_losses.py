"""The conditional consistency loss: against NumPy, at exact consistency functions, and where its gradients flow."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import tensorflow as tf

from codi_tf.core.errors import UserError
from codi_tf.diffusion import losses
from codi_tf.diffusion import process as diffusion
from codi_tf.diffusion.process import Prediction

SCHEDULE = diffusion.make_schedule("scaled_linear")
ALPHA, SIGMA = (table.astype(np.float64) for table in SCHEDULE)
SHAPE = (3, 4, 4, 2)
MEAN, STD = 0.3, 0.7
TIMES = {"shared": np.int32(600), "per_sample": np.array([7, 400, 999], np.int32)}
X, EPS = (np.random.default_rng(seed).normal(size=SHAPE).astype(np.float32) for seed in (0, 1))


def expand(t) -> np.ndarray:
    """[] -> [1, 1, 1, 1] and [B] -> [B, 1, 1, 1]."""
    return np.asarray(t).reshape(-1, 1, 1, 1)


def network(a: float, b: float):
    """A velocity that bends with z_t and t: the same expression for NumPy arrays and for tensors."""

    def v_hat(z_t, t):
        return a * z_t - 0.1 * z_t * z_t + b * t / 1000.0

    return v_hat


STUDENT, TARGET, FROZEN = network(0.8, 0.5), network(0.6, -0.4), network(0.3, 0.2)


def denoiser(v_hat):
    def denoise(z_t, t):
        output = v_hat(z_t, tf.reshape(tf.cast(t, tf.float32), (-1, 1, 1, 1)))
        return diffusion.predict(output, z_t, *diffusion.coefficients(SCHEDULE, t), "v_prediction")

    return denoise


def mean_square(a, b) -> np.ndarray:
    return ((a - b) ** 2).reshape(SHAPE[0], -1).mean(axis=1)


def reference(t, delta, z_s, space, boundary):
    """Eq. 14 and 15 and Algorithm 1 in float64."""
    t, s = expand(t), expand(np.maximum(np.asarray(t) - delta, 0))

    def evaluate(v_hat, z, time, bounded):
        v = v_hat(z, time)
        x, eps = ALPHA[time] * z - SIGMA[time] * v, ALPHA[time] * v + SIGMA[time] * z
        if bounded:
            tau = time / 999
            c_skip, c_out = 0.5**2 / (tau**2 + 0.5**2), tau / np.sqrt(tau**2 + 0.5**2)
            x, eps = c_skip * z + c_out * x, c_skip * z + c_out * eps
            x = (z - SIGMA[time] * eps) / ALPHA[time] if bounded == "noise" else x
        return {"signal": x, "noise": eps, "velocity": ALPHA[time] * eps - SIGMA[time] * x}

    z_t = ALPHA[t] * X + SIGMA[t] * EPS
    at_t = evaluate(STUDENT, z_t, t, boundary)
    frozen = evaluate(FROZEN, z_t, t, False)
    signal, noise = {
        "own": (at_t["signal"], EPS),
        "predicted": (at_t["signal"], at_t["noise"]),
        "frozen": (frozen["signal"], frozen["noise"]),
    }[z_s]
    at_s = evaluate(TARGET, ALPHA[s] * signal + SIGMA[s] * noise, s, boundary)
    return {"consistency": mean_square(at_s[space], at_t[space]), "guidance": mean_square(X, at_t["signal"])}


def loss(t=600, student=None, target=None, **options):
    options = {"delta": 20, "frozen": denoiser(FROZEN), **options}
    student, target = student or denoiser(STUDENT), target or denoiser(TARGET)
    return losses.conditional_consistency(student, target, SCHEDULE, X, EPS, t, **options)


@pytest.mark.parametrize("boundary", [False, True, "noise"])
@pytest.mark.parametrize("space", list(losses.SPACES))
@pytest.mark.parametrize("z_s", losses.Z_S)
@pytest.mark.parametrize("t", TIMES.values(), ids=TIMES.keys())
def test_value_is_the_formula(t, z_s, space, boundary):
    terms = loss(t, z_s=z_s, space=space, boundary=boundary)
    expected = reference(t, 20, z_s, space, boundary)
    assert set(terms) == {"consistency", "guidance"}
    for name, value in terms.items():
        assert value.shape == (SHAPE[0],) and value.dtype == tf.float32
        np.testing.assert_allclose(value, expected[name], rtol=2e-5, err_msg=name)


def test_defaults_are_the_papers():
    defaults, explicit = loss(), loss(z_s="own", space="noise", guidance=losses.latent_distance, boundary=False)
    for name in explicit:
        np.testing.assert_array_equal(defaults[name], explicit[name])


@pytest.mark.parametrize(("t", "s"), [(600, 580), (20, 0), (7, 0), (0, 0), (TIMES["per_sample"], [0, 380, 979])])
def test_target_is_evaluated_at_s_clamped_to_0(t, s):
    times = []

    def target(z_s, s):
        times.append(s)
        return denoiser(TARGET)(z_s, s)

    loss(np.asarray(t, np.int32), target=target)
    (time,) = times
    assert time.dtype == tf.int32
    np.testing.assert_array_equal(time, s)


def test_terms_that_are_off_are_absent_and_cost_nothing():
    def never(z_t, t):
        raise AssertionError("evaluated for nothing")

    assert set(loss(guidance=None)) == {"consistency"}
    assert set(loss(space="none", target=never, frozen=never, z_s="frozen")) == {"guidance"}
    assert set(loss(frozen=never)) == {"consistency", "guidance"}


def test_guidance_weight_scales_guidance_alone():
    plain, weighted = loss(), loss(guidance_weight=2.5)
    np.testing.assert_allclose(weighted["guidance"], 2.5 * plain["guidance"], rtol=1e-6)
    np.testing.assert_array_equal(weighted["consistency"], plain["consistency"])


@pytest.mark.parametrize(("z_s", "moves"), [("own", True), ("predicted", True), ("frozen", False)])
def test_z_s_follows_what_the_student_learns(z_s, moves):
    inputs = []

    def target(z_s, s):
        inputs.append(z_s)
        return denoiser(TARGET)(z_s, s)

    for student in (STUDENT, network(0.9, 0.5)):
        loss(student=denoiser(student), target=target, z_s=z_s)
    assert np.allclose(*inputs, atol=1e-3) != moves


# Exact consistency functions


def gaussian_u(z_t, t):
    """For x ~ N(m, S^2): z_t = alpha_t m + sqrt(alpha_t^2 S^2 + sigma_t^2) u, u constant along an ODE trajectory."""
    alpha_t, sigma_t = diffusion.coefficients(SCHEDULE, t)
    return (z_t - alpha_t * MEAN) / tf.sqrt(alpha_t**2 * STD**2 + sigma_t**2)


def consistency_function(z_t, t, error=0.0):
    """The trajectory's noise u and its end m + S u: both constant along it. `error` grows with t."""
    u = gaussian_u(z_t, t) + error * tf.reshape(tf.cast(t, tf.float32), (-1, 1, 1, 1)) / 1000.0
    return Prediction(MEAN + STD * u, u, u)


def exact_ode_step(delta):
    """A frozen network whose DDIM step from t to t - delta is the exact solution of the ODE."""

    def frozen(z_t, t):
        s = tf.maximum(t - delta, 0)
        (alpha_t, sigma_t), (alpha_s, sigma_s) = (diffusion.coefficients(SCHEDULE, time) for time in (t, s))
        z_s = alpha_s * MEAN + tf.sqrt(alpha_s**2 * STD**2 + sigma_s**2) * gaussian_u(z_t, t)
        determinant = alpha_t * sigma_s - sigma_t * alpha_s  # of z_t, z_s = alpha x + sigma eps, solved for x and eps
        x_hat = (sigma_s * z_t - sigma_t * z_s) / determinant
        eps_hat = (alpha_t * z_s - alpha_s * z_t) / determinant
        return Prediction(x_hat, eps_hat, x_hat)

    return frozen


@pytest.mark.parametrize("space", ["noise", "signal"])
@pytest.mark.parametrize("t", TIMES.values(), ids=TIMES.keys())
def test_frozen_is_zero_at_the_exact_consistency_function(t, space):
    def wrong(z_t, t):
        return consistency_function(z_t, t, error=0.5)

    options = {"delta": 100, "z_s": "frozen", "space": space, "frozen": exact_ode_step(100), "guidance": None}
    exact = loss(t, consistency_function, consistency_function, **options)["consistency"]
    np.testing.assert_allclose(exact, 0, atol=1e-9)
    perturbed = loss(np.int32(600), wrong, wrong, **options)["consistency"]
    scale = 1.0 if space == "noise" else STD
    np.testing.assert_allclose(perturbed, (scale * 0.5 * 100 / 1000) ** 2, rtol=1e-2)


def test_frozen_with_the_best_denoiser_errs_at_second_order_in_delta():
    def best(z_t, t):
        alpha_t, sigma_t = diffusion.coefficients(SCHEDULE, t)
        gain = alpha_t * STD**2 / (alpha_t**2 * STD**2 + sigma_t**2)
        return diffusion.predict(MEAN + gain * (z_t - alpha_t * MEAN), z_t, alpha_t, sigma_t, "sample")

    def consistency(delta):
        options = {"delta": delta, "z_s": "frozen", "frozen": best, "guidance": None}
        return loss(np.int32(600), consistency_function, consistency_function, **options)["consistency"].numpy()

    ratio = consistency(40) / consistency(20)  # a DDIM step errs by O(delta^2), and the distance is its square
    assert np.all((ratio > 13) & (ratio < 19))


@pytest.mark.parametrize("space", ["noise", "signal"])
@pytest.mark.parametrize("z_s", ["own", "predicted"])
@pytest.mark.parametrize("t", TIMES.values(), ids=TIMES.keys())
def test_own_and_predicted_are_zero_where_the_data_is_known(t, z_s, space):
    """If c tells x, then x_hat = x and eps_hat = (z_t - alpha_t x) / sigma_t are constant along its own ODE."""

    def denoise(z_t, t, error=0.0):
        return diffusion.predict(X + error, z_t, *diffusion.coefficients(SCHEDULE, t), "sample")

    def wrong(z_t, t):
        return denoise(z_t, t, error=0.1)

    exact = loss(t, denoise, denoise, z_s=z_s, space=space)
    np.testing.assert_allclose(exact["consistency"], 0, atol=1e-10)
    np.testing.assert_allclose(exact["guidance"], 0, atol=1e-12)
    one_wrong = loss(t, wrong, denoise, z_s=z_s, space=space)
    assert np.all(one_wrong["consistency"] > 1e-6)
    np.testing.assert_allclose(one_wrong["guidance"], 0.01, rtol=1e-4)


def test_remark_1_noise_consistency_is_signal_consistency_on_the_predicted_ode():
    """A constant eps_hat at both ends of a predicted step implies a constant x_hat, whatever eps_hat is."""

    def constant_noise(z_t, t):
        return diffusion.predict(tf.constant(-EPS), z_t, *diffusion.coefficients(SCHEDULE, t), "epsilon")

    for space in ("noise", "signal"):
        terms = loss(np.int32(600), constant_noise, constant_noise, z_s="predicted", space=space, delta=200)
        np.testing.assert_allclose(terms["consistency"], 0, atol=1e-9)
        assert np.all(terms["guidance"] > 0.1)


# Gradients


@pytest.mark.parametrize("z_s", losses.Z_S)
@pytest.mark.parametrize("t", TIMES.values(), ids=TIMES.keys())
def test_gradients_flow_through_the_students_prediction_at_t_only(t, z_s):
    """eps_hat = theta z_t for student, target and frozen network, each with its own theta."""
    values = {"student": 0.8, "target": 0.5, "frozen": 0.6}
    variables = {name: tf.Variable(value) for name, value in values.items()}

    def linear(name):
        def denoise(z_t, t):
            return diffusion.predict(variables[name] * z_t, z_t, *diffusion.coefficients(SCHEDULE, t), "epsilon")

        return denoise

    inputs = []

    def target(z_s, s):
        inputs.append(z_s)
        return linear("target")(z_s, s)

    with tf.GradientTape(persistent=True) as tape:
        terms = loss(t, linear("student"), target, frozen=linear("frozen"), z_s=z_s)
        consistency, guidance = tf.reduce_sum(terms["consistency"]), tf.reduce_sum(terms["guidance"])
    for name in ("target", "frozen"):
        assert tape.gradient(consistency, variables[name]) is None
        assert tape.gradient(guidance, variables[name]) is None
    for variable in variables.values():
        assert tape.gradient(inputs, variable) is None

    t, s = expand(t), expand(np.maximum(t - 20, 0))
    z_t = ALPHA[t] * X + SIGMA[t] * EPS
    x_hat = {name: (z_t - SIGMA[t] * value * z_t) / ALPHA[t] for name, value in values.items()}
    signal, noise = {
        "own": (x_hat["student"], EPS),
        "predicted": (x_hat["student"], values["student"] * z_t),
        "frozen": (x_hat["frozen"], values["frozen"] * z_t),
    }[z_s]
    z_hat_s = ALPHA[s] * signal + SIGMA[s] * noise  # a constant: not differentiated
    by_hand = 2 * (values["student"] * z_t - values["target"] * z_hat_s) * z_t
    np.testing.assert_allclose(
        tape.gradient(consistency, variables["student"]), by_hand.mean(axis=(1, 2, 3)).sum(), rtol=1e-4
    )
    by_hand = 2 * (x_hat["student"] - X) * (-SIGMA[t] / ALPHA[t] * z_t)
    np.testing.assert_allclose(
        tape.gradient(guidance, variables["student"]), by_hand.mean(axis=(1, 2, 3)).sum(), rtol=1e-4
    )


# Distances


def test_distances_of_figure_2_and_the_absolute_one():
    x, x_hat = (draw.astype(np.float64) for draw in (X, EPS))

    def decode(latents):
        return 2.0 * latents + 1.0

    def encode(images):
        return images * images

    def features(images):
        return [images[:, ::2], 3.0 * images]

    distances = {
        losses.latent_distance: mean_square(x, x_hat),
        losses.absolute_distance: np.abs(x - x_hat).reshape(SHAPE[0], -1).mean(axis=1),
        losses.encoded_distance(decode, encode): mean_square(x, (2 * x_hat + 1) ** 2),
        losses.pixel_distance(decode): 4 * mean_square(x, x_hat),
        losses.perceptual_distance(decode, features): 4 * mean_square(x[:, ::2], x_hat[:, ::2])
        + 36 * mean_square(x, x_hat),
    }
    for distance, expected in distances.items():
        value = distance(tf.constant(X), tf.constant(EPS))
        assert value.shape == (SHAPE[0],)
        np.testing.assert_allclose(value, expected, rtol=1e-5)


def test_guidance_takes_any_distance():
    student = denoiser(STUDENT)
    alpha_t, sigma_t = diffusion.coefficients(SCHEDULE, 600)
    x_hat = student(diffusion.q_sample(X, EPS, alpha_t, sigma_t), tf.constant(600)).x_hat
    distance = losses.pixel_distance(tf.tanh)
    np.testing.assert_allclose(loss(guidance=distance)["guidance"], mean_square(np.tanh(X), np.tanh(x_hat)), rtol=1e-5)


def test_a_distance_is_float32_for_networks_of_less():
    half = losses.latent_distance(tf.constant(X), tf.cast(EPS, tf.bfloat16))
    assert half.dtype == tf.float32
    np.testing.assert_allclose(half, mean_square(X, EPS), rtol=2e-2)


# The diffusion loss


@pytest.mark.parametrize("t", TIMES.values(), ids=TIMES.keys())
def test_denoising_is_the_formula_in_every_space(t):
    time = expand(t)
    z_t = ALPHA[time] * X + SIGMA[time] * EPS
    error = mean_square(
        STUDENT(z_t, time), ALPHA[time] * EPS - SIGMA[time] * X
    )  # of v; Eq. 8 scales it by sigma, alpha
    alpha, sigma = (np.broadcast_to(table[time].ravel(), SHAPE[:1]) for table in (ALPHA, SIGMA))
    for space, expected in (("velocity", error), ("signal", sigma**2 * error), ("noise", alpha**2 * error)):
        value = losses.denoising(denoiser(STUDENT), SCHEDULE, X, EPS, t, space=space)
        np.testing.assert_allclose(value, expected, rtol=2e-4, err_msg=space)
    default = losses.denoising(denoiser(STUDENT), SCHEDULE, X, EPS, t)
    np.testing.assert_allclose(default, error, rtol=1e-5)


# Mistakes and tracing


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"z_s": "teacher"}, "unknown z_s 'teacher'.*own, predicted, frozen"),
        ({"space": "eps"}, "unknown space 'eps'.*noise, signal, velocity, none"),
        ({"delta": 0}, "delta is 0"),
        ({"z_s": "frozen", "frozen": None}, "pass it as frozen="),
        ({"space": "none", "guidance": None}, "nothing is left"),
    ],
)
def test_mistakes_are_named(options, message):
    with pytest.raises(UserError, match=message):
        loss(**options)


def test_denoising_refuses_an_unknown_space():
    with pytest.raises(UserError, match="unknown space 'none'.*noise, signal, velocity"):
        losses.denoising(denoiser(STUDENT), SCHEDULE, X, EPS, 600, space="none")


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("t", TIMES.values(), ids=TIMES.keys())
def test_traced_equals_eager(t, jit_compile):
    def terms(x, eps, t):
        values = {}
        for z_s, boundary in itertools.product(losses.Z_S, (False, True, "noise")):
            terms = losses.conditional_consistency(
                denoiser(STUDENT),
                denoiser(TARGET),
                SCHEDULE,
                x,
                eps,
                t,
                delta=20,
                z_s=z_s,
                boundary=boundary,
                frozen=denoiser(FROZEN),
            )
            values |= {f"{name} {z_s} {boundary}": value for name, value in terms.items()}
        return values | {"denoising": losses.denoising(denoiser(STUDENT), SCHEDULE, x, eps, t)}

    traced = tf.function(terms, jit_compile=jit_compile)(*map(tf.constant, (X, EPS, t)))
    for name, value in terms(X, EPS, t).items():
        np.testing.assert_allclose(traced[name], value, rtol=1e-5, err_msg=name)
