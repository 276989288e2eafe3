"""Class labels as a condition: the network, the data, training, guidance by the null class, distillation, exports."""

from __future__ import annotations

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf
from commands import run_here
from conftest import SCHEDULER
from PIL import Image
from tiny import UNET, randomize, tiny_base
from tiny_pipeline import save_pipeline, torch

import codi_tf
from codi_tf import config
from codi_tf.checkpoints.base import Base, make_unet
from codi_tf.checkpoints.folder import save_base
from codi_tf.checkpoints.stable_diffusion import save_stable_diffusion
from codi_tf.cli import cache, text2image
from codi_tf.core.errors import UserError
from codi_tf.core.noise import gaussian_noise
from codi_tf.diffusion.process import coefficients, predict
from codi_tf.inference.text_to_image import TextToImage
from codi_tf.methods.draws import Draws
from codi_tf.models.pixels import PixelFolding
from codi_tf.training.experiment import build_dataset, build_trainer
from codi_tf.training.samples import make_samples
from export.build import make_package
from export.package.manifest import read_package
from export.runtime import run

CLASSES = 32  # of scenes
BATCH = {"class": np.array([3, 31, 3], np.int32)}


def class_base(pixels: bool = False) -> Base:
    """A class-conditional base of latents or pixels with random weights, none of them zero."""
    keras.utils.set_random_seed(0)
    base = tiny_base()
    vae = PixelFolding(patch_size=2, name="vae") if pixels else base.vae
    channels = dict.fromkeys(("in_channels", "out_channels"), vae.latent_channels)
    unet = make_unet({**UNET, **channels, "num_class_embeds": CLASSES + 1, "sample_size": 16 // vae.factor})
    randomize(unet.variables)
    return Base(unet, vae, dict(SCHEDULER))


@pytest.fixture(scope="module", params=[False, True], ids=["latents", "pixels"])
def folder(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("classes") / "base"
    path.mkdir()
    save_base(class_base(request.param), path)
    return path


def trainer_of(base, method, **sections):
    values = {
        "method": method,
        "base": None if base is None else str(base),
        "data": {"source": "scenes", "image_size": 16, "classes": True},
        "train": {"steps": 2, "batch_size": 3, "warmup_steps": 0, "learning_rate": 1e-2, "ema_decay": 0.5},
    }
    return build_trainer(config.from_dict({**values, **sections}))


def batch_of(trainer):
    vae = trainer.method.base.vae
    shape = (3, 16 // vae.factor, 16 // vae.factor, vae.latent_channels)
    return {"latent": tf.constant(gaussian_noise(0, shape)), "class": tf.constant(BATCH["class"])}


# The network


def test_a_unet_with_classes_is_diffusers(tmp_path):
    """The same numbers and, written again, the same weights. Catches an embedding added elsewhere, or lost."""
    diffusers = pytest.importorskip("diffusers")
    folder = save_pipeline(tmp_path / "checkpoint", "1.x", num_class_embeds=5)
    theirs = diffusers.UNet2DConditionModel.from_pretrained(folder / "unet")
    base = codi_tf.load_stable_diffusion(folder)
    random = np.random.default_rng(0)
    z, context = (random.normal(size=shape).astype("float32") for shape in ((3, 8, 8, 4), (3, 77, 24)))
    t, labels = np.array([1, 500, 999]), np.array([0, 4, 2])
    with torch.no_grad():
        expected = theirs(
            torch.from_numpy(np.moveaxis(z, -1, 1).copy()),
            torch.from_numpy(t),
            torch.from_numpy(context),
            class_labels=torch.from_numpy(labels),
        ).sample.numpy()
    got = np.asarray(base.unet(z, t, context, None, labels))
    np.testing.assert_allclose(got, np.moveaxis(expected, 1, -1), atol=2e-4 * np.abs(expected).max())
    assert np.abs(got - np.asarray(base.unet(z, t, context))).max() > 1e-3  # the null class is another
    save_stable_diffusion(base, tmp_path / "again")
    again = diffusers.UNet2DConditionModel.from_pretrained(tmp_path / "again" / "unet")
    ours = again.state_dict()
    assert all(torch.equal(value, ours[key]) for key, value in theirs.state_dict().items())


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (32, "labels is 32: this model has the classes 0 to 31"),
        ([-1], r"labels is \[-1\]: this model has the classes 0 to 31"),
        (1.5, "labels is 1.5"),
        ([], r"labels is \[\]"),
        ([[1]], r"labels is \[\[1\]\]"),
    ],
)
def test_labels_out_of_range_are_refused(labels, message):
    with pytest.raises(UserError, match=message) as error:
        class_base().class_labels(labels)
    assert "\n" not in str(error.value)


def test_a_base_without_classes_takes_no_label():
    with pytest.raises(UserError, match="labels is 1: this model has no classes; leave it out"):
        tiny_base().conditioning(labels=1)


# Training


def test_classes_reach_the_loss_and_are_dropped_at_the_rate(folder):
    """Catches labels of other examples, and a null class that is never trained."""
    trainer = trainer_of(folder, {"name": "pretrain", "drop_prompt": 0.4})
    method, base = trainer.method, trainer.method.base
    shape = (64, 16 // base.vae.factor, 16 // base.vae.factor, base.vae.latent_channels)
    x = tf.constant(gaussian_noise(0, shape))
    labels = np.random.default_rng(0).integers(0, CLASSES, 64).astype("int32")
    draws, unet = Draws(0, 7), trainer.student.unet
    t, eps = draws.times(x, low=0, high=1000, shared=False), draws.noise(x)
    alpha_t, sigma_t = (np.asarray(a) for a in coefficients(base.schedule, t))
    z_t = (alpha_t * x.numpy() + sigma_t * eps.numpy()).astype("float32")
    v = alpha_t * eps.numpy() - sigma_t * x.numpy()

    def expected(labels):
        return np.square(v - np.asarray(unet(z_t, t, base.context, None, labels))).mean(axis=(1, 2, 3))

    found = method.loss_terms({"latent": x, "class": tf.constant(labels)}, draws)["denoising"].numpy()
    gone = draws.uniform(x, "drop").numpy() < 0.4
    np.testing.assert_allclose(found, np.where(gone, expected(np.full(64, CLASSES)), expected(labels)), rtol=1e-3)
    assert 10 < gone.sum() < 50


@pytest.mark.parametrize("once", [0, pytest.param(6, marks=pytest.mark.slow)])
def test_scenes_are_trained_with_their_classes(folder, once):
    """Catches classes that are lost on the way from the source, also where examples are encoded beforehand."""
    data = {"source": "scenes", "image_size": 16, "classes": True, "encode_once": once}
    method = {"name": "pretrain", "drop_prompt": 0.1}
    trainer = trainer_of(folder, method, data=data)
    values = {"method": method, "base": str(folder), "data": data, "train": {"steps": 1, "batch_size": 6}}
    batch = next(iter(build_dataset(config.from_dict(values), trainer, 0)))
    assert batch["class"].dtype == tf.int32 and batch["class"].shape == (6,)
    assert len(set(batch["class"].numpy())) > 1
    logs = trainer.train_step(batch)
    assert float(logs["gradient_norm"]) > 0


@pytest.mark.slow
def test_classes_are_encoded_with_the_latents(tmp_path):
    """`codi cache` keeps them; a training without them, and a cache without them, are told apart."""
    base = tmp_path / "base"
    base.mkdir()
    save_base(class_base(pixels=True), base)
    values = {
        "method": {"name": "pretrain"},
        "base": str(base),
        "data": {"source": "scenes", "image_size": 16, "classes": True},
        "train": {"steps": 1, "batch_size": 3, "warmup_steps": 0},
    }
    cache.encode(config.from_dict(values), tmp_path / "with", examples=6, shard=6)
    data = {"source": str(tmp_path / "with"), "image_size": 16, "classes": True}
    trainer = trainer_of(base, values["method"], data=data)
    batch = next(iter(build_dataset(config.from_dict({**values, "data": data}), trainer, 0)))
    plain = build_dataset(config.from_dict(values), trainer, 0)
    plain = list(plain.take(2).as_numpy_iterator())
    images, labels = (np.concatenate([one[key] for one in plain]) for key in ("image", "class"))
    latents = trainer.method.base.encode(images).numpy()
    for latent, label in zip(batch["latent"].numpy(), batch["class"].numpy(), strict=True):
        distances = np.abs(latents - latent).mean((1, 2, 3))
        assert distances.min() < 1e-3 and label == labels[distances.argmin()]
    without = {**values, "data": {**data, "classes": False}}
    assert "class" not in next(iter(build_dataset(config.from_dict(without), trainer, 0)))
    cache.encode(config.from_dict({**values, "data": {**values["data"], "classes": False}}), tmp_path / "no",
                 examples=6, shard=6)  # fmt: skip
    with pytest.raises(UserError, match="was encoded without classes; encode it with data.classes=true"):
        build_dataset(config.from_dict({**values, "data": {**data, "source": str(tmp_path / "no")}}), trainer, 0)


def test_what_a_training_with_classes_refuses(folder, tmp_path):
    (tmp_path / "plain").mkdir()
    save_base(tiny_base(), tmp_path / "plain")
    few = tmp_path / "few"
    few.mkdir()
    save_base(dataclasses.replace(tiny_base(), unet=make_unet({**UNET, "num_class_embeds": 10})), few)

    def refused(base, message, **data):
        method = {"name": "pretrain"}
        settings = {"source": "scenes", "image_size": 16, "classes": True, **data}
        values = {"method": method, "base": str(base), "data": settings, "train": {"steps": 1, "batch_size": 3}}
        with pytest.raises(UserError, match=message):
            build_dataset(config.from_dict(values), trainer_of(base, method, data=settings), 0)

    refused(tmp_path / "plain", "the UNet has no classes: set method.network.num_class_embeds to 33")
    refused(few, "the UNet has 9 classes, the examples have 32: set method.network.num_class_embeds to 33")
    refused(folder, "images without class", source="photos")
    trainer = trainer_of(tmp_path / "plain", {"name": "pretrain"}, data={"image_size": 16})
    with pytest.raises(UserError, match="a batch has classes, and this base has none"):
        trainer.train_step({"latent": tf.zeros((3, 4, 4, 4)), "class": tf.constant(BATCH["class"])})


# Sampling


def test_guidance_leads_away_from_the_null_class(folder):
    """Catches a null class that is class 0, halves of the batch that are exchanged, and one label for all images."""
    model = TextToImage(codi_tf.load_stable_diffusion(folder))
    base = model.base
    got = model.generate(labels=[3, 7], sampler="ddim", steps=1, guidance=2.0, seed=1)
    z = gaussian_noise(1, (2, 16 // base.vae.factor, 16 // base.vae.factor, base.vae.latent_channels))
    t = model.grid("ddim", 1).steps[0].t
    given, none = (
        np.asarray(base.unet(z, np.array([t]), base.context, None, np.array(labels)))
        for labels in ([3, 7], [CLASSES] * 2)
    )
    alpha_t, sigma_t = (np.float32(level[t]) for level in base.schedule)
    x_hat = predict(none + 2.0 * (given - none), z, alpha_t, sigma_t, "v_prediction").x_hat
    expected = (np.clip(base.decode(x_hat), -1, 1) + 1) / 2
    assert np.abs(got / 255 - expected).max() < 0.51 / 255
    assert model.generate(labels=3, sampler="ddim", steps=1).shape == (1, 16, 16, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "there is no label: give one, from 0 to 31"),
        ({"labels": 40}, "labels is 40"),
        ({"prompts": "a tree"}, "this model has no text encoder"),
        ({"labels": 1, "negative_prompt": "x"}, "no text encoder: leave the negative prompt out"),
    ],
)
def test_mistakes(folder, options, message):
    with pytest.raises(UserError, match=message):
        TextToImage(codi_tf.load_stable_diffusion(folder)).generate(**options)


def test_the_command_makes_an_image_of_a_class(folder, tmp_path):
    out = tmp_path / "out.png"
    done = run_here(text2image.main, folder, "--label", "5", "--steps", "2", "--out", out)
    assert done.returncode == 0, done.stderr
    expected = TextToImage(codi_tf.load_stable_diffusion(folder)).generate(labels=5, steps=2)[0]
    np.testing.assert_allclose(np.asarray(Image.open(out)).astype(int), expected, atol=1)
    with pytest.raises(UserError, match="labels is 32: this model has the classes 0 to 31"):
        text2image.main([str(folder), "--label", "32", "--out", str(out)])


# Distillation


@pytest.mark.slow
def test_both_stages_of_guided_distillation_take_classes(folder, tmp_path):
    """Catches a teacher that is guided away from the class itself, and results that forget classes or guidance."""
    trainer = trainer_of(folder, {"name": "guided", "stage": 1, "guidance": [1.0, 5.0]})
    method, batch, draws = trainer.method, batch_of(trainer), Draws(3, 5)
    base, unet, x = method.base, method.frozen.unet, batch["latent"]
    got = method.loss_terms(batch, draws)["guidance_matching"].numpy()
    t, eps = draws.times(x, low=0, high=1000, shared=False), draws.noise(x)
    alpha_t, sigma_t = (np.asarray(a) for a in coefficients(base.schedule, t))
    z_t = (alpha_t * x.numpy() + sigma_t * eps.numpy()).astype("float32")
    given, none = (
        np.asarray(unet(z_t, t, base.context, None, labels)) for labels in (BATCH["class"], np.full(3, CLASSES))
    )
    guidance = (1.0 + 4.0 * draws.uniform(x, "guidance").numpy()).reshape(-1, 1, 1, 1)
    expected = np.square((guidance - 1.0) * (given - none)).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-8)
    for number, stage in enumerate(({"stage": 1}, {"stage": 2, "steps": [4, 2], "updates": 1})):
        trainer = trainer_of(folder, {"name": "guided", "guidance": [1.0, 5.0], **stage})
        trainer.train_step(batch)
        folder = tmp_path / str(number)
        folder.mkdir()
        trainer.method.save(trainer.average, folder, dict)
    few = TextToImage(codi_tf.load_stable_diffusion(folder))
    assert few.takes_guidance and few.base.num_classes == CLASSES and few.base.made_for.steps == 2
    first, other = (few.generate(labels=label, guidance=2.0) for label in (1, 2))
    assert not np.array_equal(first, other)
    experiment = config.from_dict(
        {
            "method": {"name": "guided", "stage": 2, "guidance": [1.0, 5.0], "steps": [4, 2], "updates": 1},
            "base": str(folder),
            "data": {"source": "scenes", "classes": True},
            "train": {"steps": 2},
        }
    )
    image = np.zeros((3, 16, 16, 3), "float32")
    samples = make_samples(experiment, trainer, {"image": image, "class": BATCH["class"]})
    assert np.isfinite(samples.grid()).all() and np.isfinite(samples.figures()["heldout_halving"])
    with pytest.raises(UserError, match="a batch has no class"):
        trainer.train_step({"latent": x})


def test_an_adapted_model_of_such_a_base_has_the_null_class():
    """Bundles on such a base train with classes in the batch or without, and generate with the null class alone."""
    model = codi_tf.CoDi(class_base(pixels=True), image_size=16)
    table, condition = model.student.unet.class_embedding.embeddings, np.full((1, 16, 16, 3), 0.3, "float32")
    first, kept = model.generate(condition, steps=1), table.numpy()
    for row, same in ((0, True), (len(kept) - 1, False)):
        table.assign(kept + 3.0 * (np.arange(len(kept)) == row)[:, None])
        assert np.array_equal(model.generate(condition, steps=1), first) == same
    table.assign(kept)
    model.compile(keras.optimizers.AdamW(1e-3, weight_decay=0.0))
    image = np.random.default_rng(0).uniform(-1, 1, (3, 16, 16, 3)).astype("float32")
    batch = {"image": tf.constant(image), "condition": tf.constant(image)}
    for labels in ({}, {"class": tf.constant(BATCH["class"])}):
        assert np.isfinite(float(model.train_step({**batch, **labels})["loss"]))


# Exports


@pytest.mark.parametrize(
    ("format", "layout"),
    [
        ("onnx", "whole"),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in (("tflite", "parts"), ("saved_model", "whole"))),
    ],
)
def test_a_package_is_made_for_one_class(folder, tmp_path, format, layout):
    """Catches the embedding of another class than the one that was asked for."""
    options = {"format": format, "layout": layout, "guidance": 1.0, "sampler": "ddim", "steps": 2, "report": False}
    make_package(folder, tmp_path / "out", label=5, **options)
    package = read_package(tmp_path / "out")
    assert not package.prompted and package.channels == 0
    image = run.load_any(package)(None, gaussian_noise(3, package.latent_shape))[0]
    model = TextToImage(codi_tf.load_stable_diffusion(folder))
    five, six = (model.generate(labels=n, sampler="ddim", steps=2, guidance=1.0, seed=3)[0] / 255 for n in (5, 6))
    np.testing.assert_allclose(image, five, atol=1.01 / 255)
    assert np.abs(image - six).max() > 2 / 255
    with pytest.raises(UserError, match="labels is 32"):
        make_package(folder, tmp_path / "other", label=32, **options)
