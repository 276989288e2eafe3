"""SDEdit with trained models: sampling starts from an image, noised, in place of noise."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from commands import run_here
from conftest import make_model
from PIL import Image
from tiny import tiny_base

from codi_tf.cli import restore
from codi_tf.core.errors import UserError
from codi_tf.core.noise import gaussian_noise
from codi_tf.diffusion.process import ddim_step
from codi_tf.inference.rendering import render
from codi_tf.io import images


@pytest.fixture(scope="module")
def model():
    return make_model(tiny_base())


def drawn(seed, *shape):
    return np.random.default_rng(seed).random(shape, "float32")


def test_it_takes_the_last_steps_from_the_noised_image(model):
    """Catches an image that is not encoded, noise of another time, and steps that are not left out."""
    condition, start, done = drawn(0, 2, 14, 16, 3), drawn(1, 14, 16, 3), []
    got = model.generate(condition, image=start, strength=0.5, steps=4, seed=3, report=done.append)
    assert done == [1, 2]
    base, multiple = model.base, model.base.multiple
    padded = np.stack([2 * images.pad_to_multiple(one, multiple)[0] - 1 for one in condition])
    first = 2 * images.pad_to_multiple(start, multiple)[0][None] - 1
    x, noise = base.encode(first), gaussian_noise(3, model.latent_shape(*padded.shape[:3]))
    alpha, sigma = (np.asarray(levels) for levels in base.schedule)
    denoise = model.denoiser(model.encode_condition(padded))
    z = alpha[499] * x + sigma[499] * noise
    z = ddim_step(denoise(z, tf.constant(499)), alpha[249], sigma[249])
    expected = np.clip(base.decode(denoise(z, tf.constant(249)).x_hat), -1, 1)[:, :14, :16]
    assert np.abs(got / 255 - (expected + 1) / 2).max() < 0.51 / 255


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image": np.zeros((8, 16, 3))}, "image is 8x16, the condition 16x16: resize it"),
        ({"image": np.zeros((3, 16, 16, 3))}, "there are 3 images for 1 conditions"),
        ({"image": np.zeros((16, 16, 3)), "strength": 0.1}, "strength 0.1 of 4 steps leaves none"),
        ({"image": np.zeros((16, 16, 3)), "strength": 2.0}, "strength is 2.0"),
        ({"image": np.zeros((16, 16, 1))}, r"image has shape \(16, 16, 1\)"),
    ],
)
def test_mistakes(model, options, message):
    with pytest.raises(UserError, match=message) as error:
        model.generate(np.zeros((16, 16, 3)), steps=4, **options)
    assert "\n" not in str(error.value)


def test_an_image_for_tiles_is_refused(model):
    with pytest.raises(UserError, match="is made in tiles, which start from noise; use tile 0"):
        render(model, drawn(0, 24, 24, 3), tile=16, image=drawn(1, 24, 24, 3))


def test_the_command_resizes_the_image_and_counts_its_steps(model, tmp_path):
    bundle, out = tmp_path / "bundle", tmp_path / "out.png"
    model.save(bundle)
    for name, size in (("condition", (16, 16)), ("start", (20, 12))):
        pixels = np.random.default_rng(len(name)).integers(0, 256, (*size, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    given = (bundle, "--condition", tmp_path / "condition.png", "--out", out, "--steps", "4")
    done = run_here(restore.main, *given, "--image", tmp_path / "start.png", "--strength", "0.5")
    assert done.returncode == 0 and "step 2/2" in done.stderr, done.stderr
    condition = images.read_image(tmp_path / "condition.png")
    start = images.resize(images.read_image(tmp_path / "start.png"), 16, 16)
    expected = model.generate(condition, image=start, strength=0.5, steps=4)
    np.testing.assert_allclose(np.asarray(Image.open(out)).astype(int), expected, atol=1)
    with pytest.raises(UserError, match="--strength: there is no --image to start from"):
        restore.main([*map(str, given), "--strength", "0.5"])
    with pytest.raises(UserError, match="--strength 0.1 of --steps 4 leaves no step"):
        restore.main([*map(str, given), "--image", str(tmp_path / "start.png"), "--strength", "0.1"])
