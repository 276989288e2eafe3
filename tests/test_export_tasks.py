"""Exports of every task: the file does to conditions and images what the task does, for the prompt it is made for."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from conftest import VAE, make_base, make_model
from tiny import randomize, tiny_text

import codi_tf
from codi_tf.checkpoints.base import make_autoencoder
from codi_tf.checkpoints.stable_diffusion import with_text
from codi_tf.core.errors import UserError
from codi_tf.core.noise import gaussian_noise
from codi_tf.io.color import LUMA
from codi_tf.models.tiny_decoder import TinyDecoder
from codi_tf.tasks import make_task
from export.build import write_package
from export.emit.program import SamplerProgram
from export.package.manifest import read_package
from export.runtime import run as runner
from export.runtime.sampler import load_any

S, STEPS = 16, 1


@pytest.fixture(scope="module")
def prompted(tmp_path_factory):
    """A model that edits, with a text encoder."""
    base = with_text(make_base(), tiny_text(tmp_path_factory.mktemp("text"), 8))
    model = make_model(base, task="editing")
    randomize([v for v in base.unet.variables if "attn2" in v.path])
    return model


def run(model, folder, format, condition, **options):
    """The artifact's image for one condition, and Keras'."""
    program = SamplerProgram(model, steps=STEPS, height=S, width=S, **options)
    write_package([program], folder, format=format, report=False)
    made = read_package(folder)
    image = load_any(made)(condition[None], gaussian_noise(3, made.latent_shape))
    return image[0], model.generate(condition, steps=STEPS, seed=3, **options) / 255


@pytest.mark.parametrize("format", ["onnx", "tflite", "saved_model"])
def test_inpainting_takes_a_mask_and_keeps_what_is_known(tmp_path, format):
    random = np.random.default_rng(0)
    mask = (random.random((S, S, 1)) > 0.5).astype(np.float32)
    condition = np.concatenate([random.random((S, S, 3)), mask], axis=-1).astype(np.float32)
    image, expected = run(make_model(make_base(), task="inpainting"), tmp_path / "package", format, condition)
    np.testing.assert_allclose(image, expected, atol=1.01 / 255)
    known = mask[..., 0] == 0
    np.testing.assert_allclose(image[known], condition[known][:, :3], atol=1e-6)
    assert np.abs(image - condition[..., :3])[~known].mean() > 0.05
    inputs = json.loads((tmp_path / "package" / "manifest.json").read_text())["inputs"]
    assert inputs["condition"]["shape"] == [1, S, S, 4] and "mask" in inputs["condition"]["layout"]


@pytest.mark.parametrize("format", ["onnx", "tflite"])
def test_an_autoencoder_may_see_patches(tmp_path, format):
    """Catches a format that orders the pixels of a patch in another way than TensorFlow."""
    base = make_base()
    vae = make_autoencoder({**VAE, "block_out_channels": [8, 16], "patch_size": 2, "scaling_factor": 1.5})
    randomize(vae.variables)
    condition = np.random.default_rng(0).random((S, S, 3)).astype(np.float32)
    image, expected = run(make_model(dataclasses.replace(base, vae=vae)), tmp_path / "package", format, condition)
    np.testing.assert_allclose(image, expected, atol=1.01 / 255)
    assert np.ptp(image) > 0.2


@pytest.mark.parametrize("format", ["onnx", "tflite"])
def test_depth_is_normalized_within_the_file(tmp_path, format):
    """The file makes of a map what `generate` makes of it: its unit does not matter."""
    near = np.random.default_rng(0).random((S, S, 1)).astype(np.float32).repeat(3, axis=-1)
    model = make_model(make_base(), task="depth")
    image, expected = run(model, tmp_path / "package", format, 0.2 + 0.5 * near)
    np.testing.assert_allclose(image, expected, atol=1.01 / 255)
    np.testing.assert_allclose(image, model.generate(near, steps=STEPS, seed=3) / 255, atol=2.01 / 255)


@pytest.mark.parametrize("format", ["onnx", pytest.param("tflite", marks=pytest.mark.slow)])
def test_gray_is_made_within_the_file(tmp_path, format):
    """Catches a package for colorization that is shown the colors of the user's image."""
    condition = np.random.default_rng(0).random((S, S, 3)).astype(np.float32)
    model = make_model(make_base(), task=make_task("pairs", gray=True))
    image, expected = run(model, tmp_path / "package", format, condition)
    np.testing.assert_allclose(image, expected, atol=1.01 / 255)
    gray = np.repeat((condition @ np.array(LUMA, np.float32))[..., None], 3, axis=-1)
    np.testing.assert_allclose(image, model.generate(gray, steps=STEPS, seed=3) / 255, atol=1.01 / 255)


def test_a_file_is_made_for_one_prompt(tmp_path, prompted):
    condition = np.random.default_rng(0).random((S, S, 3)).astype(np.float32)
    images = []
    for number, prompt in enumerate(("make it night", "invert the colors")):
        image, expected = run(prompted, tmp_path / str(number), "onnx", condition, prompt=prompt)
        np.testing.assert_allclose(image, expected, atol=1.01 / 255)
        assert json.loads((tmp_path / str(number) / "manifest.json").read_text())["prompt"] == prompt
        images.append(image)
    assert np.abs(images[0] - images[1]).max() > 2 / 255
    with pytest.raises(UserError, match="was made for the prompt 'make it night'; leave it out"):
        runner.token_ids(read_package(tmp_path / "0"), "a cat")
    with pytest.raises(UserError, match="no text encoder"):
        SamplerProgram(make_model(make_base()), steps=STEPS, height=S, width=S, prompt="a cat")


@pytest.mark.parametrize(
    "format, layout", [("onnx", "whole"), ("onnx", "parts"), ("tflite", "parts"), ("saved_model", "whole")]
)
def test_a_prompt_is_an_input_where_none_is_given(tmp_path, prompted, format, layout):
    """The package has the text encoder and its tokenizer: what a prompt does there it does in Keras."""
    condition = np.random.default_rng(0).random((S, S, 3)).astype(np.float32)
    program = SamplerProgram(prompted, steps=2, height=S, width=S)
    (figures,) = write_package([program], tmp_path / "package", format=format, layout=layout, report=False)
    assert figures["prompt_sensitivity"]["keras"] > 1e-3 and figures["cases"] == 12
    made = read_package(tmp_path / "package")
    assert made.prompted and ("text" in made.graphs) == (layout == "parts")
    images = []
    for prompt in ("make it night", "invert the colors"):
        ids = runner.token_ids(made, prompt)
        images.append(load_any(made)(condition[None], gaussian_noise(3, made.latent_shape), ids)[0])
        expected = prompted.generate(condition, steps=2, seed=3, prompt=prompt) / 255
        np.testing.assert_allclose(images[-1], expected, atol=1.01 / 255)
    assert np.abs(images[0] - images[1]).max() > 2 / 255
    with pytest.raises(UserError, match="--prompt is missing"):
        runner.token_ids(made, None)


def test_an_export_that_ignores_its_prompt_is_refused(tmp_path, prompted, monkeypatch):
    from export.emit import networks

    monkeypatch.setattr(networks, "text_encoder", lambda g, net, ids: g.constant(np.ones((77, 8), "float32")))
    with pytest.raises(UserError, match="swapped prompts move its output by 0, the model's by"):
        write_package([SamplerProgram(prompted, steps=1, height=S, width=S)], tmp_path / "out", format="onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("format, layout", [("onnx", "parts"), ("tflite", "whole"), ("saved_model", "whole")])
def test_a_small_decoder_takes_the_place_of_the_autoencoders(tmp_path, format, layout):
    """The file decodes with it, and holds it alone; the gate compares with Keras, which decodes with it too."""
    small = TinyDecoder(decoder_block_out_channels=[8, 8, 8], num_decoder_blocks=[1, 1, 1], name="decoder")
    small.build()
    randomize(small.variables)
    base = dataclasses.replace(make_base(), decoder=small)
    model = make_model(base)
    condition = np.random.default_rng(0).random((S, S, 3)).astype(np.float32)
    program = SamplerProgram(model, steps=STEPS, height=S, width=S)
    (figures,) = write_package([program], tmp_path / "package", format=format, layout=layout, report=False)
    vae = sum(v.numpy().nbytes for v in (*base.vae.decoder.variables, *base.vae.post_quant_conv.variables))
    whole = SamplerProgram(make_model(make_base()), steps=STEPS, height=S, width=S).variables_in_use()
    assert figures["weight_bytes"] == sum(v.numpy().nbytes for v in (*whole, *small.variables)) - vae
    image = load_any(read_package(tmp_path / "package"))(condition[None], gaussian_noise(3, program.latent_shape))[0]
    expected = model.generate(condition, steps=STEPS, seed=3) / 255
    assert expected.std() > 0.02
    np.testing.assert_allclose(image, expected, atol=1.01 / 255)


def test_the_autoencoders_encoder_is_stored_only_where_it_is_used():
    """A ControlNet looks at the image itself."""
    used = SamplerProgram(codi_tf.CoDi(make_base(), adapter="controlnet", image_size=S), steps=1, height=S, width=S)
    assert not [v.path for v in used.variables_in_use() if "vae/encoder" in v.path or "/quant_conv" in v.path]
