"""Stable Diffusion inpainting and InstructPix2Pix as bundles: diffusers' images, there and back, and refusals."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pytest
import tensorflow as tf
from commands import run_here
from convert_cases import load_file
from tiny_pipeline import diffusers, save_pipeline, torch

import codi_tf
from codi_tf.cli import convert, sample, text2image
from codi_tf.core.errors import UserError
from codi_tf.core.noise import gaussian_noise
from codi_tf.io.images import write_png
from codi_tf.methods.latent import load_unconditional

RANDOM = np.random.default_rng(0)
PROMPTS = ["the cat sat", "a hat!"]
PIPELINES = {9: diffusers.StableDiffusionInpaintPipeline, 8: diffusers.StableDiffusionInstructPix2PixPipeline}
NO_CHECKER = {"safety_checker": None, "requires_safety_checker": False, "feature_extractor": None}
SHAPE = (2, 8, 12, 4)  # of the latents
SLOW = pytest.param((8, "2.x"), marks=pytest.mark.slow)


@pytest.fixture(scope="module", params=[(9, "1.x"), (8, "1.x"), SLOW], ids=str)
def pipeline(request, tmp_path_factory):
    """diffusers' pipeline of random weights, in the folder `pipeline.folder`.

    The posterior of its autoencoder is a point: the inpainting pipeline draws from it, here its mean is taken.
    """
    channels, version = request.param
    folder = tmp_path_factory.mktemp("pipeline") / "checkpoint"
    made = PIPELINES[channels].from_pretrained(save_pipeline(folder, version, in_channels=channels), **NO_CHECKER)
    with torch.no_grad():
        made.vae.quant_conv.weight[4:] = 0
        made.vae.quant_conv.bias[4:] = -30
    shutil.rmtree(folder)
    made.save_pretrained(folder)
    made.scheduler = diffusers.DDIMScheduler.from_config(
        made.scheduler.config, timestep_spacing="trailing", set_alpha_to_one=True
    )
    made.set_progress_bar_config(disable=True)
    made.folder = folder
    return made


def given(channels: int) -> np.ndarray:
    """Images in [0, 1], with a mask of single pixels for a UNet of 9 channels."""
    images = RANDOM.random((2, 16, 24, channels - 5)).astype("float32")
    images[..., 3:] = images[..., 3:] > 0.5
    return images


def to_torch(array) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(np.asarray(array), -1, 1)))


def theirs(pipeline, images, noise, *, guidance: float, text_guidance: float) -> tuple[np.ndarray, np.ndarray]:
    """diffusers' (latents, images in [0, 1]) of 4 steps."""
    kept, inputs = [], {"image": to_torch(images[..., :3])}
    if images.shape[-1] == 4:
        inputs |= {"mask_image": to_torch(images[..., 3:]), "height": 16, "width": 24}
    else:
        inputs["image_guidance_scale"] = guidance

    def keep(pipeline, step, t, values):
        kept.append(values["latents"])
        return values

    options = {"num_inference_steps": 4, "guidance_scale": text_guidance, "latents": to_torch(noise)}
    made = pipeline(PROMPTS, **inputs, **options, output_type="np", callback_on_step_end=keep).images
    return np.moveaxis(kept[-1].numpy(), 1, -1), made


@pytest.mark.parametrize("text_guidance", [7.5, pytest.param(1.0, marks=pytest.mark.slow)])
def test_images_are_diffusers(pipeline, text_guidance):
    """The same noise and checkpoint: the same latents, by as many evaluations a step, and the same image."""
    channels = pipeline.unet.config.in_channels
    images, noise = given(channels), gaussian_noise(3, SHAPE)
    guidance = {9: 1.0, 8: 1.5 if text_guidance > 1 else 1.0}[channels]  # diffusers guides by both or by none
    expected, image = theirs(pipeline, images, noise, guidance=guidance, text_guidance=text_guidance)
    model = codi_tf.load(pipeline.folder)
    calls, denoise = [], model.generator.denoise
    model.generator.denoise = lambda *arguments: calls.append(1) or denoise(*arguments)
    shared = {"steps": 4, "text_guidance": text_guidance}
    if channels == 8:
        shared["guidance"] = guidance
    c = model.task.condition_from_image(tf.constant(2 * images - 1))
    got = model.generator.latents(c, tf.constant(noise), model.base.conditioning(PROMPTS), **shared)
    assert len(calls) == 4 * (1 if text_guidance == 1 else {9: 2, 8: 3}[channels])
    np.testing.assert_allclose(got, expected, rtol=0, atol=2e-4 * np.abs(expected).max())
    decoded = (model.generator.decode(got) + 1) / 2
    np.testing.assert_allclose(decoded, image, rtol=0, atol=2e-4)
    assert image.std() > 0.05
    made = model.generate(images, PROMPTS, seed=3, **shared) / 255
    known = images[..., 3:] < 0.5 if channels == 9 else np.zeros((1, 1, 1, 1), bool)
    np.testing.assert_allclose(made, np.where(known, images[..., :3], image), atol=0.51 / 255 + 2e-4)


def test_there_and_back_bit_for_bit(pipeline, tmp_path):
    """By `codi convert`: a bundle, which is that of `load`, and diffusers' folder again, whose pipeline loads."""
    channels, folder = pipeline.unet.config.in_channels, pipeline.folder
    task = {9: "inpainting", 8: "editing"}[channels]
    made = run_here(convert.main, folder, tmp_path / "bundle", "--task", task)
    assert made.returncode == 0 and f"{channels} input channels" in made.stdout, made.stderr
    ours, direct = (codi_tf.load(path) for path in (tmp_path / "bundle", folder))
    for a, b in zip(ours.network.variables, direct.network.variables, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())
    assert ours.task.name == direct.task.name == task and ours.base.unet.in_channels == 4
    assert ours.settings == direct.settings and ours.can_be_guided == (channels == 8)
    made = run_here(convert.main, tmp_path / "bundle", tmp_path / "back")
    assert made.returncode == 0, made.stderr
    for file in sorted(folder.rglob("*.safetensors")):
        before, after = (
            {key.removeprefix("text_model."): value for key, value in load_file(path).items()}
            for path in (file, tmp_path / "back" / file.relative_to(folder))
        )
        assert before.keys() == after.keys()
        for key, value in before.items():
            assert torch.equal(value, after[key]), key
    again = PIPELINES[channels].from_pretrained(tmp_path / "back", **NO_CHECKER)
    assert again.unet.config.in_channels == channels
    index = json.loads((tmp_path / "back" / "model_index.json").read_text())
    assert index["_class_name"] == PIPELINES[channels].__name__


def test_the_command_makes_an_image(pipeline, tmp_path):
    """codi restore with image and instruction guidance; the checkpoint itself is refused, with the remedy."""
    channels = pipeline.unet.config.in_channels
    codi_tf.load(pipeline.folder).save(tmp_path / "bundle")
    photo = (255 * given(channels)[0]).astype("uint8")
    write_png(tmp_path / "in.png", photo[..., :3])
    shared = ["--condition", tmp_path / "in.png", "--prompt", PROMPTS[0], "--out", tmp_path / "out.png", "--steps", 2]
    if channels == 9:
        write_png(tmp_path / "mask.png", photo[..., 3:].repeat(3, axis=-1))
        shared += ["--mask", tmp_path / "mask.png"]
    else:
        shared += ["--guidance", "1.5"]
    made = run_here(sample.main, tmp_path / "bundle", *shared, "--text-guidance", "7.5")
    assert made.returncode == 0 and (tmp_path / "out.png").is_file(), made.stderr
    made = run_here(text2image.main, pipeline.folder, "--prompt", "a", "--out", tmp_path / "no.png")
    assert made.returncode == 2 and "codi convert --task" in made.stderr and made.stderr.count("\n") == 1
    with pytest.raises(UserError, match=f"takes {channels} channels.* or from the bundle that codi convert"):
        codi_tf.CoDi(codi_tf.load_stable_diffusion(pipeline.folder), "concat", task="inpainting")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """in_channels -> a checkpoint."""
    parent = tmp_path_factory.mktemp("folders")
    return {n: save_pipeline(parent / str(n), "1.x", in_channels=n) for n in (4, 5, 8, 9)}


@pytest.mark.parametrize(
    ("channels", "task", "said"),
    [
        (9, "editing", "task editing has no mask, but a UNet of 9 input channels takes a mask: use a task with a mask"),
        (8, "inpainting", "task inpainting has a mask, but a UNet of 8 input channels takes no mask"),
        (4, "editing", "the UNet takes 4 channels: a condition beside latents of 4 channels makes them 8"),
        (5, "depth", "the UNet takes 5 channels"),
        (9, "painting", "unknown task 'painting'"),
    ],
)
def test_a_task_that_does_not_fit_is_one_line(folders, tmp_path, channels, task, said):
    made = run_here(convert.main, folders[channels], tmp_path / "bundle", "--task", task)
    assert made.returncode == 2 and said in made.stderr and made.stderr.splitlines()[-1].startswith("error: ")
    assert not list(tmp_path.iterdir())


def test_what_convert_does_not_take(folders, tmp_path):
    """--task is for checkpoints; what a bundle says itself is not said again."""
    codi_tf.load(folders[9]).save(tmp_path / "run" / "result")
    (tmp_path / "run" / "checkpoints").mkdir()
    (tmp_path / "run" / "config.yaml").touch()
    for source in ("run/result", "run"):  # catches an adapter that is lost without a word where the run is named
        for options, said in (
            (["--task", "inpainting"], "is a bundle already"),
            (["--prediction-type", "v_prediction"], "--prediction-type: .* is a bundle"),
        ):
            made = run_here(convert.main, tmp_path / source, tmp_path / "x", *options)
            assert made.returncode == 2 and made.stderr.count("\n") == 1
            assert re.search(said, made.stderr)
        with pytest.raises(UserError, match="a bundle's UNet needs its adapter"):
            load_unconditional(str(tmp_path / source))
    with pytest.raises(UserError, match="codi.json: no such file"):
        codi_tf.load(folders[4])
