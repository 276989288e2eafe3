"""The sampler of latent consistency models: diffusers' LCMScheduler, step by step, and with an LCM-LoRA its images."""

from __future__ import annotations

import json

import numpy as np
import pytest
from gaussian_data import gaussian_denoiser
from lora_cases import ALL, random_pairs, write_lora
from PIL import Image
from tiny_pipeline import SCHEDULER, diffusers, save_pipeline, torch

import codi_tf
from codi_tf.cli import text2image
from codi_tf.core.errors import UserError
from codi_tf.core.noise import gaussian_noise
from codi_tf.diffusion.process import make_schedule
from codi_tf.diffusion.sampling import make_checkpoint_grid, make_grid, trajectory
from codi_tf.diffusion.scheduler_config import make_schedule_of

SCHEDULE = make_schedule("scaled_linear")


@pytest.mark.parametrize("steps", [1, 3, 4, 8, 50])
@pytest.mark.parametrize("changes", [{}, {"original_inference_steps": 60, "timestep_scaling": 0.01}])
def test_every_step_is_diffusers(steps, changes, monkeypatch):
    """Catches other times, scalings that are left out (which 10 t hides), and noise after the last step."""
    config = {**SCHEDULER, **changes, "prediction_type": "epsilon"}
    peer = diffusers.LCMScheduler.from_config(config)
    peer.set_timesteps(steps)
    draws = [gaussian_noise(7, (2, 3, 4, 4), stream=i + 1) for i in range(steps)]
    told = iter(draws)
    monkeypatch.setattr(
        "diffusers.schedulers.scheduling_lcm.randn_tensor", lambda *_, **__: torch.from_numpy(next(told).copy())
    )
    grid = make_checkpoint_grid("lcm", config, make_schedule_of(config), steps)
    assert [step.t for step in grid.steps] == peer.timesteps.tolist() and grid.draws == steps - 1
    z = gaussian_noise(7, (2, 3, 4, 4))
    theirs = torch.from_numpy(z.copy())
    for t, (prediction, z_s) in zip(peer.timesteps, trajectory(gaussian_denoiser(), z, grid, draws), strict=True):
        theirs = peer.step(torch.from_numpy(np.array(prediction.eps_hat)), t, theirs, return_dict=False)[0]
        np.testing.assert_allclose(z_s, theirs.numpy(), rtol=0, atol=2e-5)


def test_a_conditional_model_has_the_times_of_an_lcm_lora():
    peer = diffusers.LCMScheduler.from_config(SCHEDULER)
    peer.set_timesteps(4)
    grid = make_grid("lcm", SCHEDULE, 4)
    assert [step.t for step in grid.steps] == peer.timesteps.tolist() == [999, 759, 499, 259]
    assert grid == make_checkpoint_grid("lcm", SCHEDULER, SCHEDULE, 4)
    few = make_schedule("linear", 20)
    assert [step.t for step in make_grid("lcm", few, 2).steps] == [19, 9]


@pytest.mark.parametrize(
    ("config", "steps", "message"),
    [
        ({}, 51, "num_steps is 51; of sampler lcm it must be a whole number from 1 to 50"),
        ({"original_inference_steps": 8}, 9, "from 1 to 8"),
        ({"original_inference_steps": 1001}, 4, "original_inference_steps is 1001: it must be from 1 to 1000"),
        ({"original_inference_steps": "50"}, 4, "original_inference_steps is '50'"),
        ({"timestep_scaling": 0}, 4, "timestep_scaling is 0: it must be a positive number"),
    ],
)
def test_mistakes(config, steps, message):
    with pytest.raises(UserError, match=message):
        make_checkpoint_grid("lcm", config, SCHEDULE, steps)


@pytest.mark.slow  # the quick tier compares the sampler's latents, and merged LoRAs, with diffusers' apart
@pytest.mark.usefixtures("eager")
def test_an_lcm_lora_gives_diffusers_image(tmp_path, monkeypatch):
    """The whole way, from the file of a LoRA in kohya's spelling to pixels. Catches an option that is lost."""
    pytest.importorskip("peft")
    folder = save_pipeline(tmp_path / "base", "1.x")
    pairs = random_pairs(codi_tf.load_stable_diffusion(folder).unet, ALL)
    file = write_lora(tmp_path / "lcm.safetensors", pairs, alpha=1.0)
    noise = [gaussian_noise(5, (1, 8, 8, 4), stream=i) for i in range(4)]
    start, *told = (torch.from_numpy(draw.transpose(0, 3, 1, 2).copy()) for draw in noise)
    told = iter(told)
    monkeypatch.setattr("diffusers.schedulers.scheduling_lcm.randn_tensor", lambda *_, **__: next(told))
    peer = diffusers.StableDiffusionPipeline.from_pretrained(folder, safety_checker=None, feature_extractor=None)
    peer = type(peer)(**{**peer.components, "scheduler": diffusers.LCMScheduler.from_config(peer.scheduler.config)})
    peer.load_lora_weights(str(file))
    peer.set_progress_bar_config(disable=True)
    options = {"num_inference_steps": 4, "guidance_scale": 1.0, "output_type": "np"}
    wanted = 255 * peer("the cat sat", latents=start, **options).images[0]
    assert next(told, None) is None and json.loads((folder / "scheduler/scheduler_config.json").read_text())

    def made(*options):
        how = ["--prompt", "the cat sat", "--seed", "5", "--steps", "4", "--guidance", "1", *options]
        text2image.main([str(folder), *how, "--out", str(tmp_path / "out.png")])
        return np.asarray(Image.open(tmp_path / "out.png")).astype(float)

    lora = ["--lora", str(file)]
    assert np.abs(made("--sampler", "lcm", *lora) - wanted).max() < 0.7
    for others in (["--sampler", "lcm"], ["--sampler", "ddim", *lora]):
        assert np.abs(made(*others) - wanted).max() > 8
