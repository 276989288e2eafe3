"""Packages of distilled text-to-image models: a prompt and noise in, an image out, at one guidance."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from commands import run_here
from PIL import Image
from tiny import randomize, tiny_base, tiny_text

import codi_tf
from codi_tf.checkpoints.folder import save_base
from codi_tf.checkpoints.made_for import MadeFor
from codi_tf.checkpoints.stable_diffusion import with_text
from codi_tf.core.errors import UserError
from codi_tf.inference.text_to_image import TextToImage
from codi_tf.methods.guided import trailing_scheduler
from codi_tf.methods.networks import with_guidance
from export import __main__ as export
from export.build import make_package
from export.package.manifest import read_package
from export.runtime import run
from export.web.site import build_site

PROMPTS = ("a red house", "two trees")


@pytest.fixture(scope="module")
def distilled(tmp_path_factory):
    """The folder of a distilled base of random weights, whose guidance acts."""
    path = tmp_path_factory.mktemp("base")
    base = with_text(tiny_base(), tiny_text(path / "text", 8))
    unet = with_guidance(base.unet, "unet")
    unet.sample_size = 4
    randomize(unet.time_embedding.cond_proj.variables)
    made_for = MadeFor("ddim", 2, (1.0, 15.0))
    base = dataclasses.replace(base, unet=unet, made_for=made_for, scheduler=trailing_scheduler(base.scheduler))
    (path / "base").mkdir()
    save_base(base, path / "base")
    return path / "base"


def images_of(package, guidance, distilled, folder):
    """The package's images for two prompts, and Keras', in [0, 1]."""
    model, sampler = TextToImage(codi_tf.load_stable_diffusion(distilled)), run.load(package)
    ours = [run.from_prompt(sampler, seed=3, ids=run.token_ids(package, prompt)) for prompt in PROMPTS]
    keras = [model.generate(prompt, seed=3, guidance=guidance)[0] / 255 for prompt in PROMPTS]
    return np.stack(ours), np.stack(keras)


@pytest.mark.parametrize(
    ("format", "layout"),
    [
        ("onnx", "whole"),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in (("onnx", "parts"), ("tflite", "parts"))),
    ],
)
def test_a_package_makes_the_images_of_the_model(distilled, tmp_path, format, layout):
    """Catches the guidance of another w, another grid than text2image's, and a prompt that has no effect."""
    (figures,) = make_package(distilled, tmp_path / "out", format=format, layout=layout, guidance=4.0, report=False)
    assert figures["prompt_sensitivity"]["keras"] > 1e-4 and "condition_sensitivity" not in figures
    package = read_package(tmp_path / "out")
    assert package.prompted and package.steps == 2 and (package.height, package.width) == (16, 16)
    ours, keras = images_of(package, 4.0, distilled, tmp_path)
    np.testing.assert_allclose(ours, keras, atol=1.01 / 255)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["guidance"] == 4.0 and manifest["task"] == {"name": "text_to_image"}
    other = TextToImage(codi_tf.load_stable_diffusion(distilled)).generate(PROMPTS[0], seed=3, guidance=15.0)
    assert np.abs(other / 255 - ours[0]).max() > 2 / 255


def test_the_commands_from_a_model_to_an_image(distilled, tmp_path):
    """Both commands, the report of the gate, and a package for one prompt."""
    given = (distilled, "--format", "onnx", "--prompt", PROMPTS[0], "--out", tmp_path / "package")
    done = run_here(export.main, *given)
    assert done.returncode == 0, done.stderr
    assert "inputs from prompts alone" in done.stdout
    assert (tmp_path / "package" / "report.md").read_text().startswith("# text_to_image, 2 steps at 16x16, onnx")
    done = run_here(run.main, tmp_path / "package", "--out", tmp_path / "out.png", "--seed", "3")
    assert done.returncode == 0 and done.stdout.endswith("out.png: 16x16, in 2 steps\n"), done.stderr
    expected = TextToImage(codi_tf.load_stable_diffusion(distilled)).generate(PROMPTS[0], seed=3)[0]
    np.testing.assert_allclose(np.asarray(Image.open(tmp_path / "out.png")).astype(int), expected, atol=1)
    for option, value in (("--condition", "in.png"), ("--mask", "in.png"), ("--color", "adain")):
        with pytest.raises(UserError, match=f"{option}: .* makes images from prompts alone; leave it out"):
            run.main([str(tmp_path / "package"), "--out", str(tmp_path / "new.png"), option, value])
    with pytest.raises(UserError, match="--prompt: .* was made for the prompt 'a red house'; leave it out"):
        run.main([str(tmp_path / "package"), "--out", str(tmp_path / "new.png"), "--prompt", "x"])
    with pytest.raises(UserError, match="--size is 32x32: .* has 16x16"):
        run.main([str(tmp_path / "package"), "--out", str(tmp_path / "new.png"), "--size", "32"])
    with pytest.raises(UserError, match="makes images from prompts alone, a page from a condition; use codi run"):
        build_site(tmp_path / "package", tmp_path / "site", tmp_path)


def test_what_cannot_be_exported(distilled, tmp_path):
    def refused(folder, message, **options):
        with pytest.raises(UserError, match=message):
            make_package(folder, tmp_path / "out", format="onnx", report=False, **options)
        assert not (tmp_path / "out").exists()

    refused(distilled, "guidance is 16.0: this model was trained for 1 to 15", guidance=16.0)
    refused(distilled, "exported steps are deterministic and of first order", sampler="stochastic", steps=2)
    plain = with_text(tiny_base(), tiny_text(tmp_path / "text", 8))
    (tmp_path / "plain").mkdir()
    save_base(plain, tmp_path / "plain")
    sizes = [(16, 16)]
    refused(tmp_path / "plain", "this model needs two; distill it", sampler="ddim", steps=2, sizes=sizes)
