"""Prompts in training and in sampling: from the data through the text encoder to the loss, and their guidance."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from tiny import randomize, tiny_base
from tiny_pipeline import save_pipeline

import codi_tf
from codi_tf import data
from codi_tf.checkpoints.stable_diffusion import with_text
from codi_tf.core.errors import UserError
from codi_tf.data.precompute import embed_once, latent_batches
from codi_tf.methods.codi import ConditionalDistillation
from codi_tf.methods.draws import Draws
from codi_tf.methods.finetune import Finetune
from codi_tf.methods.networks import denoiser, dropped, encoded
from codi_tf.tasks import make_task

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

S = 16
TASK = make_task("bicubic")
PROMPTS = {"dark": "a dark room", "light": "a cat", "gray": ""}
PHOTOS = {name: np.full((24, 32, 3), level, np.uint8) for name, level in (("dark", 0), ("light", 255), ("gray", 128))}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_pipeline(tmp_path_factory.mktemp("pipeline") / "sd", "1.x")


@pytest.fixture
def base(folder):
    return codi_tf.load_stable_diffusion(folder)


def model_of(base, **options):
    model = codi_tf.CoDi(base, "mu", "all", task="bicubic", image_size=S, **options)
    randomize(model.student.adapter.variables)
    return model


def texts_of(images):
    """The prompts of images of one color each."""
    return [{-1: "a dark room", 1: "a cat"}.get(round(float(image.mean())), "") for image in images]


# --- data


def test_tokens_are_those_of_the_image_s_own_text(base):
    source = data.Photos(PHOTOS, prompts=PROMPTS)
    options = {"image_size": S, "batch_size": 6, "seed": 3, "tokenizer": base.tokenizer}
    first, second = data.batches(source, TASK, **options).take(2).as_numpy_iterator()
    for batch in (first, second):
        assert set(batch) == {"image", "condition", "tokens"}
        np.testing.assert_array_equal(batch["tokens"], base.tokenizer(texts_of(batch["image"])))
    assert len({*texts_of(first["image"]), *texts_of(second["image"])}) > 1
    resumed = next(data.batches(source, TASK, **options, start_step=1).as_numpy_iterator())
    np.testing.assert_array_equal(resumed["tokens"], second["tokens"])


def test_an_evaluation_has_the_texts_beside_the_images():
    examples = data.evaluation_set(data.Photos(PHOTOS, prompts=PROMPTS), TASK, image_size=S, count=8, seed=0)
    assert list(examples["prompt"]) == texts_of(examples["image"])
    assert "prompt" not in data.evaluation_set(PHOTOS, TASK, image_size=S, count=2, seed=0)


def test_without_a_tokenizer_texts_are_left_out():
    batch = next(iter(data.batches(data.Photos(PHOTOS, prompts=PROMPTS), TASK, image_size=S, batch_size=2, seed=0)))
    assert set(batch) == {"image", "condition"}


def test_data_without_texts_say_so(base):
    with pytest.raises(UserError, match=r"images without prompt \(they have: image\)"):
        data.batches(PHOTOS, TASK, image_size=S, batch_size=2, seed=0, tokenizer=base.tokenizer)
    with pytest.raises(UserError, match="image gray has no prompt"):
        data.Photos(PHOTOS, prompts={"dark": "", "light": ""})


# --- the loss


def test_tokens_and_embeddings_made_once_give_the_same_context(base):
    network = model_of(base).student
    texts = ["a cat", "two dogs", "a cat", ""]
    tokens = base.tokenizer(texts)
    x = np.arange(4 * 2 * 2 * 4, dtype="float32").reshape(4, 2, 2, 4)
    live = encoded(base, network, {"latent": x, "tokens": tf.constant(tokens)})[2].context
    np.testing.assert_allclose(live, base.embed(texts), atol=1e-6)

    latents, contexts = embed_once(base, {"latent": x, "condition_latent": x, "tokens": tokens})
    assert len(contexts) == 3 and set(latents) == {"latent", "condition_latent", "prompt"}
    batch = next(iter(latent_batches(latents, batch_size=4, seed=1, contexts=contexts)))
    order = [int(row[0, 0, 0]) // 16 for row in batch["latent"]]
    np.testing.assert_allclose(batch["context"], base.embed([texts[i] for i in order]), atol=1e-6)
    assert sorted(order) == [0, 1, 2, 3] and "tokens" not in batch and "prompt" not in batch
    np.testing.assert_array_equal(encoded(base, network, batch)[2].context, batch["context"])


def test_more_texts_than_are_kept_are_embedded_in_every_step(base, monkeypatch):
    """The loss is that with their embeddings."""
    model = model_of(base, method=Finetune())
    model.compile(optimizer="sgd")
    x, c = np.random.default_rng(0).normal(size=(2, 2, 8, 8, 4)).astype("float32")
    examples = {"latent": x, "condition_latent": c, "tokens": base.tokenizer(["a cat", "two dogs"])}

    def first_batch():
        latents, contexts = embed_once(base, examples)
        return next(iter(latent_batches(latents, batch_size=2, seed=1, contexts=contexts)))

    once = first_batch()
    monkeypatch.setattr("codi_tf.data.precompute.MAX_PROMPTS", 1)
    live = first_batch()
    assert "context" in once and "context" not in live and "tokens" in live
    (with_embeddings, with_tokens) = (
        model.method.loss_terms(batch, Draws(0, 7))["denoising"] for batch in (once, live)
    )
    np.testing.assert_allclose(with_tokens, with_embeddings, rtol=1e-5)


def test_the_empty_prompt_is_embedded_once(base):
    """Steps that drop prompts and a model that is given none take the same array."""
    model = model_of(base, method=Finetune(drop_prompt=0.5))
    model.compile(optimizer="sgd")
    encoder, embedded = model.base.text_encoder, []
    model.base.text_encoder = lambda tokens: embedded.append(np.array(tokens)) or encoder(tokens)
    x = np.zeros((2, 8, 8, 4), "float32")
    batch = {"latent": x, "condition_latent": x, "context": np.zeros((2, 77, 24), "float32")}
    for step in range(2):
        model.method.loss_terms(batch, Draws(0, step))
    model.denoiser(x)
    (tokens,) = embedded
    np.testing.assert_array_equal(tokens, base.tokenizer([""]))


def test_without_texts_the_context_is_the_empty_prompt_s(base):
    x = np.zeros((2, 2, 2, 4), "float32")
    conditioning = encoded(base, model_of(base).student, {"latent": x})[2]
    np.testing.assert_array_equal(conditioning.context, base.context)
    assert embed_once(base, {"latent": x}) == ({"latent": x}, None)


def test_examples_of_an_interval_are_dropped():
    values, empty = tf.ones((5, 2, 3)), tf.zeros((1, 2, 3))
    u = tf.constant([0.0, 0.0999, 0.1, 0.15, 0.99])
    kept = dropped(values, empty, u, 0.1, 0.2).numpy()
    np.testing.assert_array_equal(kept.any(axis=(1, 2)), [True, True, False, False, True])
    one = dropped(tf.ones((1, 2, 3)), empty, u, 0.0, 0.1).numpy()  # the same for all: an example each
    np.testing.assert_array_equal(one.any(axis=(1, 2)), [False, False, True, True, True])
    assert dropped(values, empty, u, 0.1, 0.1) is values


@pytest.mark.parametrize("method", [Finetune, ConditionalDistillation])
def test_prompts_are_dropped_at_the_rate(base, method):
    """The loss of an example whose prompt was dropped is that with the empty prompt: so each tells which it was."""
    count, share = 64, 0.4
    x = np.random.default_rng(0).normal(size=(count, 8, 8, 4)).astype("float32")
    batch = {"latent": x, "condition_latent": x, "context": np.repeat(base.embed("two dogs"), count, axis=0)}

    def losses(batch, **options):
        model = model_of(base, method=method(**options))
        model.compile(optimizer="sgd")
        return sum(model.method.loss_terms(batch, Draws(0, 7)).values()).numpy()

    with_prompt, without = losses(batch), losses({**batch, "context": base.context})
    found = losses(batch, drop_prompt=share)
    gone = np.abs(found - without) < np.abs(found - with_prompt)
    np.testing.assert_allclose(found, np.where(gone, without, with_prompt), rtol=1e-4)
    assert gone.mean() == pytest.approx(share, abs=0.2) and np.abs(with_prompt - without).min() > 1e-5


def test_half_of_what_is_dropped_loses_both(base):
    """InstructPix2Pix: 5 % without the image, 5 % without the instruction, 5 % without both."""
    count = 400
    model = model_of(base, method=Finetune(drop_condition=0.4, drop_prompt=0.4))
    model.compile(optimizer="sgd")
    x = np.random.default_rng(0).normal(size=(count, 2, 2, 4)).astype("float32")
    calls = {}

    def condition(c, conditioning):
        calls["c"], calls["context"] = np.array(c), np.array(conditioning.context)
        raise StopIteration

    model.student.condition = condition
    batch = {"latent": x, "condition_latent": x, "context": np.repeat(base.embed("two dogs"), count, axis=0)}
    with pytest.raises(StopIteration):
        model.method.loss_terms(batch, Draws(0, 7))
    no_condition = (calls["c"] == 0).all(axis=(1, 2, 3))
    no_text = (calls["context"] == base.context).all(axis=(1, 2))
    shares = [(no_condition & ~no_text).mean(), (no_text & ~no_condition).mean(), (no_condition & no_text).mean()]
    np.testing.assert_allclose(shares, 0.2, atol=0.08)  # four standard deviations


@pytest.mark.parametrize("method", [ConditionalDistillation(delta=30), Finetune()])
def test_the_text_s_own_context_enters_the_loss(base, method):
    """The loss of a batch with tokens is that of the same batch with the context given; another text gives another."""
    model = model_of(base, method=method)
    model.compile(optimizer="sgd")
    random = np.random.default_rng(0)
    x, c = (random.normal(size=(2, 8, 8, 4)).astype("float32") for _ in range(2))

    def loss(**prompts):
        terms = model.method.loss_terms({"latent": x, "condition_latent": c, **prompts}, Draws(0, 7))
        return float(sum(tf.reduce_mean(values) for values in terms.values()))

    texts = ["a cat", "two dogs"]
    by_tokens = loss(tokens=tf.constant(base.tokenizer(texts)))
    assert by_tokens == pytest.approx(loss(context=tf.constant(base.embed(texts))), rel=1e-6)
    assert abs(by_tokens - loss()) > 1e-5


# --- guidance


def test_guidance_by_condition_and_prompt_is_the_sum_of_three_answers(base):
    """e(0, 0) + g_c (e(c, 0) - e(0, 0)) + g_p (e(c, p) - e(c, 0)), each answer computed alone."""
    method = Finetune(drop_condition=0.1, drop_prompt=0.1)
    model = model_of(base, method=method)
    random = np.random.default_rng(0)
    condition = tf.constant(random.uniform(-1, 1, (2, S, S, 3)).astype("float32"))
    z_t = tf.constant(random.normal(size=model.latent_shape(2, S, S)).astype("float32"))
    prompt, empty, t = base.conditioning(["a cat", "two dogs"]), base.conditioning(), tf.constant(500)
    c = model.encode_condition(condition)

    def answer(c, conditioning):
        return np.array(denoiser(base, model.network, c, conditioning)(z_t, t).x_hat)

    neither, by_condition, both = answer(tf.zeros_like(c), empty), answer(c, empty), answer(c, prompt)
    by_prompt = answer(tf.zeros_like(c), prompt)
    expected = {
        (1.0, None): both,
        (1.5, None): by_prompt + 1.5 * (both - by_prompt),
        (1.0, 1.0): both,
        (1.5, 1.0): neither + 1.5 * (by_condition - neither) + (both - by_condition),
        (1.0, 3.0): by_condition + 3.0 * (both - by_condition),
        (1.5, 3.0): neither + 1.5 * (by_condition - neither) + 3.0 * (both - by_condition),
    }
    for (guidance, text_guidance), x_hat in expected.items():
        options = {"guidance": guidance, "text_guidance": text_guidance}
        ours = model.generator.denoiser(condition, prompt, **options)(z_t, t).x_hat
        np.testing.assert_allclose(ours, x_hat, rtol=1e-4, atol=1e-4 * np.abs(x_hat).max())


def test_generating_with_both_guidances(base):
    model = model_of(base, method=Finetune(drop_condition=0.1, drop_prompt=0.1))
    condition = np.random.default_rng(0).uniform(size=(S, S, 3))
    plain, guided = (
        model.generate(condition, "a cat", steps=2, **options)
        for options in ({}, {"guidance": 1.5, "text_guidance": 7.5})
    )
    assert (plain != guided).any()
    np.testing.assert_array_equal(plain, model.generate(condition, "a cat", steps=2, guidance=1.0, text_guidance=1.0))


def test_a_useless_text_guidance_is_refused(base):
    condition = np.zeros((S, S, 3))
    plain = model_of(base)
    with pytest.raises(UserError, match="text_guidance is 3.0: this model was trained without"):
        plain.generate(condition, "a cat", text_guidance=3.0)
    tuned = model_of(base, method=Finetune(drop_prompt=0.1))
    with pytest.raises(UserError, match="text_guidance is 3.0: there is no prompt"):
        tuned.generate(condition, text_guidance=3.0)
    with pytest.raises(UserError, match="text_guidance is nan"):
        tuned.generate(condition, "a cat", text_guidance=float("nan"))


# --- a text encoder for a base without


def test_a_base_is_given_a_text_encoder(tmp_path, folder, base):
    silent = codi_tf.load_stable_diffusion(folder)
    silent.text_encoder = silent.tokenizer = None
    completed = with_text(silent, folder)
    np.testing.assert_array_equal(completed.embed("a cat"), base.embed("a cat"))
    assert completed.path is None  # the folder no longer has these weights
    model = model_of(completed)
    model.save(tmp_path / "bundle")
    np.testing.assert_allclose(codi_tf.load(tmp_path / "bundle").base.embed("a cat"), base.embed("a cat"), atol=1e-6)


def test_a_text_encoder_that_is_not_wanted_or_does_not_fit(tmp_path, folder, base):
    with pytest.raises(UserError, match="already has a text encoder"):
        with_text(base, folder)
    small = tiny_base()  # its UNet takes prompts of other channels
    with pytest.raises(UserError, match="they do not belong together"):
        with_text(small, folder)
    with pytest.raises(UserError, match="no such file"):
        with_text(small, tmp_path)
