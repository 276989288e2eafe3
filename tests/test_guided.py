"""Guided distillation: what both stages compare, which steps they draw, when the teacher is replaced."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import make_model
from tiny import randomize, tiny_base

import codi_tf
from codi_tf import config
from codi_tf.core.errors import UserError
from codi_tf.diffusion import losses
from codi_tf.diffusion.halving import Halving, halving_steps
from codi_tf.diffusion.process import Prediction, coefficients, make_schedule, predict
from codi_tf.methods.draws import Draws
from codi_tf.methods.finetune import Finetune
from codi_tf.methods.guided import Guided
from codi_tf.methods.networks import denoiser
from codi_tf.training.states import StateWriter, restore_newest

SCHEDULE = make_schedule("squaredcos_cap_v2")
RANGE = [1.0, 3.0]
STAGE_1 = Guided(stage=1, guidance=RANGE)
STAGE_2 = Guided(stage=2, guidance=RANGE, steps=[8, 4], updates=2)


def latents(count=3):
    random = np.random.default_rng(0)
    draw = (random.normal(size=(count, 4, 4, 4)).astype("float32") for _ in range(2))
    return dict(zip(("latent", "condition_latent"), map(tf.constant, draw), strict=True))


def compiled(model, rate=1e-2):
    model.compile(keras.optimizers.AdamW(rate, weight_decay=0.0))
    return model


def stage_1(**options):
    """A model of stage 1 that starts from an adapted network that acts."""
    tuned = make_model(tiny_base(), method=Finetune())
    return codi_tf.CoDi(tuned.base, tuned.student.adapter, method=STAGE_1, **options)


def stage_2(settings=STAGE_2, **options):
    model = stage_1()
    randomize(model.student.unet.time_embedding.cond_proj.variables)
    return codi_tf.CoDi(model.base, model.student.adapter, method=settings, ema_decay=0.5, **options)


def values(network):
    return [variable.numpy() for variable in network.variables]


def equal(ours, theirs):
    return all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))


# The losses


def gaussian_denoiser(mean, deviation, guidance=1.0):
    """The best denoiser of N(mean, deviation^2); `guidance` pushes its mean."""

    def denoise(z_t, t):
        alpha_t, sigma_t = coefficients(SCHEDULE, t)
        variance = alpha_t**2 * deviation**2 + sigma_t**2
        x_hat = guidance * mean + alpha_t * deviation**2 / variance * (z_t - alpha_t * mean)
        return predict(x_hat, z_t, alpha_t, sigma_t, "sample")

    return denoise


def table(num_steps, **options):
    """The halving steps as tensors, one an example."""
    fields = zip(*halving_steps(SCHEDULE, num_steps, **options), strict=True)
    shaped = []
    for field in fields:
        whole = isinstance(field[0], int)
        shaped.append(np.array(field, "int32") if whole else np.array(field, "float32").reshape(-1, 1, 1, 1))
    return Halving(*shaped)


@pytest.mark.parametrize("stochastic", [False, True])
def test_where_the_data_is_one_point_one_step_does_what_two_do(stochastic):
    exact, step = gaussian_denoiser(0.7, 0.0), table(4, stochastic=stochastic)
    x = np.full((4, 2, 2, 1), 0.7, "float32")
    eps = np.random.default_rng(0).normal(size=x.shape).astype("float32")
    assert np.abs(losses.halving(exact, exact, x, eps, step)).max() < 1e-9
    wrong = gaussian_denoiser(0.8, 0.0)
    # v of a signal that is 0.1 off is 0.1 / sigma_t off
    expected = np.square(0.1 / step.sigma_t).reshape(-1)
    np.testing.assert_allclose(losses.halving(wrong, exact, x, eps, step), expected, rtol=1e-3)


@pytest.mark.parametrize("space", ["velocity", "signal", "noise"])
def test_the_target_of_halving_is_where_two_steps_of_a_gaussian_s_denoiser_lead(space):
    mean, deviation, step = 0.3, 0.6, table(4)
    teacher = gaussian_denoiser(mean, deviation)
    random = np.random.default_rng(0)
    x, eps = (random.normal(size=(4, 2, 2, 1)).astype("float64") for _ in range(2))
    # By hand, in double precision: a DDIM step moves z - alpha mean by a factor.
    a_t, s_t, a_m, s_m, a_s, s_s = (np.float64(v) for v in (*step[1:3], *step[4:6], *step[6:8]))

    def factor(a, s, to_a, to_s):
        variance = a**2 * deviation**2 + s**2
        return (to_a * a * deviation**2 + to_s * s) / variance

    z_t = a_t * x + s_t * eps
    z_s = a_s * mean + factor(a_t, s_t, a_m, s_m) * factor(a_m, s_m, a_s, s_s) * (z_t - a_t * mean)
    x_tilde = (z_s - s_s / s_t * z_t) / (a_s - s_s / s_t * a_t)
    eps_tilde = (z_t - a_t * x_tilde) / s_t
    target = {"signal": x_tilde, "noise": eps_tilde, "velocity": a_t * eps_tilde - s_t * x_tilde}[space]

    def silent(z_t, t):
        return Prediction(*(np.zeros_like(z_t),) * 3)

    got = losses.halving(silent, teacher, x.astype("float32"), eps.astype("float32"), step, space=space)
    np.testing.assert_allclose(got, np.square(target).mean(axis=(1, 2, 3)), rtol=2e-3)


def test_the_guided_prediction_is_the_papers():
    x = np.zeros((2, 2, 2, 1), "float32")
    eps, t = np.ones_like(x), np.array([300, 900])
    student, conditional, unconditional = (gaussian_denoiser(mean, 0.0) for mean in (0.0, 0.2, -0.1))
    got = losses.guidance_matching(
        student, conditional, unconditional, SCHEDULE, x, eps, t, np.array([1.0, 3.0], "float32"), space="signal"
    )
    np.testing.assert_allclose(got, [0.2**2, (3 * 0.2 + 2 * 0.1) ** 2], rtol=1e-5)  # (1 + w) x_c - w x, w = 0 and 2


def test_unknown_spaces_are_refused():
    exact = gaussian_denoiser(0.0, 1.0)
    with pytest.raises(UserError, match="unknown space 'pixels'"):
        losses.halving(exact, exact, np.zeros((4, 1, 1, 1)), np.zeros((4, 1, 1, 1)), table(4), space="pixels")


# Stage 1


def test_a_network_that_takes_the_guidance_starts_as_the_one_that_does_not():
    tuned = make_model(tiny_base(), method=Finetune())
    noise, c = (value.numpy() for value in latents().values())
    before = denoiser(tuned.base, tuned.student, c, tuned.base.conditioning())(noise, [500]).v_hat
    model = codi_tf.CoDi(tuned.base, tuned.student.adapter, method=STAGE_1)
    assert model.student.takes_guidance and not tuned.student.takes_guidance
    after = denoiser(model.base, model.student, c, model.base.conditioning(), guidance=np.array([2.5]))(
        noise, [500]
    ).v_hat
    np.testing.assert_array_equal(before, after)
    assert {v.path.split("/")[-2] for v in model.student.unet.time_embedding.cond_proj.variables} == {"cond_proj"}


def test_stage_1_compares_with_the_guided_teacher():
    model, batch = stage_1(), latents()
    got = model.method.loss_terms(batch, Draws(3, 5))["guidance_matching"].numpy()
    x, c = batch["latent"], batch["condition_latent"]
    guidance = 1.0 + 2.0 * Draws(3, 5).uniform(x, "guidance").numpy()
    t, eps = Draws(3, 5).times(x, low=0, high=1000, shared=False), Draws(3, 5).noise(x)
    alpha_t, sigma_t = (np.asarray(a) for a in coefficients(model.base.schedule, t))
    z_t = alpha_t * x.numpy() + sigma_t * eps.numpy()
    frozen = model.method.frozen
    conditional, unconditional = (
        np.asarray(denoiser(model.base, frozen, condition, model.base.conditioning())(z_t, t).v_hat)
        for condition in (c, tf.zeros_like(c))
    )
    # The student says what its teacher says with the condition, as long as nothing is trained.
    expected = np.square((guidance - 1.0).reshape(-1, 1, 1, 1) * (conditional - unconditional)).mean(axis=(1, 2, 3))
    assert expected.min() > 1e-6
    np.testing.assert_allclose(got, expected, rtol=1e-3)


def test_the_teacher_of_stage_1_stays_and_the_guidance_is_learned():
    model = compiled(stage_1())
    frozen = values(model.method.frozen)
    for _ in range(3):
        model.train_step(latents())
    assert equal(frozen, values(model.method.frozen))
    assert np.abs(model.student.unet.time_embedding.cond_proj.kernel.numpy()).max() > 0


def test_stage_1_needs_a_network_that_takes_no_guidance_yet_and_trains_it():
    model = stage_1()
    again = codi_tf.CoDi(model.base, model.student.adapter, method=STAGE_1)
    with pytest.raises(UserError, match="takes the guidance already"):
        compiled(again)
    tuned = make_model(tiny_base(), method=Finetune())
    with pytest.raises(UserError, match="needs train 'all', or a LoRA beside the adapter"):
        codi_tf.CoDi(tuned.base, tuned.student.adapter, "adapter", method=STAGE_1)


# Stage 2


def test_the_teacher_changes_between_phases_and_only_then():
    model = compiled(stage_2())
    first = values(model.teacher)
    assert equal(first, values(model.student))
    for _ in range(2):
        model.train_step(latents())
        assert equal(first, values(model.teacher))
    average = values(model.average)
    assert not equal(average, first) and not equal(average, values(model.student))
    model.method.begin_step(model.optimizer.iterations)
    assert equal(average, values(model.teacher)) and equal(average, values(model.student))
    for _ in range(4):  # to step 6: no third phase
        model.train_step(latents())
    assert equal(average, values(model.teacher))


def test_the_steps_of_a_phase_are_its_own():
    method = stage_2().method
    x = tf.zeros((200, 4, 4, 4))
    for step, count in ((0, 8), (1, 8), (2, 4), (3, 4), (50, 4)):
        drawn, grid = (
            method._draw_steps(x, Draws(0, tf.constant(step, tf.int64))),
            halving_steps(method.base.schedule, count),
        )
        pairs = set(zip(drawn.t.numpy().tolist(), drawn.mid.numpy().tolist(), strict=True))
        assert pairs == {(one.t, one.mid) for one in grid}
        at = {one.t: one for one in grid}
        for field in ("alpha_t", "sigma_t", "alpha_mid", "sigma_mid", "alpha_s", "sigma_s"):
            level = getattr(drawn, field).numpy().reshape(-1)
            np.testing.assert_allclose(level, [getattr(at[t], field) for t in drawn.t.numpy()], rtol=1e-6, atol=1e-7)
        assert drawn.sigma_s.shape == (200, 1, 1, 1)


def test_stage_2_gives_student_and_teacher_the_same_guidance():
    model, batch = stage_2(), latents()
    compiled(model)
    got = model.method.loss_terms(batch, Draws(1, tf.constant(0, tf.int64)))["halving"].numpy()
    x, c, base = batch["latent"], batch["condition_latent"], model.base
    guidance = 1.0 + 2.0 * Draws(1, 0).uniform(x, "guidance")
    guided = denoiser(base, model.student, c, base.conditioning(), guidance=guidance)
    step = model.method._draw_steps(x, Draws(1, tf.constant(0, tf.int64)))
    expected = losses.halving(guided, guided, x, Draws(1, 0).noise(x), step)  # both are the same network still
    np.testing.assert_allclose(got, expected, rtol=1e-4)
    other = denoiser(base, model.student, c, base.conditioning(), guidance=tf.ones(3))
    assert not np.allclose(got, losses.halving(other, guided, x, Draws(1, 0).noise(x), step), rtol=1e-2)


def test_a_base_alone_can_be_halved(tmp_path):
    from codi_tf.checkpoints.folder import save_base
    from codi_tf.training.experiment import build_trainer

    tmp_path.joinpath("base").mkdir()
    save_base(tiny_base(), tmp_path / "base")
    values = {
        "method": {"name": "guided", "stage": 2, "steps": [4, 2], "updates": 1},
        "train": {"steps": 2, "warmup_steps": 0},
        "data": {"image_size": 16},
        "base": str(tmp_path / "base"),
    }
    trainer = build_trainer(config.from_dict(values))
    assert trainer.student.adapter is None and not trainer.student.takes_guidance
    for _ in range(2):
        logs = trainer.train_step({"latent": latents()["latent"]})
    assert np.isfinite(float(logs["halving"])) and float(logs["gradient_norm"]) > 0


def test_a_resumed_run_has_its_teacher_back(tmp_path):
    whole = compiled(stage_2())
    for step in range(1, 6):
        whole.train_step(latents())
        if step == 3:  # in the second phase: the teacher is no longer what the run began with
            writer = StateWriter(whole, tmp_path, keep=1)
            writer.save(step)
            writer.wait()
    resumed = compiled(stage_2())
    assert restore_newest(resumed, tmp_path) == 3
    for _ in range(2):
        resumed.train_step(latents())
    for part in ("student", "average", "teacher"):
        assert equal(values(getattr(whole, part)), values(getattr(resumed, part)))


# The model


def test_a_bundle_takes_the_guidance_it_was_trained_for(tmp_path):
    model = stage_2(image_size=16)
    model.save(tmp_path / "bundle")
    again = codi_tf.load(tmp_path / "bundle")
    condition = np.random.default_rng(0).uniform(size=(16, 16, 3)).astype("float32")
    images = {g: again.generate(condition, guidance=g) for g in (None, 1.0, 2.0)}
    assert np.array_equal(images[None], images[1.0])  # the lowest is the default
    assert not np.array_equal(images[1.0], images[2.0])
    for guidance, image in images.items():
        difference = image.astype(int) - model.generate(condition, guidance=guidance)
        assert np.abs(difference).max() <= 1
    with pytest.raises(UserError, match=r"guidance is 3.5: this model was trained for 1.0 to 3.0"):
        again.generate(condition, guidance=3.5)


def test_an_undistilled_model_is_guided_by_two_evaluations():
    model = make_model(tiny_base(), method=Finetune(drop_condition=0.1))
    condition = np.random.default_rng(0).uniform(-1, 1, (1, 16, 16, 3)).astype("float32")
    noise = np.random.default_rng(1).normal(size=(1, 4, 4, 4)).astype("float32")
    prompt = model.base.conditioning()
    (prediction,) = model.generator.trajectory(condition, noise, prompt, steps=1, guidance=2.0)
    conditional, unconditional = (
        model.denoiser(c)(noise, [model.base.schedule.num_steps - 1]).x_hat
        for c in (model.encode_condition(condition), tf.zeros_like(model.encode_condition(condition)))
    )
    np.testing.assert_allclose(prediction.x_hat, 2.0 * conditional - unconditional, rtol=1e-4, atol=1e-4)
    plain = make_model(tiny_base(), method=Finetune())
    with pytest.raises(UserError, match="guidance is 2.0: this model was trained without"):
        plain.generate(np.zeros((16, 16, 3), "uint8"), guidance=2.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stage": 3}, "method.stage is 3"),
        ({"stage": 1, "steps": [4, 2]}, "belong to stage 2"),
        ({"stage": 2, "steps": [8, 3], "updates": 1}, "each must be half"),
        ({"stage": 2, "updates": 1}, "each must be half"),
        ({"stage": 2, "steps": [8, 4]}, "method.updates is 0"),
        ({"stage": 1, "guidance": [3.0, 1.0]}, "give \\[lowest, highest\\]"),
        ({"stage": 1, "guidance": [3.0]}, "give \\[lowest, highest\\]"),
        ({"stage": 1, "space": "pixels"}, "method.space is 'pixels'"),
    ],
)
def test_bad_options_are_refused_in_one_line(options, message):
    with pytest.raises(UserError, match=message) as error:
        Guided(**options)
    assert "\n" not in str(error.value)
