"""Pre-training with prompts: the UNet and its text encoder learn together, from examples as they come or encoded."""

from __future__ import annotations

import dataclasses
import warnings

import numpy as np
import pytest
import tensorflow as tf
from conftest import SCHEDULER, VAE
from small_runs import metrics
from tiny import UNET, randomize, tiny_base

import codi_tf
from codi_tf import config
from codi_tf.checkpoints.folder import save_base
from codi_tf.cli import cache
from codi_tf.cli.train import train
from codi_tf.core.errors import UserError
from codi_tf.data.counts import COUNTED
from codi_tf.io.images import write_png
from codi_tf.methods.draws import Draws
from codi_tf.training.experiment import build_dataset, build_trainer
from codi_tf.training.monitor import heldout_examples
from codi_tf.training.samples import make_samples

NETWORK = {**UNET, "down_block_types": ["CrossAttnDownBlock2D"], "up_block_types": ["CrossAttnUpBlock2D"]}
TEXT = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
METHOD = {"name": "pretrain", "network": {**NETWORK, "sample_size": 4}, "scheduler": SCHEDULER, "text_encoder": TEXT}
DECODER = {"decoder_block_out_channels": [8, 8, 8], "num_decoder_blocks": [1, 1, 1]}
WORDS = ("black", "dark", "grey", "pale", "light", "white")


@pytest.fixture(scope="module")
def values(tmp_path_factory):
    """A config as plain data: an autoencoder alone, and images of one level each whose captions name it."""
    folder = tmp_path_factory.mktemp("text")
    (folder / "vae").mkdir()
    save_base(dataclasses.replace(tiny_base(), unet=None), folder / "vae")
    stripes = (np.arange(24, dtype=np.uint8) % 3 * 5)[:, None, None]
    for i, word in enumerate(WORDS * 2):
        write_png(folder / "captioned" / f"{i}.png", np.full((24, 24, 3), 20 * i, np.uint8) + stripes)
        (folder / "captioned" / f"{i}.txt").write_text(f"a {word} wall", "utf-8")
    return {
        "method": METHOD,
        "base": str(folder / "vae"),
        "data": {"image_size": 16, "source": str(folder / "captioned"), "prompts": True},
        "train": {
            "steps": 2,
            "batch_size": 4,
            "warmup_steps": 0,
            "learning_rate": 1e-2,
            "log_every": 1,
            "ema_decay": 0.5,
        },
    }


def experiment(values, **sections) -> config.Experiment:
    return config.from_dict({**values, **{k: {**values.get(k, {}), **v} for k, v in sections.items()}})


def first_batch(run, trainer):
    return next(iter(build_dataset(run, trainer, 0)))


def contents(variables):
    return [variable.numpy() for variable in variables]


def gradients(trainer, batch):
    """(gradients, loss) of the first update, compiled."""
    values, means = tf.function(lambda: trainer._gradients_of(batch, 0, 1), autograph=False)()
    return [np.asarray(value) for value in values], float(means[0])


# --- the loss


def test_both_networks_learn_and_so_do_their_averages(values):
    """Catches a text encoder that gets no gradient, or whose moving average stays where it was."""
    run = experiment(values, method={"drop_prompt": 0.3})
    trainer = build_trainer(run)
    student, average = trainer.student, trainer.average
    trained = [*student.unet.variables, *student.text_encoder.variables]
    assert list(map(id, trainer.trainable_variables)) == list(map(id, trained))
    batch = first_batch(run, trainer)
    assert batch.keys() - set(COUNTED) == {"image", "tokens"}
    before = contents((*trained, *average.text_encoder.variables))
    for _ in range(2):  # a UNet's last convolution is 0 at first
        trainer.train_step(batch)
    after = contents((*trained, *average.text_encoder.variables))
    assert all((a != b).any() for a, b in zip(before, after, strict=True))


def test_the_loss_is_that_of_the_text_encoder_s_own_words_and_prompts_are_dropped_at_the_rate(values):
    """Catches a base's embedding of the empty prompt in place of the student's, and captions that are never dropped."""
    run = experiment(values, method={"drop_prompt": 0.4}, train={"batch_size": 64})
    trainer = build_trainer(run)
    method, base, student = trainer.method, trainer.method.base, trainer.student
    _ = base.context  # of the text encoder as it was
    randomize(student.variables)
    batch = first_batch(run, trainer)

    def loss(tokens, drop):
        method.settings = dataclasses.replace(run.method, drop_prompt=drop)
        return np.asarray(method.loss_terms({**batch, "tokens": tokens}, Draws(0, 7))["denoising"])

    empty = np.repeat(base.tokenizer([""]), 64, axis=0)
    whole, without, found = loss(batch["tokens"], 0.0), loss(empty, 0.0), loss(batch["tokens"], 0.4)
    gone = np.abs(found - without) < np.abs(found - whole)
    np.testing.assert_allclose(found, np.where(gone, without, whole), rtol=1e-4)
    assert gone.mean() == pytest.approx(0.4, abs=0.2) and np.abs(whole - without).min() > 1e-6
    context = student.text_encoder(batch["tokens"])
    draws, x = Draws(0, 7), base.encode(batch["image"])
    t, eps = draws.times(x, low=0, high=1000, shared=False), draws.noise(x)
    alpha, sigma = (np.asarray(table)[np.asarray(t)].reshape(-1, 1, 1, 1) for table in base.schedule)
    z_t = alpha * x + sigma * eps
    v_hat = student.unet(z_t, t, context)
    np.testing.assert_allclose(whole, np.square(alpha * eps - sigma * x - v_hat).mean((1, 2, 3)), rtol=1e-4)


@pytest.mark.parametrize("learns", [False, True])
def test_a_base_with_a_text_encoder_goes_on_with_it(values, tmp_path, learns):
    """Catches a frozen text encoder that is trained, and a vocabulary that is learned anew."""
    trainer = build_trainer(experiment(values))
    randomize(trainer.average.variables)
    (tmp_path / "base").mkdir()
    trainer.method.save(trainer.average, tmp_path / "base", dict)
    run = experiment({**values, "base": str(tmp_path / "base"), "method": {"name": "pretrain", "drop_prompt": 0.2}})
    run = dataclasses.replace(run, method=dataclasses.replace(run.method, train_text_encoder=learns))
    again = build_trainer(run)
    base = again.method.base
    assert base.tokenizer.vocabulary == trainer.method.base.tokenizer.vocabulary
    before = contents(base.text_encoder.variables)
    batch = first_batch(run, again)
    again.train_step(batch)
    changed = [(a != b).any() for a, b in zip(before, contents(base.text_encoder.variables), strict=True)]
    assert all(changed) if learns else not any(changed)
    result = again.method.result(again.average)
    assert (result.text_encoder is base.text_encoder) == (not learns)
    tokens = batch["tokens"]
    given = {"image": batch["image"], "context": base.embed_tokens(tokens)} if not learns else batch
    np.testing.assert_allclose(
        again.method.loss_terms({"image": batch["image"], "tokens": tokens}, Draws(0, 3))["denoising"],
        again.method.loss_terms(given, Draws(0, 3))["denoising"],
        rtol=1e-5,
    )


# --- number formats, gradient checkpointing


def autoencoder(values) -> dict:
    data = {**values["data"], "prompts": False}
    return {"method": {"name": "autoencoder", "network": VAE}, "data": data, "train": values["train"]}


@pytest.mark.slow
@pytest.mark.parametrize("kind", [dict, autoencoder])
def test_half_precision_stays_near_and_recomputing_changes_nothing(values, kind):
    """Catches formats that are asked for and not used, and a moving average or weights that are not float32."""
    values = kind(values)
    found = {}
    for name, memory in (("plain", {}), ("half", {"compute": "bfloat16"}), ("recompute", {"recompute": True})):
        run = experiment(values, memory=memory)
        trainer = build_trainer(run)
        randomize(trainer.student.variables)
        found[name] = gradients(trainer, first_batch(run, trainer))
        formats = {variable.dtype for variable in (*trainer.student.variables, *trainer.average.variables)}
        assert formats == {"float32"}
    (plain, loss), (half, near), (again, same) = (found[name] for name in ("plain", "half", "recompute"))
    assert same == pytest.approx(loss, rel=1e-6) and near == pytest.approx(loss, rel=0.02) and near != loss
    for a, b, c in zip(plain, again, half, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-6)
        assert np.isfinite(c).all()


def test_recomputing_reaches_the_blocks(values):
    """Catches an option that is taken and does nothing."""
    run = experiment(values, memory={"recompute": True})
    assert all(block.recompute for block in build_trainer(run).student.unet.down_blocks)
    levels = build_trainer(experiment(autoencoder(values), memory={"recompute": True})).student.decoder.levels
    assert levels and all(level.recompute for level in levels)


def test_float16_scales_the_loss(values):
    run = experiment(values, memory={"compute": "float16"})
    trainer = build_trainer(run)
    logs = trainer.train_step(first_batch(run, trainer))
    assert trainer.scaled and np.isfinite(float(logs["loss"]))


# --- encoded examples


def pairs(batches) -> set:
    """(latent, tokens) of examples, rounded so that they can be compared."""
    return {
        (tuple(np.asarray(latent).round(3).ravel()), tuple(np.asarray(tokens)))
        for batch in batches
        for latent, tokens in zip(batch["latent"], batch["tokens"], strict=True)
    }


def test_encoded_examples_keep_their_prompts(values, tmp_path, monkeypatch):
    """Catches captions that come beside other images, embeddings that are made once, and another vocabulary.

    In memory and in a folder of encoded examples, against encoding each batch.
    """
    run = experiment(values)
    trainer = build_trainer(run)
    batches = list(build_dataset(run, trainer, 0).take(2))
    expected = pairs([{"latent": trainer.method.base.encode(b["image"]), "tokens": b["tokens"]} for b in batches])
    once = experiment(values, data={"encode_once": 8})
    found = list(build_dataset(once, trainer, 0).take(2))
    assert all(batch.keys() == {"latent", "tokens"} for batch in found) and pairs(found) == expected

    assert cache.encode(run, tmp_path / "cache", examples=8, shard=4)
    monkeypatch.setattr("codi_tf.data.training_prompts", lambda *_: pytest.fail("the folder has the vocabulary"))
    stored = experiment(values, data={"source": str(tmp_path / "cache")})
    again = build_trainer(stored)
    assert again.method.base.tokenizer.vocabulary == trainer.method.base.tokenizer.vocabulary
    found = list(build_dataset(stored, again, 0).take(2))
    assert pairs(found) == expected

    assert cache.encode(
        experiment(values, data={"prompts": False}, method={"text_encoder": None}),
        tmp_path / "bare",
        examples=4,
        shard=4,
    )
    with pytest.raises(UserError, match="was encoded for another base; encode it with this config"):
        build_trainer(experiment(values, data={"source": str(tmp_path / "bare")}))


# --- samples


@pytest.mark.parametrize("name", ["autoencoder", "decoder"])
def test_reconstructions_of_held_out_images_are_measured(values, name):
    """Catches the network that is trained in place of its average, and figures of other images."""
    run = autoencoder(values)
    run["method"] = run["method"] if name == "autoencoder" else {"name": "decoder", "network": DECODER}
    run = experiment({**run, "base": values["base"] if name == "decoder" else None}, train={"sample_every": 1})
    trainer = build_trainer(run)
    randomize(trainer.average.variables)
    heldout = heldout_examples(run, trainer)
    samples = make_samples(run, trainer, heldout)
    average, image = trainer.average, heldout["image"]
    made = average(image) if name == "autoencoder" else average(trainer.method.base.encode(image))
    made, originals = (np.clip(np.asarray(one, "float64"), -1, 1) / 2 + 0.5 for one in (made, image))
    expected = np.mean(-10 * np.log10(np.square(made - originals).mean((1, 2, 3))))
    figures = samples.figures()
    assert figures["heldout_psnr"] == pytest.approx(expected, abs=1e-3)
    steps = [np.square(np.diff(one @ [0.299, 0.587, 0.114], axis=axis)) for one in (made, originals) for axis in (1, 2)]
    energy = [step.mean() for step in steps]
    assert figures["heldout_sharpness"] == pytest.approx((energy[0] + energy[1]) / (energy[2] + energy[3]), rel=1e-3)
    assert samples.grid().shape[2] == 3
    assert heldout_examples(experiment(autoencoder(values)), trainer) is None  # nothing is read for no samples


# --- whole runs


@pytest.mark.slow
def test_a_run_resumes_as_if_it_had_not_stopped_and_ends_in_a_base_for_text_to_image(values, tmp_path, monkeypatch):
    """Catches a state without the text encoder, and a vocabulary of another order."""
    options = {"log_every": 1, "sample_every": 1, "decay": "constant"}
    run, half = experiment(values, train=options), experiment(values, train={**options, "steps": 1})
    whole = train(run, tmp_path / "whole")
    train(half, tmp_path / "part")
    monkeypatch.setattr("codi_tf.data.training_prompts", lambda *_: pytest.fail("the run has the vocabulary"))
    part = train(run, tmp_path / "part")
    for name in ("unet/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors", "tokenizer/vocab.json"):
        assert (whole / name).read_bytes() == (part / name).read_bytes()
    logs = [metrics(tmp_path / name) for name in ("whole", "part")]
    assert logs[0] == logs[1] and all(line["heldout_loss"] > 0 for line in logs[0])
    (first, second), resumed = (sorted((tmp_path / name / "samples").iterdir()) for name in ("whole", "part"))
    assert first.read_bytes() != second.read_bytes() == resumed[1].read_bytes()
    base = codi_tf.load_stable_diffusion(whole)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        images = codi_tf.TextToImage(base).generate(["a dark wall", "a wall"], steps=2, guidance=2.5)
    assert images.shape == (2, 16, 16, 3)
    with pytest.warns(UserWarning, match="without these words of the prompt: 'dragon'"):
        codi_tf.TextToImage(base).generate("a dragon", steps=1)


# --- what cannot be


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"data": {"prompts": False}}, "the text encoder is to be trained, but no prompts are used"),
        (
            {"method": {"text_encoder": {**TEXT, "hidden_size": 12}}},
            "cross_attention_dim is 8: method.text_encoder gives 12",
        ),
        ({"method": {"text_encoder": {**TEXT, "hidden_size": 0}}}, "method.text_encoder: hidden_size is 0: it must be"),
        ({"method": {"text_encoder": {**TEXT, "heads": 2}}}, "text_encoder: not a configuration of TextEncoder"),
        ({"method": {"text_encoder": {**TEXT, "vocab_size": 500}}}, "a vocabulary of 500 tokens is too small"),
        (
            {"method": {"text_encoder": {**TEXT, "max_position_embeddings": 40}}},
            "max_position_embeddings is 40: prompts have 77 tokens",
        ),
        (
            {"method": {"text_encoder": None, "train_text_encoder": True}},
            "has no text encoder: set method.text_encoder",
        ),
        (
            {"method": {"network": {**NETWORK, "in_channels": 3}}},
            "in_channels is 3: latents of the base have 4 channels",
        ),
        ({"method": {"drop_prompt": 1.0}}, "method.drop_prompt is 1.0: it must be in"),
        (
            {"memory": {"frozen_weights": "float16"}},
            "memory.frozen_weights is 'float16', but a training without a task",
        ),
        ({"data": {"source": "photos"}}, "images without prompt"),
    ],
)
def test_what_does_not_go_together_is_said_in_one_line(values, sections, said):
    with pytest.raises(UserError) as caught:
        build_trainer(experiment(values, **sections))
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_a_network_without_blocks_cannot_be_recomputed(values):
    run = {**autoencoder(values), "method": {"name": "decoder", "network": DECODER}, "memory": {"recompute": True}}
    with pytest.raises(UserError, match="memory.recompute is true: the network of this method has no"):
        build_trainer(config.from_dict({**run, "base": values["base"]}))
