"""python -m codi_tf.sample CHECKPOINT --prompt: an image of a Stable Diffusion checkpoint, or one line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from commands import run_here
from PIL import Image
from tiny_pipeline import save_pipeline

import codi_tf
from codi_tf.cli.sample import main
from codi_tf.core.errors import UserError
from codi_tf.inference.text_to_image import TextToImage
from codi_tf.io import images

ROOT = Path(codi_tf.__file__).parents[1]
PHOTO = np.random.default_rng(0).integers(0, 256, (16, 24, 3), np.uint8)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A tiny Stable Diffusion 1.x in a diffusers folder; images of 16 pixels, in multiples of 4."""
    return save_pipeline(tmp_path_factory.mktemp("checkpoint") / "sd", "1.x")


def from_prompt(checkpoint, out, *options) -> np.ndarray:
    main([str(checkpoint), "--out", str(out), *map(str, options)])
    return np.asarray(Image.open(out))


@pytest.fixture(scope="module")
def text_to_image(checkpoint):
    return TextToImage(codi_tf.load_stable_diffusion(checkpoint))


def test_prompt_as_a_program(checkpoint, text_to_image, tmp_path):
    """A prompt that is too long is reported in one line, and progress on standard error."""
    out, prompt = tmp_path / "made" / "out.png", "the cat sat " * 20
    command = [checkpoint, "--prompt", prompt, "--out", out]
    command += ["--steps", "3", "--guidance", "2", "--seed", "5", "--width", "24", "--negative-prompt", "that"]
    done = run_here(main, *command)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{out}\n"
    printed = done.stderr.splitlines()
    assert printed[0] == f"loading {checkpoint}"
    assert printed[1].startswith("warning: prompt of ") and "cut off" in printed[1]
    assert [line.split(",")[0] for line in printed[2:]] == ["step 1/3", "step 2/3", "step 3/3", "decoding"]
    assert "left" in printed[3]  # the first step, which compiles, tells nothing of the others
    with pytest.warns(UserWarning, match="cut off"):
        expected = text_to_image.generate(prompt, steps=3, guidance=2.0, seed=5, width=24, negative_prompt="that")
    np.testing.assert_allclose(np.asarray(Image.open(out)).astype(int), expected[0], atol=1)


def test_prompt_defaults_and_options(checkpoint, text_to_image, tmp_path):
    made = from_prompt(checkpoint, tmp_path / "out.png", "--prompt", "the cat")
    np.testing.assert_allclose(made.astype(int), text_to_image.generate("the cat")[0], atol=1)
    options = ("--prompt", "a hat", "--sampler", "ddim", "--steps", 2, "--guidance", 1)
    made = from_prompt(checkpoint, tmp_path / "out.png", *options)
    expected = text_to_image.generate("a hat", sampler="ddim", steps=2, guidance=1.0)[0]
    np.testing.assert_allclose(made.astype(int), expected, atol=1)


def test_prompt_with_an_image(checkpoint, text_to_image, tmp_path):
    Image.fromarray(PHOTO).save(tmp_path / "in.png")
    options = ("--prompt", "a hat", "--image", tmp_path / "in.png", "--steps", 4)
    made = from_prompt(checkpoint, tmp_path / "out.png", *options, "--strength", 0.5)
    expected = text_to_image.generate("a hat", image=PHOTO, steps=4, strength=0.5)[0]
    np.testing.assert_allclose(made.astype(int), expected, atol=1)
    made = from_prompt(checkpoint, tmp_path / "out.png", *options, "--height", 12, "--width", 12)
    smaller = images.resize(PHOTO / np.float32(255), 12, 12)
    expected = text_to_image.generate("a hat", image=smaller, steps=4, strength=0.8)[0]
    np.testing.assert_allclose(made.astype(int), expected, atol=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "--prompt is missing"),
        (["--prompt", "x", "--steps", "0"], "--steps is 0"),
        (["--prompt", "x", "--seed", "-1"], "--seed is -1"),
        (["--prompt", "x", "--guidance", "0"], "--guidance is 0.0"),
        (["--prompt", "x", "--guidance", "nan"], "--guidance is nan"),
        (["--prompt", "x", "--guidance", "1", "--negative-prompt", "y"], "--negative-prompt has no effect"),
        (["--prompt", "x", "--height", "18"], "height is 18: it must be a multiple of 4; nearest: 16 and 20"),
        (["--prompt", "x", "--width", "5000"], "--width is 5000"),
        (["--prompt", "x", "--strength", "0.5"], "--strength: there is no --image"),
        (["--prompt", "x", "--image", "in.png", "--strength", "0"], "--strength is 0: it must be a number above 0"),
        (["--prompt", "x", "--image", "in.png", "--steps", "1"], "--strength 0.8 of --steps 1 leaves no step"),
        (["--prompt", "x", "--image", "in.png", "--width", "10"], "width is 10"),
        (
            ["--prompt", "x", "--image", "odd.png"],
            "^odd.png: height is 13: .* nearest: 12 and 16; resize it, or give --height and --width$",
        ),
        (["--prompt", "x", "--sampler", "ddim", "--steps", "1000"], "num_steps is 1000; that is too many"),
        (["--prompt", "x", "--height", "4000", "--width", "2000"], "takes too much memory: the largest"),
        (["--prompt", "x", "--image", "none.png"], "no such file"),
        (["--prompt", "x", "--condition", "in.png"], "--condition: .* is no trained model"),
        (["--prompt", "x", "--upscale", "2"], "--upscale: .* is no trained model"),
        (["--prompt", "x", "--sampler", "euler"], "--sampler is euler: choose from "),
        (["--prompt", "x", "--prediction-type", "x"], "prediction_type is 'x'"),
        (["--prompt", "x", "--tokenizer", "none"], "none"),
    ],
)
def test_prompt_mistakes(checkpoint, tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(PHOTO).save("in.png")
    Image.fromarray(PHOTO[:13]).save("odd.png")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=message) as caught:
        main([str(checkpoint), "--out", "made/out.png", *options])
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.fixture
def without_weights(checkpoint, tmp_path):
    """The checkpoint's folder, of which only the JSON files are there."""
    return shutil.copytree(checkpoint, tmp_path / "sd", ignore=shutil.ignore_patterns("*.safetensors"))


def change(path, **keys):
    path.write_text(json.dumps({**json.loads(path.read_text()), **keys}))


@pytest.mark.parametrize(
    ("options", "file", "keys", "message"),
    [
        (["--height", "18"], None, {}, "height is 18: it must be a multiple of 4"),
        (["--sampler", "ddim", "--steps", "1000"], None, {}, "that is too many"),
        ([], "unet/config.json", {"in_channels": 9}, "takes 9 channels, a latent has 4: make a bundle of it"),
        ([], "unet/config.json", {"cross_attention_dim": 8}, "do not belong together"),
        ([], "unet/config.json", {"norm_num_groups": 0}, "norm_num_groups is 0"),
        ([], "unet/config.json", {"block_out_channels": 8}, "unet/config.json: not a configuration of UNet"),
        (
            [],
            "scheduler/scheduler_config.json",
            {"use_karras_sigmas": True},
            "sd: its scheduler_config.json: use_karras_sigmas is True.*; use --sampler ddim$",
        ),
        ([], "scheduler/scheduler_config.json", {"beta_schedule": "x"}, "scheduler_config.json: .*'x'"),
    ],
)
def test_what_json_tells_is_refused_before_weights_are_read(without_weights, tmp_path, options, file, keys, message):
    """There are none."""
    if file is not None:
        change(without_weights / file, **keys)
    with pytest.raises(UserError, match=message) as caught:
        from_prompt(without_weights, tmp_path / "out.png", "--prompt", "x", *options)
    assert "\n" not in str(caught.value)


def test_a_folder_that_json_tells_to_be_right_is_read(without_weights, tmp_path):
    change(without_weights / "scheduler/scheduler_config.json", use_karras_sigmas=True)
    with pytest.raises(UserError, match="no such weight file"):
        from_prompt(without_weights, tmp_path / "out.png", "--prompt", "x", "--sampler", "ddim")


def test_a_base_without_a_text_encoder_takes_no_prompt(base_folder, tmp_path):
    with pytest.raises(UserError, match="has no text encoder: it makes no images from prompts"):
        from_prompt(base_folder, tmp_path / "out.png", "--prompt", "x")


def test_a_checkpoint_has_no_sampler_of_bundles(base_folder, tmp_path):
    with pytest.raises(UserError, match="--sampler is consistency: a checkpoint has ddim, ddpm, dpm, dpm"):
        from_prompt(base_folder, tmp_path / "out.png", "--prompt", "x", "--sampler", "consistency")
