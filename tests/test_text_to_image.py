"""Text-to-image: the same latents and images as diffusers' pipelines, from the same checkpoint and noise."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from tiny_pipeline import diffusers, save_pipeline, torch

import codi_tf
from codi_tf.checkpoints.base import Base, make_unet
from codi_tf.core.errors import UserError
from codi_tf.core.noise import gaussian_noise
from codi_tf.diffusion.grid import sdedit_grid, sdedit_start
from codi_tf.inference import rendering
from codi_tf.inference.text_to_image import TextToImage

PROMPTS = ["the cat sat", "a hat!"]
NEGATIVE = "that mat"
SOLVERS = {
    "ddim": (diffusers.DDIMScheduler, {}),
    "dpm": (diffusers.DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"}),
    "dpm++": (diffusers.DPMSolverMultistepScheduler, {}),
}
pytestmark = pytest.mark.filterwarnings("ignore:`algorithm_types dpmsolver")


@pytest.fixture(scope="module", params=["1.x", "2.x"])
def pair(request, tmp_path_factory):
    """(diffusers' pipeline, ours of the same checkpoint)."""
    folder = save_pipeline(tmp_path_factory.mktemp("pipeline") / "checkpoint", request.param)
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(folder, safety_checker=None, feature_extractor=None)
    return pipeline, TextToImage(codi_tf.load_stable_diffusion(folder))


def with_solver(pipeline, sampler: str, kind=diffusers.StableDiffusionPipeline):
    scheduler, options = SOLVERS[sampler]
    parts = {**pipeline.components, "scheduler": scheduler.from_config(pipeline.scheduler.config, **options)}
    other = kind(**parts)
    other.set_progress_bar_config(disable=True)
    return other


def to_torch(array) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(np.asarray(array), -1, 1)))


def to_numpy(tensor: torch.Tensor) -> np.ndarray:
    return np.moveaxis(tensor.numpy(), 1, -1)


def assert_close(got, expected, tolerance: float = 2e-4):
    np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance * np.abs(expected).max())


@pytest.mark.parametrize("guidance", [7.5, 1.0])
@pytest.mark.parametrize("sampler", SOLVERS)
def test_latents_are_diffusers(pair, sampler, guidance):
    """Four steps, rectangular, two prompts and a negative one."""
    pipeline, ours = pair
    noise = gaussian_noise(3, (2, 8, 12, 4))
    negative = NEGATIVE if guidance > 1 else ""
    expected = with_solver(pipeline, sampler)(
        PROMPTS,
        negative_prompt=[negative] * 2,
        height=16,
        width=24,
        num_inference_steps=4,
        guidance_scale=guidance,
        latents=to_torch(noise),
        output_type="latent",
    ).images
    prompts = ours.conditioning(PROMPTS, negative_prompt=negative, guidance=guidance)
    got = ours.latents(tf.constant(noise), prompts, ours.grid(sampler, 4), guidance=guidance)
    assert_close(got, to_numpy(expected))


@pytest.mark.parametrize("sampler, scheduler", [("ddpm", diffusers.DDPMScheduler), ("lcm", diffusers.LCMScheduler)])
def test_latents_of_samplers_that_draw_are_diffusers(pair, sampler, scheduler):
    """With the noise that diffusers draws, and guidance. Catches noise that is not handed on, and other times."""
    pipeline, ours = pair
    noise, config = gaussian_noise(3, (1, 8, 8, 4)), pipeline.scheduler.config
    parts = {**pipeline.components, "scheduler": scheduler.from_config(config)}
    expected = diffusers.StableDiffusionPipeline(**parts)(
        PROMPTS[:1],
        num_inference_steps=4,
        guidance_scale=7.5,
        latents=to_torch(noise),
        generator=torch.manual_seed(0),
        output_type="latent",
    ).images
    generator = torch.manual_seed(0)
    fresh = [to_numpy(torch.randn((1, 4, 8, 8), generator=generator)) for _ in range(3)]
    prompts = ours.conditioning(PROMPTS[:1], guidance=7.5)
    got = ours.latents(tf.constant(noise), prompts, ours.grid(sampler, 4), guidance=7.5, noise=fresh)
    assert_close(got, to_numpy(expected))
    images = [ours.generate(PROMPTS[0], sampler=sampler, steps=3, seed=seed) for seed in (1, 1, 2)]
    assert np.array_equal(images[0], images[1]) and not np.array_equal(images[0], images[2])


@pytest.mark.parametrize("sampler", SOLVERS)
def test_image_to_image_latents_are_diffusers(pair, sampler):
    """From given latents of an image, with the noise that diffusers draws."""
    pipeline, ours = pair
    x = gaussian_noise(5, (2, 8, 12, 4))
    noise = to_numpy(torch.randn((2, 4, 8, 12), generator=torch.manual_seed(0)))
    expected = with_solver(pipeline, sampler, diffusers.StableDiffusionImg2ImgPipeline)(
        PROMPTS,
        image=to_torch(x),
        strength=0.6,
        num_inference_steps=8,
        guidance_scale=7.5,
        generator=torch.manual_seed(0),
        output_type="latent",
    ).images
    grid = sdedit_grid(ours.grid(sampler, 8), 0.6)
    assert len(grid.steps) == 4
    z = sdedit_start(tf.constant(x), tf.constant(noise), grid)
    got = ours.latents(z, ours.conditioning(PROMPTS, guidance=7.5), grid, guidance=7.5)
    assert_close(got, to_numpy(expected))


@pytest.fixture(scope="module")
def distilled_pair(tmp_path_factory):
    """(diffusers' pipeline, ours) of a checkpoint whose UNet takes the guidance as an input."""
    folder = save_pipeline(tmp_path_factory.mktemp("distilled") / "checkpoint", "2.x", time_cond_proj_dim=16)
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(folder, safety_checker=None, feature_extractor=None)
    return pipeline, TextToImage(codi_tf.load_stable_diffusion(folder))


@pytest.mark.parametrize("strength", [None, 0.5])
def test_guidance_as_an_input_is_diffusers(distilled_pair, strength):
    """From noise, and from an image (SDEdit). Catches a doubled batch, and features of another w."""
    pipeline, ours = distilled_pair
    noise, x = to_numpy(torch.randn((2, 4, 8, 8), generator=torch.manual_seed(0))), gaussian_noise(5, (2, 8, 8, 4))
    kind, grid, z = diffusers.StableDiffusionPipeline, ours.grid("ddim", 4), noise
    source = {"latents": to_torch(noise), "height": 16, "width": 16}
    if strength is not None:
        kind, grid = diffusers.StableDiffusionImg2ImgPipeline, sdedit_grid(grid, strength)
        source, z = {"image": to_torch(x), "strength": strength}, sdedit_start(tf.constant(x), tf.constant(noise), grid)
    expected = with_solver(pipeline, "ddim", kind)(
        PROMPTS,
        num_inference_steps=4,
        guidance_scale=5.0,
        generator=torch.manual_seed(0),
        output_type="latent",
        **source,
    ).images
    prompts = ours.conditioning(PROMPTS, guidance=5.0)
    assert prompts.batch_size == 2
    assert_close(ours.latents(tf.constant(z), prompts, grid, guidance=5.0), to_numpy(expected))


def test_images_are_diffusers(pair):
    """The whole way from prompts and seed to pixels: at most one level beside, where a value lies between two."""
    pipeline, ours = pair
    noise = gaussian_noise(7, (2, 8, 8, 4))
    expected = with_solver(pipeline, "dpm++")(
        PROMPTS, num_inference_steps=4, guidance_scale=7.5, latents=to_torch(noise), output_type="np"
    ).images
    got = ours.generate(PROMPTS, steps=4, seed=7)
    assert got.shape == (2, 16, 16, 3) and got.dtype == np.uint8
    assert np.abs(got / 255 - expected).max() < 0.5 / 255 + 4e-4
    assert got.std() > 20  # not one gray


def test_image_to_image_encodes_the_mean(pair):
    """generate(image=...) is: the posterior's mean, scaled, noised, and the rest of the steps."""
    pipeline, ours = pair
    photo = np.random.default_rng(0).random((12, 20, 3), "float32")
    with torch.no_grad():
        encoded = pipeline.vae.encode(to_torch(2 * photo[None] - 1)).latent_dist.mean * 0.5
    expected = with_solver(pipeline, "ddim", diffusers.StableDiffusionImg2ImgPipeline)
    noise = gaussian_noise(0, (1, 6, 10, 4))
    # diffusers has no argument for the noise, but adds it linearly: from latents x' with its own noise replaced.
    scheduler = expected.scheduler
    scheduler.set_timesteps(4)
    start = scheduler.add_noise(encoded, to_torch(noise), scheduler.timesteps[1:2])
    prompts = ours.conditioning(PROMPTS[:1], guidance=2.0)
    grid = sdedit_grid(ours.grid("ddim", 4), 0.75)
    latents = ours.latents(tf.constant(to_numpy(start)), prompts, grid, guidance=2.0)
    with torch.no_grad():
        pixels = to_numpy(pipeline.vae.decode(to_torch(latents) / 0.5).sample).clip(-1, 1)
    got = ours.generate(PROMPTS[0], sampler="ddim", steps=4, guidance=2.0, image=photo, strength=0.75)
    assert np.abs(got / 255 - (pixels + 1) / 2).max() < 0.5 / 255 + 4e-4
    as_bytes = np.rint(photo * 255).astype(np.uint8)
    once = ours.generate(PROMPTS, sampler="ddim", steps=4, guidance=2.0, image=as_bytes, strength=0.75)
    both = ours.generate(PROMPTS, sampler="ddim", steps=4, guidance=2.0, image=np.stack([as_bytes] * 2), strength=0.75)
    np.testing.assert_array_equal(once, both)


def test_a_step_is_one_evaluation_and_is_reported(pair, monkeypatch):
    _, ours = pair
    calls, done = [], []
    denoise, guided = ours.denoise, ours.denoise_guided
    monkeypatch.setattr(ours, "denoise", lambda *args: calls.append(args[2].batch_size) or denoise(*args))
    monkeypatch.setattr(ours, "denoise_guided", lambda *args: calls.append(args[2].batch_size) or guided(*args))
    for options, expected in (
        ({"guidance": 1.0, "steps": 3}, [2] * 3),
        ({"guidance": 1.5, "steps": 3}, [4] * 3),
        ({"steps": 4, "image": np.zeros((16, 16, 3)), "strength": 0.5}, [4] * 2),
    ):
        calls.clear(), done.clear()
        ours.generate(PROMPTS, report=done.append, **options)
        assert calls == expected and done == list(range(1, len(expected) + 1))


def test_nothing_is_compiled_again_for_other_numbers(pair):
    """Other steps, samplers, guidance, prompts and seeds run the graphs that are there."""
    _, ours = pair
    ours.generate(PROMPTS[0], steps=2)
    traces = [f.experimental_get_tracing_count() for f in (ours.denoise_guided.alone, ours.decode.alone)]
    ours.generate(PROMPTS[1], steps=5, sampler="ddim", guidance=3.0, seed=9, negative_prompt=NEGATIVE)
    assert [f.experimental_get_tracing_count() for f in (ours.denoise_guided.alone, ours.decode.alone)] == traces


def test_what_prompts_seeds_and_guidance_do(pair):
    _, ours = pair
    first = ours.generate(PROMPTS[0], steps=2)
    np.testing.assert_array_equal(first, ours.generate(PROMPTS[0], steps=2))
    for other in ({"seed": 1}, {"guidance": 2.0}, {"negative_prompt": NEGATIVE}, {"sampler": "ddim"}, {"steps": 3}):
        assert np.any(first != ours.generate(PROMPTS[0], **{"steps": 2, **other})), other
    assert np.any(first != ours.generate(PROMPTS[1], steps=2))
    wide = ours.generate(PROMPTS[0], steps=1, height=12, width=20)
    assert wide.shape == (1, 12, 20, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"steps": 2.5}, "steps is 2.5"),
        ({"steps": 1001}, "steps is 1001"),
        ({"sampler": "euler"}, "unknown sampler 'euler'"),
        ({"guidance": 0.5}, "guidance is 0.5"),
        ({"guidance": float("inf")}, "guidance is inf"),
        ({"guidance": 1.0, "negative_prompt": "x"}, "no effect with guidance 1"),
        ({"seed": -1}, "seed is -1"),
        ({"height": 18}, "height is 18: it must be a multiple of 4; nearest: 16 and 20"),
        ({"width": 3}, "width is 3: it must be a multiple of 4; nearest: 4"),
        ({"width": 0}, "width is 0"),
        ({"height": 16.0}, "height is 16.0: it must be a whole number"),
        (
            {"height": 4000, "width": 2000},
            "takes too much memory: the largest of this shape is height [0-9]+, width [0-9]+$",
        ),
        ({"guidance": "7.5"}, "guidance is '7.5'"),
        ({"negative_prompt": None}, "a prompt is None: it must be text"),
        ({"negative_prompt": ["x"]}, r"a prompt is \['x'\]: it must be text"),
        ({"prompts": [None]}, "a prompt is None"),
        ({"prompts": 3}, "a prompt is 3"),
        ({"image": np.zeros((16, 16, 3)), "strength": None}, "strength is None"),
        ({"image": np.zeros((13, 16, 3))}, "^image: height is 13: .*; resize it$"),
        ({"prompts": []}, "list of prompts is empty"),
        ({"image": np.zeros((16, 18, 3))}, "width is 18"),
        ({"image": np.zeros((16, 16))}, r"image has shape \(16, 16\)"),
        ({"image": np.full((16, 16, 3), 1.5)}, r"image lies in \[1.5, 1.5\]"),
        ({"image": np.zeros((16, 16, 3), int)}, "image is of type int64"),
        ({"image": np.zeros((3, 16, 16, 3))}, "3 images for 1 prompts"),
        ({"image": np.zeros((16, 16, 3)), "height": 16}, "its own height and width"),
        ({"image": np.zeros((16, 16, 3)), "strength": 0.01}, "leaves none"),
        ({"image": np.zeros((16, 16, 3)), "strength": 2.0}, "strength is 2.0"),
    ],
)
def test_mistakes(pair, options, message):
    with pytest.raises(UserError, match=message) as caught:
        pair[1].generate(**{"prompts": "the cat", **options})
    assert "\n" not in str(caught.value)


def test_the_largest_size_that_is_named_is_one(pair, monkeypatch):
    ours = pair[1]
    monkeypatch.setattr(rendering, "MAX_PIXELS", 6400)
    with pytest.raises(UserError, match="largest of this shape is height 48, width 100$"):
        ours.size(200, 400)
    assert ours.size(48, 100) == (48, 100)


def test_whole_numbers_of_numpy_are_numbers(pair):
    ours = pair[1]
    got = ours.generate("the cat", steps=np.int64(2), height=np.int32(16), guidance=np.float32(2.0))
    np.testing.assert_array_equal(got, ours.generate("the cat", steps=2, height=16, guidance=2.0))


@pytest.mark.parametrize("part", ["unet", "vae"])
def test_a_result_that_is_not_finite(pair, monkeypatch, part):
    """NaN latents are not decoded; an image of NaN is refused, too."""
    ours = TextToImage(pair[1].base)
    broken = ours.base.unet.conv_out if part == "unet" else ours.base.vae.decoder.conv_out
    decoded, decode = [], ours.decode
    monkeypatch.setattr(ours, "decode", lambda z: decoded.append(z) or decode(z))
    kept = broken.kernel.numpy()
    broken.kernel.assign(np.full_like(kept, np.nan))
    try:
        with pytest.raises(UserError, match="the result is not finite: compute in float32 or bfloat16"):
            ours.generate("the cat", steps=1)
    finally:
        broken.kernel.assign(kept)
    assert len(decoded) == (part == "vae")


def test_refuses_other_models(pair, base):
    _, ours = pair
    with pytest.raises(UserError, match="has no text encoder"):
        TextToImage(base)
    with pytest.raises(UserError, match="has no UNet"):
        TextToImage(Base(None, base.vae, base.scheduler))
    own = {key: value for key, value in ours.base.unet.get_config().items() if key != "name"}
    for channels in (8, 9):
        config = {**own, "in_channels": channels}
        with pytest.raises(UserError, match=f"takes {channels} channels, a latent has 4"):
            TextToImage(dataclasses.replace(ours.base, unet=make_unet(config)))
    unsized = TextToImage(dataclasses.replace(ours.base, unet=make_unet({**own, "sample_size": None})))
    with pytest.raises(UserError, match="does not say which size it was trained for: give width"):
        unsized.generate("the cat", height=16)
    untold = TextToImage(dataclasses.replace(ours.base, tokenizer=None))
    with pytest.raises(UserError, match="has no tokenizer"):
        untold.generate("the cat")
