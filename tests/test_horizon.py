"""The horizon of the loss: its weight, its look-ahead, and whether training is stable."""

import numpy as np
import pytest
import tensorflow as tf

from codi_tf.core.errors import UserError
from codi_tf.diffusion.horizon import default_delta, doubts, look_ahead, stability, weight_for_steps
from codi_tf.diffusion.losses import conditional_consistency
from codi_tf.diffusion.process import coefficients, make_schedule, predict

COSINE = make_schedule("squaredcos_cap_v2")
STABLE_DIFFUSION = make_schedule("scaled_linear")


@pytest.mark.parametrize(("steps", "delta"), [(1, 125), (4, 60), (8, 20)])
def test_the_look_ahead_is_the_jump_of_a_sampler_with_that_many_steps(steps, delta):
    weight = weight_for_steps(steps, delta, COSINE)
    ahead = look_ahead(COSINE, z_s="predicted", space="signal", delta=delta, weight=weight)
    np.testing.assert_allclose(ahead, 1000 / steps)


def test_the_paper_s_setting_looks_no_further_than_delta():
    for delta in (1, 20, 60):
        ahead = look_ahead(COSINE, z_s="own", space="noise", delta=delta, weight=2.0)
        assert np.median(ahead) < delta and ahead[-200:].max() < delta
    mild = look_ahead(COSINE, z_s="predicted", space="noise", delta=60, weight=2.0)
    assert mild[-100:].max() < 2  # next to nothing where noise is high: the posterior mean


@pytest.mark.parametrize("steps", [0, 1001])
def test_steps_are_training_times(steps):
    with pytest.raises(UserError, match="from 1 to 1000"):
        weight_for_steps(steps, 60, COSINE)


@pytest.mark.parametrize("schedule", [COSINE, STABLE_DIFFUSION])
def test_the_table_of_growths(schedule):
    """Velocity and noise hold at every delta, the signal at none: docs/mathematics.md's table."""
    for delta, limit in ((62, 1.25), (125, 1.5), (250, 2.0)):
        growths = {
            kind: stability(schedule, kind, delta=delta, weight=limit - 1)
            for kind in ("sample", "v_prediction", "epsilon")
        }
        assert 1.88 < growths["sample"].growth < 2.0
        assert growths["v_prediction"].growth < 1.08 and growths["epsilon"].growth < 1.001
        assert growths["v_prediction"].is_stable and growths["epsilon"].is_stable
        assert growths["sample"].is_stable == (limit == 2.0)


@pytest.mark.parametrize(
    ("kind", "delta", "weight", "z_s"),
    [
        ("sample", 62, 0.25, "predicted"),
        ("v_prediction", 62, 0.25, "predicted"),
        ("sample", 125, 1.2, "predicted"),
        ("v_prediction", 125, 0.01, "predicted"),
        ("v_prediction", 62, 0.25, "own"),
        ("v_prediction", 125, 1.2, "own"),
    ],
)
def test_the_prediction_holds_on_a_toy(kind, delta, weight, z_s):
    """Catches a wrong sign or factor in `stability`: the loss itself trains a network whose one parameter is its error.

    Data are normal, so the perfect signal is alpha_t z_t. The network adds an error of one weight to what it predicts;
    plain gradient descent at the worst time makes that weight vanish or grow.
    """
    expected = stability(COSINE, kind, delta=delta, weight=weight, z_s=z_s)
    error = tf.Variable(0.1)
    t = tf.fill([4096], expected.time)
    rng = np.random.default_rng(0)
    x, eps = (tf.constant(rng.standard_normal((4096, 1)), tf.float32) for _ in range(2))

    def denoise(z, times, weight):
        a, s = coefficients(COSINE, times, 2)
        exact = {"sample": a * z, "v_prediction": tf.zeros_like(z)}[kind]  # v = alpha eps - sigma x has mean 0 given z
        return predict(exact + weight, z, a, s, kind)

    for _ in range(200):
        with tf.GradientTape() as tape:
            terms = conditional_consistency(
                lambda z, times: denoise(z, times, error),
                lambda z, times: denoise(z, times, tf.stop_gradient(error)),
                COSINE,
                x,
                eps,
                t,
                delta=delta,
                z_s=z_s,
                space="signal",
                guidance_weight=weight,
            )
            loss = tf.reduce_mean(terms["consistency"] + terms["guidance"])
        scale = 1.0 if kind == "sample" else float(COSINE.sigma[expected.time]) ** 2
        error.assign_sub(0.2 / scale * tape.gradient(loss, error))
    assert (abs(float(error)) < 0.1) == expected.is_stable


INERT, UNSTABLE = "the model stays close to an undistilled one", "training will diverge"


@pytest.mark.parametrize("schedule", [COSINE, STABLE_DIFFUSION])
@pytest.mark.parametrize(
    ("kind", "options", "said"),
    [
        ("v_prediction", {"z_s": "own", "space": "noise", "delta": 1, "weight": 1.0}, [INERT]),  # the paper's
        ("v_prediction", {"z_s": "own", "space": "noise", "delta": 60, "weight": 2.0}, [INERT]),
        ("v_prediction", {"z_s": "predicted", "space": "noise", "delta": 20, "weight": 1.0}, [INERT]),
        ("v_prediction", {"z_s": "frozen", "space": "noise", "delta": 1, "weight": 1.0}, [INERT]),
        ("v_prediction", {"z_s": "predicted", "space": "signal", "delta": 62, "weight": 2.0}, [INERT]),
        ("sample", {"z_s": "predicted", "space": "signal", "delta": 62, "weight": 0.25}, [UNSTABLE]),
        ("sample", {"z_s": "own", "space": "signal", "delta": 1, "weight": 0.9}, [INERT, UNSTABLE]),
        ("v_prediction", {"z_s": "own", "space": "signal", "delta": 62, "weight": 0.25}, [UNSTABLE]),
        ("v_prediction", {"z_s": "predicted", "space": "signal", "delta": 62, "weight": 0.0}, [UNSTABLE]),
        ("v_prediction", {"z_s": "predicted", "space": "signal", "delta": 62, "weight": 0.25}, []),  # the default
        ("epsilon", {"z_s": "predicted", "space": "signal", "delta": 62, "weight": 0.25}, []),
        ("sample", {"z_s": "predicted", "space": "signal", "delta": 250, "weight": 1.0}, []),
        ("v_prediction", {"z_s": "predicted", "space": "velocity", "delta": 1, "weight": 1.0}, []),
    ],
)
def test_settings_that_cannot_work_are_doubted_and_others_are_not(schedule, kind, options, said):
    """Catches a setting that passes in silence, and an alarm at the defaults."""
    found = doubts(schedule, kind, steps=4, **options)
    assert len(found) == len(said) and all(part in line for part, line in zip(said, found, strict=True))
    assert all("\n" not in line and "; set z_s predicted" in line for line in found)


@pytest.mark.parametrize("steps", [1, 2, 4, 8, 16, 1000])
def test_the_default_delta_is_doubted_for_no_number_of_steps(steps):
    delta = default_delta(COSINE)
    weight = weight_for_steps(steps, delta, COSINE)
    setting = {"z_s": "predicted", "space": "signal", "delta": delta, "weight": weight, "steps": steps}
    assert doubts(COSINE, "v_prediction", **setting) == doubts(COSINE, "epsilon", **setting) == []
