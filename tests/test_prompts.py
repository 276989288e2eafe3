"""CoDi on a base with a text encoder: prompts, bundles, and a ControlNet pipeline of diffusers as the peer."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tensorflow as tf
from tiny import randomize
from tiny_pipeline import save_pipeline

import codi_tf
from codi_tf.core.errors import UserError

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

CONDITION = np.random.default_rng(0).uniform(size=(2, 16, 24, 3)).astype("float32")
PROMPTS = ["a cat", "two dogs"]


@pytest.fixture(scope="module", params=["1.x", "2.x"])
def folder(request, tmp_path_factory):
    return save_pipeline(tmp_path_factory.mktemp("pipeline") / "sd", request.param)


def make_model(folder, adapter="controlnet", train="adapter", **options):
    model = codi_tf.CoDi(codi_tf.load_stable_diffusion(folder, **options), adapter=adapter, train=train, image_size=16)
    randomize(model.student.adapter.variables)
    return model


def test_four_steps_with_a_controlnet_are_diffusers(folder, tmp_path):
    model = make_model(folder)
    model.save(tmp_path / "bundle")
    pipeline = diffusers.StableDiffusionControlNetPipeline.from_pretrained(
        folder,
        controlnet=diffusers.ControlNetModel.from_pretrained(tmp_path / "bundle" / "adapter"),
        safety_checker=None,
        requires_safety_checker=False,
        feature_extractor=None,
    )
    pipeline.scheduler = diffusers.DDIMScheduler.from_config(
        pipeline.scheduler.config, timestep_spacing="trailing", set_alpha_to_one=True
    )
    pipeline.set_progress_bar_config(disable=True)
    noise = np.random.default_rng(1).normal(size=model.latent_shape(2, 16, 24)).astype("float32")
    expected = (
        pipeline(
            PROMPTS,
            image=torch.tensor(CONDITION.transpose(0, 3, 1, 2)),
            latents=torch.tensor(noise.transpose(0, 3, 1, 2)),
            num_inference_steps=4,
            guidance_scale=1.0,
            output_type="latent",
        )
        .images.numpy()
        .transpose(0, 2, 3, 1)
    )
    prompts = model.base.conditioning(PROMPTS)
    ours = model.generator.latents(tf.constant(2 * CONDITION - 1), tf.constant(noise), prompts, steps=4)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(ours / scale, expected / scale, rtol=0, atol=2e-4)


@pytest.mark.parametrize("adapter", ["mu", "controlnet"])
def test_prompts_change_the_image_each_its_own(folder, adapter, optimized):
    model = make_model(folder, adapter)
    both = model.generate(CONDITION, PROMPTS, steps=2)
    assert (both != model.generate(CONDITION, steps=2)).any()
    first = model.generate(CONDITION, PROMPTS[0], steps=2)
    np.testing.assert_allclose(first[0].astype(int), both[0].astype(int), atol=1)  # rounding differs with the batch
    assert (first[1] != both[1]).any()
    np.testing.assert_array_equal(model.generate(CONDITION, "", steps=2), model.generate(CONDITION, steps=2))
    with pytest.raises(UserError, match="3 prompts for 2 images"):
        model.generate(CONDITION, ["a", "b", "c"])


@pytest.mark.parametrize(("train", "options"), [("all", {}), ("adapter", {}), ("adapter", {"numerics": "keras_cv"})])
def test_bundles_keep_prompts_and_what_the_base_was_read_with(folder, tmp_path, train, options):
    model = make_model(folder, "mu", train, **options)
    expected = model.generate(CONDITION, PROMPTS, steps=2)
    model.save(tmp_path / "bundle")
    reference = json.loads((tmp_path / "bundle" / "codi.json").read_text())["base"]
    assert (reference is not None) == (train == "adapter" and not options)
    loaded = codi_tf.load(tmp_path / "bundle")
    np.testing.assert_array_equal(loaded.generate(CONDITION, PROMPTS, steps=2), expected)
    assert loaded.base.unet.numerics == options.get("numerics", "diffusers")


def test_a_prediction_type_that_the_user_gave_is_kept_in_a_bundle(folder, tmp_path):
    model = make_model(folder, "mu", prediction_type="sample")
    model.save(tmp_path / "bundle")
    assert codi_tf.load(tmp_path / "bundle").base.prediction_type == "sample"


def test_a_bundle_is_loaded_in_half_precision(folder, tmp_path):
    model = make_model(folder, "controlnet")
    expected = model.generate(CONDITION, PROMPTS, steps=2).astype(int)
    model.save(tmp_path / "bundle")
    half = codi_tf.load(tmp_path / "bundle", compute="bfloat16", weights="bfloat16")
    assert {v.dtype for v in half.base.unet.variables} == {"bfloat16"}
    assert half.network.compute_dtype == "bfloat16"
    difference = np.abs(half.generate(CONDITION, PROMPTS, steps=2) - expected)
    assert difference.max() > 0 and difference.mean() < 4


def test_a_base_that_was_trained_is_not_named_by_its_folder(folder, tmp_path):
    full = codi_tf.CoDi(codi_tf.load_stable_diffusion(folder), train="all", image_size=16)
    base = full.base
    randomize(base.unet.variables)
    model = codi_tf.CoDi(base, train="adapter", image_size=16)
    model.save(tmp_path / "bundle")
    loaded = codi_tf.load(tmp_path / "bundle")
    for new, old in zip(loaded.base.unet.variables, base.unet.variables, strict=True):
        np.testing.assert_array_equal(new.numpy(), old.numpy())


def test_a_controlnet_in_another_format_than_the_base_is_refused(folder, tmp_path):
    make_model(folder).save(tmp_path / "bundle")
    base = codi_tf.load_stable_diffusion(folder, compute="bfloat16")
    adapter = codi_tf.load_controlnet(tmp_path / "bundle" / "adapter")
    with pytest.raises(UserError, match="compute='bfloat16'"):
        codi_tf.CoDi(base, adapter=adapter, train="adapter")
