"""Training: what a step changes, what it draws, where its gradients flow. Steps run eagerly: tracing costs more."""

from __future__ import annotations

import dataclasses
import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import SCHEDULER, VAE, make_model
from tiny import UNET, tiny_base
from training_steps import GAMMA, compiled, latents, random, values

import codi_tf
from codi_tf.adapters.adapted import AdaptedUNet
from codi_tf.checkpoints.base import make_autoencoder
from codi_tf.diffusion.process import coefficients, predict
from codi_tf.methods.autoencoder import Autoencoder, AutoencoderMethod
from codi_tf.methods.codi import CodiMethod, ConditionalDistillation
from codi_tf.methods.draws import Draws
from codi_tf.methods.finetune import Finetune, FinetuneMethod
from codi_tf.methods.pretrain import Pretrain, PretrainMethod, PromptedUNet
from codi_tf.trainers.trainer import Trainer


def changes(before, variables):
    """Path of each variable -> whether it differs from what it was."""
    return {v.path: not np.array_equal(b, v.numpy()) for b, v in zip(before, variables, strict=True)}


def has_gradient(path):
    """A prompt of zeros has keys and values of zeros: only the bias of its attention's output is trained."""
    silent = "attn2" in path and "bias" not in path or "transformer_blocks" in path and "norm2" in path
    return not silent


@functools.cache
def one_step(*, weight_decay=0.0, again=False, **options):
    """(student's weights but mu, mu) after one step of a fresh model. `again`: not the cached one."""
    model = compiled(weight_decay=weight_decay, **options)
    model.train_step(latents())
    unet, adapter = model.student.unet, model.student.adapter
    return values(unet.variables + adapter.encoder.variables), adapter.mu.numpy()


@pytest.fixture(scope="module")
def untrained():
    """A model with its average, of which no test changes a weight for good."""
    model = make_model(tiny_base())
    model.average = model.method.start_average()
    return model


class Recorded(AdaptedUNet):
    """An adapted network that keeps what it is called with and what it answers."""

    def call(self, z_t, t, condition_features, conditioning, guidance=None):
        self.z_t, self.t = z_t.numpy(), t.numpy()
        answer = super().call(z_t, t, condition_features, conditioning, guidance)
        self.answer = answer.numpy()
        return answer


def recorded_terms(model, batch, *, settings=None, seed=0, step=0, perceptual=None):
    """(terms of the loss, student, target), with what both networks saw."""
    student = Recorded(model.student.unet, model.student.adapter)
    if isinstance(settings, Finetune):
        method, target = FinetuneMethod(settings, model.base, student), None
    else:
        method = CodiMethod(settings or ConditionalDistillation(), model.base, student, perceptual)
        method.start_target()  # makes the frozen network, too
        method.target = target = Recorded(model.average.unet, model.average.adapter)
    terms = {name: term.numpy() for name, term in method.loss_terms(batch, Draws(seed, step)).items()}
    return terms, student, target


# What a step changes


@pytest.mark.parametrize("train", ["all", "adapter"])
def test_a_step_changes_what_is_trained_and_nothing_else(train):
    model = compiled(train=train)
    unet, adapter, vae = model.student.unet, model.student.adapter, model.base.vae
    before = {part: values(part.variables) for part in (unet, adapter, vae)}
    for _ in range(3):
        model.train_step(latents())
    assert not any(changes(before[vae], vae.variables).values())
    for path, changed in changes(before[unet], unet.variables).items():
        assert changed == (train == "all" and has_gradient(path)), path
    for path, changed in changes(before[adapter], adapter.variables).items():
        assert changed == has_gradient(path), path
    assert (model.average.unet is unet) == (train == "adapter")
    assert len(model.trainable_variables) == len(adapter.variables) + (len(unet.variables) if train == "all" else 0)


def test_the_moving_average_follows_gamma_exactly():
    model = compiled()
    mean = values(model.target.variables)
    for expected, student in zip(mean, values(model.student.variables), strict=True):
        np.testing.assert_array_equal(expected, student)  # theta- <- theta
    for _ in range(2):
        model.train_step(latents())
        student = values(model.student.variables)
        mean = [m + np.float32(1 - GAMMA) * (v - m) for m, v in zip(mean, student, strict=True)]
        for expected, average in zip(mean, values(model.target.variables), strict=True):
            np.testing.assert_allclose(average, expected, rtol=0, atol=1e-8)
    assert max(np.abs(m - v).max() for m, v in zip(mean, student, strict=True)) > 1e-4


def test_mu_moves_mu_rate_times_as_far_and_the_rest_as_before():
    start = np.linspace(-0.3, 0.6, 3, dtype="float32")  # make_model's
    weights, mu = one_step(mu_rate=1.0)
    weights_fast, mu_fast = one_step(mu_rate=32.0)  # a power of two: only the last sum is rounded
    assert np.abs(mu - start).min() > 1e-4
    np.testing.assert_array_equal(mu_fast, start + 32 * (mu - start))
    for expected, weight in zip(weights, weights_fast, strict=True):
        np.testing.assert_array_equal(weight, expected)


def test_weight_decay_leaves_mu_alone():
    weights, mu = one_step(mu_rate=1.0)
    weights_decayed, mu_decayed = one_step(mu_rate=1.0, weight_decay=10.0)
    np.testing.assert_array_equal(mu_decayed, mu)
    kernels = [(a, b) for a, b in zip(weights, weights_decayed, strict=True) if a.ndim > 1]
    assert all(np.abs(b).mean() < np.abs(a).mean() for a, b in kernels)


def test_steps_are_deterministic_and_depend_on_the_seed():
    first, mu = one_step(mu_rate=1.0)
    again, mu_again = one_step(mu_rate=1.0, again=True)
    np.testing.assert_array_equal(mu_again, mu)
    for expected, weight in zip(first, again, strict=True):
        np.testing.assert_array_equal(weight, expected)
    assert not np.array_equal(one_step(mu_rate=1.0, seed=1)[1], mu)


def test_logs_are_the_sum_of_the_terms_and_the_norm_of_the_gradient():
    model = compiled()
    batch = latents()
    with tf.GradientTape() as tape:
        terms = model.method.loss_terms(batch, Draws(0, 0))
        loss = sum(tf.reduce_mean(term) for term in terms.values())
    gradients = tape.gradient(loss, model.trainable_variables)
    logs = {name: float(value) for name, value in model.train_step(batch).items()}
    assert logs.keys() == {"loss", "consistency", "guidance", "gradient_norm", "skipped"} == set(model.log_names)
    assert logs["loss"] == pytest.approx(logs["consistency"] + logs["guidance"], rel=1e-6)
    assert logs["guidance"] == pytest.approx(float(tf.reduce_mean(terms["guidance"])), rel=1e-5)
    norm = np.sqrt(sum(np.sum(np.square(g.numpy().astype("float64"))) for g in gradients))
    assert logs["gradient_norm"] == pytest.approx(norm, rel=1e-4)


def test_gradients_reach_the_student_alone():
    model = compiled()
    others = [v.value for v in (*model.target.variables, *model.average.variables, *model.base.vae.variables)]
    batch = {name: tf.constant(np.tanh(random(i, 2, 16, 16, 3))) for i, name in enumerate(("image", "condition"))}
    with tf.GradientTape() as tape:
        tape.watch(others)
        terms = model.method.loss_terms(batch, Draws(0, 0))
        loss = tf.add_n([tf.reduce_mean(term) for term in terms.values()])
    *student, others = tape.gradient(loss, [*(v.value for v in model.trainable_variables), others])
    assert others == [None] * len(others)
    assert all(gradient is not None for gradient in student)


def test_images_are_encoded_by_the_frozen_autoencoder(untrained):
    image, condition = (tf.constant(np.tanh(random(seed, 2, 16, 16, 3))) for seed in (3, 4))
    base = untrained.base
    encoded = {"latent": base.encode(image), "condition_latent": base.encode(condition)}
    from_images, _, _ = recorded_terms(untrained, {"image": image, "condition": condition})
    from_latents, _, _ = recorded_terms(untrained, encoded)
    for name, term in from_latents.items():
        np.testing.assert_array_equal(from_images[name], term)


# What a step draws


@pytest.mark.parametrize("z_s", ["own", "predicted"])
def test_z_s_depends_on_the_trained_adapter(untrained, z_s):
    settings = ConditionalDistillation(z_s=z_s, delta=50)
    base, batch = untrained.base, latents()
    _, student, target = recorded_terms(untrained, batch, settings=settings)
    t, s = int(student.t[0]), int(target.t[0])
    assert s == max(t - 50, 0)
    alpha, sigma = base.schedule
    eps = (student.z_t - alpha[t] * batch["latent"].numpy()) / sigma[t]
    said = predict(student.answer, student.z_t, alpha[t], sigma[t], "v_prediction")
    noise = eps if z_s == "own" else said.eps_hat
    np.testing.assert_allclose(target.z_t, alpha[s] * said.x_hat + sigma[s] * noise, atol=2e-5)

    kernel = untrained.student.adapter.encoder.conv_in.kernel
    before = kernel.numpy()
    kernel.assign(before + 0.5)
    _, moved_student, moved = recorded_terms(untrained, batch, settings=settings)
    kernel.assign(before)
    np.testing.assert_array_equal(moved_student.z_t, student.z_t)
    assert np.abs(moved.z_t - target.z_t).max() > 1e-3


def test_z_s_frozen_follows_the_adapted_network_as_it_was_before_training(untrained):
    student = Recorded(untrained.student.unet, untrained.student.adapter)
    method = CodiMethod(ConditionalDistillation(z_s="frozen", delta=50), untrained.base, student)
    method.start_target()
    method.target = target = Recorded(untrained.average.unet, untrained.average.adapter)
    method.loss_terms(latents(), Draws(0, 0))
    (alpha, sigma), t, s = untrained.base.schedule, int(student.t[0]), int(target.t[0])
    said = predict(student.answer, student.z_t, alpha[t], sigma[t], "v_prediction")
    before = target.z_t
    np.testing.assert_allclose(before, alpha[s] * said.x_hat + sigma[s] * said.eps_hat, atol=2e-5)

    trained = (*student.unet.variables, *student.adapter.variables)
    started = values(trained)
    for variable in trained:
        variable.assign(variable + 0.1)
    answer = student.answer
    method.loss_terms(latents(), Draws(0, 0))
    for variable, value in zip(trained, started, strict=True):
        variable.assign(value)
    np.testing.assert_array_equal(target.z_t, before)
    assert np.abs(student.answer - answer).max() > 1e-2


def test_one_time_for_the_batch_or_one_for_each_example(untrained):
    _, student, target = recorded_terms(untrained, latents())
    assert student.t.shape == target.t.shape == (1,)
    per_sample = ConditionalDistillation(t="per_sample", delta=7)
    _, student, target = recorded_terms(untrained, latents(3), settings=per_sample)
    assert student.t.shape == (3,) and len(set(student.t)) > 1
    np.testing.assert_array_equal(target.t, np.maximum(student.t - 7, 0))


def test_draws_are_functions_of_seed_and_step_only(untrained):
    batch = latents()
    _, first, _ = recorded_terms(untrained, batch, seed=3, step=5)
    keras.utils.set_random_seed(99)
    _, again, _ = recorded_terms(untrained, batch, seed=3, step=tf.constant(5, tf.int64))
    np.testing.assert_array_equal(again.z_t, first.z_t)
    np.testing.assert_array_equal(again.t, first.t)
    for change in ({"seed": 4, "step": 5}, {"seed": 3, "step": 6}):
        _, other, _ = recorded_terms(untrained, batch, **change)
        assert other.t != first.t


def test_noise_is_standard_normal_and_differs_between_examples():
    like = tf.zeros((64, 8, 8, 4))
    noise = Draws(0, 0).noise(like).numpy()
    assert abs(noise.mean()) < 5 / 128 and abs(noise.std() - 1) < 5 / 128 / 2**0.5  # 128^2 numbers
    assert np.abs(np.corrcoef(noise.reshape(64, -1)) - np.eye(64)).max() < 6 / 16  # 256 numbers an example
    assert not np.array_equal(noise, Draws(0, 1).noise(like).numpy())


def test_times_are_uniform_in_their_range():
    like = tf.zeros((2, 4, 4, 4))
    shared = [int(Draws(0, step).times(like, low=1, high=1000, shared=True)) for step in range(600)]
    assert min(shared) >= 1 and max(shared) <= 999
    assert abs(np.mean(shared) - 500) < 4 * 288.4 / 600**0.5
    assert {int(Draws(0, step).times(like, low=1, high=4, shared=True)) for step in range(40)} == {1, 2, 3}
    each = Draws(0, 0).times(tf.zeros((5000, 1)), low=0, high=1000, shared=False).numpy()
    assert each.shape == (5000,) and each.min() >= 0 and each.max() <= 999
    assert abs(each.mean() - 499.5) < 4 * 288.7 / 5000**0.5


def test_the_times_of_codi_start_at_1_and_those_of_finetuning_at_0(untrained):
    """A schedule of 2 times shows the ends of the range."""
    base = dataclasses.replace(untrained.base, scheduler={**SCHEDULER, "num_train_timesteps": 2})
    for_one = ConditionalDistillation(steps=1)
    model = make_model(base, method=for_one)
    model.average = untrained.average
    seen = {int(recorded_terms(model, latents(1), settings=for_one, step=step)[1].t[0]) for step in range(4)}
    assert seen == {1}
    _, student, _ = recorded_terms(model, latents(16), settings=Finetune())
    assert set(student.t) == {0, 1}


# The methods


@pytest.mark.parametrize("guidance", ["latent", "encoded", "pixel", "perceptual", "none"])
def test_guidance_is_the_distance_that_was_chosen(untrained, guidance):
    def halves(images):
        return [images[..., :1], 2.0 * images[..., 1:]]

    settings = ConditionalDistillation(guidance=guidance, guidance_weight=0.5, features="a folder")
    batch, base = latents(), untrained.base
    terms, student, _ = recorded_terms(untrained, batch, settings=settings, perceptual=halves)
    if guidance == "none":
        assert terms.keys() == {"consistency"}
        return
    x = batch["latent"]
    x_hat = predict(student.answer, student.z_t, *coefficients(base.schedule, student.t), "v_prediction").x_hat
    if guidance == "encoded":
        x_hat = base.encode(base.decode(x_hat))
    elif guidance != "latent":
        x, x_hat = base.decode(x), base.decode(x_hat)
    square = np.square(np.asarray(x, "float64") - np.asarray(x_hat, "float64"))
    if guidance == "perceptual":
        expected = square[..., 0].mean((1, 2)) + 4 * square[..., 1:].mean((1, 2, 3))
    else:
        expected = square.mean((1, 2, 3))
    np.testing.assert_allclose(terms["guidance"], 0.5 * expected, rtol=1e-4)


def test_finetuning_is_the_error_of_the_velocity_at_one_time_per_example(untrained):
    batch = latents(3)
    terms, student, _ = recorded_terms(untrained, batch, settings=Finetune())
    assert len(set(student.t)) > 1
    alpha, sigma = (np.asarray(table, "float64")[student.t].reshape(-1, 1, 1, 1) for table in untrained.base.schedule)
    x = batch["latent"].numpy().astype("float64")
    eps = (student.z_t - alpha * x) / sigma
    expected = np.square(alpha * eps - sigma * x - student.answer).mean((1, 2, 3))
    assert terms.keys() == {"denoising"}
    np.testing.assert_allclose(terms["denoising"], expected, rtol=1e-3)


def test_pretraining_has_no_condition_and_moves_every_weight():
    base = tiny_base()
    settings = Pretrain(network=UNET, scheduler=SCHEDULER)
    trainer = Trainer(PretrainMethod(settings, base, PromptedUNet(base.unet, name="student")), ema_decay=GAMMA)
    trainer.compile(keras.optimizers.AdamW(1e-3, weight_decay=0.0))
    before = values(base.unet.variables)
    trainer.train_step({"latent": latents()["latent"]})
    for path, changed in changes(before, base.unet.variables).items():
        assert changed == has_gradient(path), path
    assert trainer.average.adapter is None and trainer.average.unet is not base.unet


def test_the_autoencoder_learns_reconstruction_and_kl():
    network = {**VAE, "mid_block_add_attention": True}
    student = make_autoencoder(network)
    method = AutoencoderMethod(Autoencoder(network=network, kl_weight=0.01), student)
    trainer = Trainer(method, ema_decay=GAMMA)
    trainer.compile(keras.optimizers.AdamW(1e-3, weight_decay=0.0))
    image = np.tanh(random(0, 2, 16, 16, 3))
    terms = method.loss_terms({"image": tf.constant(image)}, Draws(0, 0))
    mean, logvar = (np.asarray(part, "float64") for part in student.encode(image))
    reconstruction = np.abs(image - student.decode(mean.astype("float32")).numpy()).mean((1, 2, 3))
    np.testing.assert_allclose(terms["reconstruction"], reconstruction, rtol=1e-4)
    kl = 0.5 * (mean**2 + np.exp(logvar) - 1 - logvar)
    np.testing.assert_allclose(terms["kl"], 0.01 * kl.mean((1, 2, 3)), rtol=1e-4)
    before = values(student.variables)
    trainer.train_step({"image": tf.constant(image)})
    for path, changed in changes(before, student.variables).items():
        assert changed or "to_k/bias" in path, path  # the softmax does not see what is added to all keys
    for b, a, mean in zip(before, values(student.variables), values(trainer.average.variables), strict=True):
        np.testing.assert_allclose(mean, b + (1 - GAMMA) * (a - b), rtol=0, atol=1e-7)


def test_a_decoder_trained_alone_leaves_the_latents_as_they_are(tmp_path):
    """Catches: an encoder that moves, by gradient, weight decay or moving average; a shortcut that is forgotten; a
    result with another scaling_factor, at which models of these latents fail."""
    student = make_autoencoder({**VAE, "linear_shortcut": True, "scaling_factor": 1.7})
    settings = Autoencoder(train="decoder", perceptual_weight=0.5, features="unused")
    method = AutoencoderMethod(settings, student, perceptual=lambda images: [images[:, ::2, ::2]])
    trainer = Trainer(method, ema_decay=GAMMA)
    trainer.compile(keras.optimizers.AdamW(1e-3, weight_decay=0.1))
    image = np.tanh(random(0, 2, 16, 16, 3))
    terms = method.loss_terms({"image": tf.constant(image)}, Draws(0, 0))
    assert tuple(terms) == method.terms == ("reconstruction", "perceptual")
    before, posterior = values(student.variables), student.encode(image)
    trainer.train_step({"image": tf.constant(image)})
    for network in (student, trainer.average):
        for kept, now in zip(posterior, network.encode(image), strict=True):
            np.testing.assert_array_equal(now, kept)
    moved = {path.split("/")[1] for path, changed in changes(before, student.variables).items() if changed}
    assert moved == {"decoder", "post_quant_conv", "shortcut_out"}
    method.save(trainer.average, tmp_path, lambda: {"image": image})
    saved = codi_tf.load_stable_diffusion(tmp_path).vae
    assert saved.scaling_factor == 1.7
    np.testing.assert_array_equal(saved(image), trainer.average(image))
