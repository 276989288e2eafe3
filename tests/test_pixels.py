"""Pixel space: an autoencoder without weights, and everything that stands on it."""

from __future__ import annotations

import dataclasses
import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import SCHEDULER
from tiny import UNET, randomize, tiny_text

import codi_tf
from codi_tf import config
from codi_tf.checkpoints.base import Base, make_unet
from codi_tf.checkpoints.folder import save_base
from codi_tf.checkpoints.skeleton import read_skeleton
from codi_tf.checkpoints.stable_diffusion import save_stable_diffusion, with_text
from codi_tf.core.errors import UserError
from codi_tf.core.noise import gaussian_noise
from codi_tf.diffusion import losses
from codi_tf.diffusion.process import coefficients, make_schedule, predict
from codi_tf.inference.text_to_image import TextToImage
from codi_tf.inference.tiling import generate_tiled
from codi_tf.methods.codi import ConditionalDistillation
from codi_tf.methods.finetune import Finetune
from codi_tf.models.pixels import PixelFolding
from codi_tf.models.tiny_decoder import TinyDecoder
from codi_tf.training.experiment import build_trainer
from export.build import write_package
from export.emit.program import SamplerProgram
from export.package.manifest import read_package
from export.runtime.sampler import load_any


def pixel_base(patch_size: int = 2) -> Base:
    """A base in pixel space with random weights, none of them zero; it predicts the signal."""
    keras.utils.set_random_seed(0)
    vae = PixelFolding(patch_size=patch_size, name="vae")
    unet = make_unet({**UNET, "in_channels": vae.latent_channels, "out_channels": vae.latent_channels})
    randomize(unet.variables)
    return Base(unet, vae, {**SCHEDULER, "prediction_type": "sample"})


def drawn(*shape):
    return np.random.default_rng(0).uniform(-1, 1, shape).astype("float32")


@pytest.mark.parametrize("patch_size", [1, 4])
def test_it_is_exact_both_ways(patch_size):
    """Catches channels that are unfolded in another order, and a size that is not the base's."""
    vae, images = PixelFolding(patch_size=patch_size), drawn(2, 8, 12, 3)
    posterior = vae.encode(images)
    shape = (2, 8 // patch_size, 12 // patch_size, 3 * patch_size**2)
    assert posterior.mean.shape == shape and vae.latent_channels == shape[-1] and vae.factor == patch_size
    np.testing.assert_array_equal(vae.decode(posterior.mean), images)
    corner = np.asarray(posterior.mean)[0, 0, 0]
    np.testing.assert_array_equal(corner, images[0, :patch_size, :patch_size].reshape(-1))  # a patch is a position
    np.testing.assert_array_equal(np.asarray(pixel_base(patch_size).encode(images)), posterior.mean)


def test_a_base_of_pixels_is_saved_and_read(tmp_path):
    """Catches a folder that is read as an AutoencoderKL, by the checks before loading or by loading itself."""
    base = with_text(pixel_base(), tiny_text(tmp_path / "text", 8))
    save_stable_diffusion(base, tmp_path / "base")
    assert json.loads((tmp_path / "base" / "vae" / "config.json").read_text()) == {
        "_class_name": "PixelFolding",
        "patch_size": 2,
        "scaling_factor": 1.0,
    }
    again = codi_tf.load_stable_diffusion(tmp_path / "base")
    assert again.vae.factor == read_skeleton(tmp_path / "base").vae.factor == 2
    made = TextToImage(again).generate("a tree", steps=2, height=16, width=16)
    np.testing.assert_array_equal(made, TextToImage(base).generate("a tree", steps=2, height=16, width=16))
    assert not (tmp_path / "base" / "model_index.json").exists()  # diffusers has no such pipeline


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"patch_size": 0}, "patch_size is 0: it must be a whole number above 0"),
        ({"patch_size": 2.5}, "patch_size is 2.5"),
        ({"latent_channels": 4}, "latent_channels is 4, which is not supported"),
    ],
)
def test_a_broken_folder_is_refused_in_one_line(tmp_path, values, message):
    (tmp_path / "base").mkdir()
    save_base(pixel_base(), tmp_path / "base")
    path = tmp_path / "base" / "vae" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
    with pytest.raises(UserError, match=message) as error:
        codi_tf.load_stable_diffusion(tmp_path / "base")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("method", "task"),
    [
        (ConditionalDistillation(delta=5), "super_resolution"),
        (ConditionalDistillation(delta=5, steps=None, guidance="pixel", guidance_weight=1.0), "inpainting"),
        (Finetune(space="signal"), "super_resolution"),
    ],
)
def test_methods_train_and_generate_in_pixels(method, task):
    """Catches code that takes latents of four channels, eight times smaller, for granted."""
    model = codi_tf.CoDi(pixel_base(), method=method, task=task, image_size=16)
    model.compile(keras.optimizers.AdamW(1e-3, weight_decay=0.0))
    image = drawn(2, 16, 16, 3)
    mask = np.zeros((2, 16, 16, 1), "float32")
    mask[:, 4:9] = 1
    condition = np.concatenate([image * (1 - mask), mask], -1) if model.task.has_mask else image
    logs = model.train_step({"image": tf.constant(image), "condition": tf.constant(condition)})
    assert np.isfinite(float(logs["loss"])) and float(logs["gradient_norm"]) > 0
    made = model.generate(np.concatenate([(condition[..., :3] + 1) / 2, condition[..., 3:]], -1), steps=2)
    assert made.shape == (2, 16, 16, 3)


def test_a_base_of_pixels_is_pretrained_without_another(tmp_path):
    network = {**UNET, "block_out_channels": [8], "sample_size": 8}
    method = {"name": "pretrain", "autoencoder": {"patch_size": 2}, "network": network, "max_weight": 10.0}
    method["scheduler"] = {**SCHEDULER, "prediction_type": "sample"}
    values = {"method": method, "data": {"image_size": 16}, "train": {"steps": 1, "warmup_steps": 0}}
    trainer = build_trainer(config.from_dict(values))
    logs = trainer.train_step({"image": tf.constant(drawn(2, 16, 16, 3))})
    assert float(logs["gradient_norm"]) > 0
    (tmp_path / "result").mkdir()
    trainer.method.save(trainer.average, tmp_path / "result", dict)
    base = codi_tf.load_stable_diffusion(tmp_path / "result")
    assert (base.unet.in_channels, base.vae.factor, base.prediction_type) == (12, 2, "sample")
    with pytest.raises(UserError, match="method.autoencoder is a model's of pixels: set one of them"):
        build_trainer(config.from_dict({**values, "base": str(tmp_path / "result")}))
    with pytest.raises(UserError, match="it works on pixels and has no autoencoder"):
        build_trainer(config.from_dict({**values, "method": {"name": "autoencoder"}, "base": str(tmp_path / "result")}))
    for wrong, message in (({"autoencoder": {"patch_size": 0}}, "patch_size is 0"), ({"max_weight": 0.0}, "positive")):
        with pytest.raises(UserError, match=message):
            build_trainer(config.from_dict({**values, "method": {**method, **wrong}}))


@pytest.mark.parametrize("space", ["velocity", "noise", "signal"])
def test_the_weight_of_the_signal_is_limited(space):
    """Catches a limit on the whole error in place of its weight: at t = 0 v weighs the signal by thousands."""
    schedule, t = make_schedule("squaredcos_cap_v2"), np.array([0, 300, 900])
    x, eps = np.zeros((3, 4, 4, 1), "float32"), np.ones((3, 4, 4, 1), "float32")

    def off_by_a_tenth(z_t, t):
        return predict(x + 0.1, z_t, *coefficients(schedule, t), "sample")

    got = losses.denoising(off_by_a_tenth, schedule, x, eps, t, space=space, max_weight=10.0)
    alpha, sigma = (np.asarray(level)[t] for level in schedule)
    weight = {"velocity": 1 / sigma**2, "noise": alpha**2 / sigma**2, "signal": np.ones(3)}[space]
    np.testing.assert_allclose(got, 0.01 * np.minimum(weight, 10.0), rtol=2e-3)


@pytest.mark.parametrize(("format", "layout"), [("onnx", "whole"), ("tflite", "parts")])
def test_a_model_of_pixels_is_exported(tmp_path, format, layout):
    """Catches graphs that look for an autoencoder's weights, and folds of another order."""
    model = codi_tf.CoDi(pixel_base(), image_size=16)
    randomize(model.student.adapter.variables)
    condition = np.random.default_rng(1).random((16, 16, 3)).astype("float32")
    program = SamplerProgram(model, steps=2, height=16, width=16)
    write_package([program], tmp_path / "package", format=format, layout=layout, report=False)
    package = read_package(tmp_path / "package")
    image = load_any(package)(condition[None], gaussian_noise(3, package.latent_shape))[0]
    np.testing.assert_allclose(image, model.generate(condition, steps=2, seed=3) / 255, atol=1.01 / 255)


def test_a_bundle_of_pixels_is_read_again(tmp_path):
    model = codi_tf.CoDi(pixel_base(4), image_size=16)
    with pytest.raises(UserError, match="codi.json: no such file"):  # a base is no bundle, nor one for inpainting
        (tmp_path / "base").mkdir()
        save_base(model.base, tmp_path / "base")
        codi_tf.load(tmp_path / "base")
    randomize(model.student.adapter.variables)
    model.save(tmp_path / "bundle")
    condition = np.random.default_rng(1).random((16, 16, 3)).astype("float32")
    again = codi_tf.load(tmp_path / "bundle")
    np.testing.assert_array_equal(again.generate(condition), model.generate(condition))
    tiled = generate_tiled(again, condition, tile=16, overlap=4)
    np.testing.assert_allclose(tiled.astype(int), again.generate(condition), atol=1)


def test_a_small_decoder_does_not_fit_pixels():
    decoder = TinyDecoder(decoder_block_out_channels=[8, 8], num_decoder_blocks=[1, 1], name="decoder")
    with pytest.raises(UserError, match="take one made for this base"):
        dataclasses.replace(pixel_base(), decoder=decoder)
