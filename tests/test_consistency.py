"""Consistency distillation: what is compared with what, and what stays as it was."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import make_model
from tiny import randomize, tiny_base

import codi_tf
from codi_tf.core.errors import UserError
from codi_tf.diffusion.process import bounded, coefficients
from codi_tf.methods.consistency import Consistency
from codi_tf.methods.draws import Draws
from codi_tf.methods.finetune import Finetune
from codi_tf.methods.guided import Guided
from codi_tf.methods.networks import denoiser

STAGE_1 = Guided(stage=1)


def latents(count=3):
    random = np.random.default_rng(0)
    draw = (random.normal(size=(count, 4, 4, 4)).astype("float32") for _ in range(2))
    return dict(zip(("latent", "condition_latent"), map(tf.constant, draw), strict=True))


def distilled(train="all", perceptual=None, **options):
    """A model that goes on from an adapted network that acts."""
    tuned = make_model(tiny_base(), train=train, method=Finetune())
    settings = Consistency(**{"delta": 200, **options})
    model = codi_tf.CoDi(tuned.base, tuned.student.adapter, train, method=settings, perceptual=perceptual)
    model.compile(keras.optimizers.AdamW(1e-2, weight_decay=0.0))
    return model


def values(network):
    return [variable.numpy() for variable in network.variables]


def equal(ours, theirs):
    return all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("t", ["per_sample", "shared"])
@pytest.mark.parametrize("boundary", [False, True])
def test_the_loss_is_the_distance_along_the_teachers_step(t, boundary):
    model, batch = distilled(t=t, boundary=boundary), latents()
    randomize(model.student.unet.variables, seed=1)  # now student, target and teacher differ
    randomize(model.target.unet.variables, seed=2)
    base, (x, c) = model.base, batch.values()
    times, eps = Draws(4, 7).times(x, low=1, high=1000, shared=t == "shared"), Draws(4, 7).noise(x)
    alpha_t, sigma_t = coefficients(base.schedule, times)
    s = np.maximum(times.numpy() - 200, 0)
    alpha_s, sigma_s = coefficients(base.schedule, s)
    z_t = alpha_t * x + sigma_t * eps
    student, target, frozen = (
        denoiser(base, network, c, base.conditioning())
        for network in (model.student, model.target, model.method.frozen)
    )
    prediction = frozen(z_t, times)
    z_s = alpha_s * prediction.x_hat + sigma_s * prediction.eps_hat
    if boundary:
        student, target = bounded(student, base.schedule), bounded(target, base.schedule)
    expected = np.square(student(z_t, times).x_hat - target(z_s, s).x_hat).mean(axis=(1, 2, 3))
    terms = model.method.loss_terms(batch, Draws(4, 7))
    assert terms.keys() == {"consistency"} and expected.min() > 1e-4
    np.testing.assert_allclose(terms["consistency"], expected, rtol=1e-4)


def test_the_perceptual_distance_is_between_decoded_images():
    model, batch = (
        distilled(distance="perceptual", features="unused", perceptual=lambda images: [2.0 * images]),
        latents(),
    )
    plain = distilled()
    for network in (model, plain):
        randomize(network.student.unet.variables, seed=1)
    base, (x, c) = model.base, batch.values()
    times, eps = Draws(0, 0).times(x, low=1, high=1000, shared=False), Draws(0, 0).noise(x)
    alpha_t, sigma_t = coefficients(base.schedule, times)
    alpha_s, sigma_s = coefficients(base.schedule, np.maximum(times.numpy() - 200, 0))
    z_t = alpha_t * x + sigma_t * eps
    prediction = denoiser(base, model.method.frozen, c, base.conditioning())(z_t, times)
    z_s = alpha_s * prediction.x_hat + sigma_s * prediction.eps_hat
    x_t = denoiser(base, model.student, c, base.conditioning())(z_t, times).x_hat
    x_s = denoiser(base, model.target, c, base.conditioning())(z_s, np.maximum(times.numpy() - 200, 0)).x_hat
    expected = np.square(2.0 * (base.decode(x_t) - base.decode(x_s))).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(model.method.loss_terms(batch, Draws(0, 0))["consistency"], expected, rtol=1e-3)


@pytest.mark.parametrize("train", ["all", "adapter"])
def test_the_teacher_stays_and_the_student_learns(train):
    model = distilled(train)
    frozen, unet = values(model.method.frozen), values(model.student.unet)
    adapter = values(model.student.adapter)
    assert equal(frozen, values(model.student)) and equal(frozen, values(model.average))
    for _ in range(3):
        model.train_step(latents())
    assert equal(frozen, values(model.method.frozen))
    assert not equal(adapter, values(model.student.adapter))
    assert equal(unet, values(model.student.unet)) == (train == "adapter")


def test_the_perceptual_distance_needs_features():
    with pytest.raises(UserError, match="method.features"):
        Consistency(distance="perceptual")
    with pytest.raises(UserError, match="perceptual=network.maps"):
        distilled(distance="perceptual", features="folder")


@pytest.mark.parametrize("method", [codi_tf.Consistency(delta=30), STAGE_1])
def test_a_new_adapter_has_nothing_to_distil(method):
    with pytest.raises(UserError, match="this method starts from a fine-tuned model: give its base and adapter="):
        codi_tf.CoDi(tiny_base(), "mu", method=method)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"distance": "pixel"}, "method.distance is 'pixel'"),
        ({"delta": 0}, "method.delta is 0"),
        ({"t": "both"}, "method.t is 'both'"),
    ],
)
def test_bad_options_are_refused_in_one_line(options, message):
    with pytest.raises(UserError, match=message) as error:
        Consistency(**options)
    assert "\n" not in str(error.value)
