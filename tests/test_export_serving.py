"""SavedModels as servers run them: the signature with several images at a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from conftest import make_base, make_model
from export_cases import SIZES, STEPS, exported
from tiny import randomize, tiny_base, tiny_text

import codi_tf
from codi_tf.checkpoints.stable_diffusion import with_text
from codi_tf.core.noise import gaussian_noise
from export.emit.program import SamplerProgram
from export.package.manifest import read_package
from export.runtime.sampler import load_any

S, COUNT = 16, 3
PROMPTS = ("make it night", "invert the colors", "a cat")
RANDOM = np.random.default_rng(0)


def noises(shape: tuple[int, ...]) -> np.ndarray:
    return np.concatenate([gaussian_noise(i, shape) for i in range(COUNT)])


def test_a_signature_takes_several_images_and_none_depends_on_another(bundle):
    """Catches a signature that refuses a batch, and images that are mixed up or share a noise or a condition."""
    package = read_package(exported(bundle, "saved_model"))
    condition, noise = RANDOM.random((COUNT, *SIZES["saved_model"], 3), "float32"), noises(package.latent_shape)
    loaded = tf.saved_model.load(str(package.graphs["sampler"].path))
    images = loaded.signatures["serving_default"](condition=condition, noise=noise)["image"].numpy()
    one_by_one, sampler = [], load_any(package)
    for i in range(COUNT):
        one_by_one.append(sampler(condition[i : i + 1], noise[i : i + 1])[0])
    assert images.shape == condition.shape and images.std(axis=0).mean() > 0.01
    np.testing.assert_allclose(images, one_by_one, rtol=0, atol=1e-5)


def editing(folder: Path) -> codi_tf.CoDi:
    """A model that edits by prompts; a step of both guidances has three evaluations."""
    base = with_text(tiny_base(), tiny_text(folder, 8))
    dropping = codi_tf.Finetune(drop_condition=0.1, drop_prompt=0.1)
    return codi_tf.CoDi(base, "concat", task="editing", method=dropping, image_size=S)


def depth(folder: Path) -> codi_tf.CoDi:
    """A model whose conditions are normalized image by image."""
    return make_model(make_base(), task="depth")


def with_controlnet(folder: Path) -> codi_tf.CoDi:
    return codi_tf.CoDi(tiny_base(), "controlnet", task="inpainting", image_size=S)


def with_t2i(folder: Path) -> codi_tf.CoDi:
    return codi_tf.CoDi(tiny_base(), "t2i", image_size=S)


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (editing, {}),
        pytest.param(editing, {"guidance": 1.6, "text_guidance": 3.0}, marks=pytest.mark.slow),
        pytest.param(depth, {}, marks=pytest.mark.slow),
        pytest.param(with_controlnet, {}, marks=pytest.mark.slow),
        pytest.param(with_t2i, {}, marks=pytest.mark.slow),
    ],
)
def test_every_kind_of_program_takes_several_images(tmp_path, make, options):
    """Catches a shape, a normalization, a prompt or a guided evaluation that is made for one image."""
    model = make(tmp_path)
    if make is not depth:
        randomize(model.student.adapter.variables)
    program = SamplerProgram(model, steps=STEPS, height=S, width=S, **options)
    condition = RANDOM.random((COUNT, S, S, model.task.condition_channels), "float32")
    inputs = {"condition": condition, "noise": noises(program.latent_shape)}
    if program.context is None:
        inputs["ids"] = np.stack(model.base.tokenizer(list(PROMPTS)))
    several = program.trace(batched=True)(*map(tf.constant, inputs.values()))["image"].numpy()
    for i in range(COUNT):
        one = {name: value[i] if name == "ids" else value[i : i + 1] for name, value in inputs.items()}
        np.testing.assert_allclose(several[i], program.image(*map(tf.constant, one.values()))[0], rtol=0, atol=1e-4)
    assert several.std(axis=0).mean() > 0.01
