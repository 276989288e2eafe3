"""RePaint: its moves and its latents are diffusers'; on Gaussian data it fills in what the known part implies."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from commands import run_here
from tiny import tiny_base, tiny_text

from codi_tf.checkpoints.folder import save_base
from codi_tf.checkpoints.stable_diffusion import with_text
from codi_tf.cli import repaint as command
from codi_tf.core.errors import UserError
from codi_tf.diffusion import process as diffusion
from codi_tf.diffusion.grid import Step
from codi_tf.diffusion.repaint import Rise, end_level, repaint, repaint_plan
from codi_tf.diffusion.sampling import make_grid
from codi_tf.inference.base_model import BaseModel
from codi_tf.inference.repaint import fill, unknown_latents
from codi_tf.inference.text_to_image import TextToImage
from codi_tf.io.images import read_image, write_png

SHORT = diffusion.make_schedule("scaled_linear", 20, 0.02, 0.4)


def steps_left(plan) -> list[int]:
    """After every move, the number of steps that are left to the data."""
    left, path = sum(isinstance(m, Step) for m in plan.moves) - sum(isinstance(m, Rise) for m in plan.moves), []
    for move in plan.moves:
        left += 1 if isinstance(move, Rise) else -1
        path.append(left)
    return path


@pytest.mark.parametrize(("num_steps", "jump", "resamplings"), [(250, 10, 10), (20, 3, 4), (5, 4, 2), (7, 10, 1)])
def test_moves_are_diffusers(num_steps, jump, resamplings):
    """Catches jumps at other places, of another length, or one too many."""
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.RePaintScheduler(num_train_timesteps=1000)
    scheduler.set_timesteps(num_steps, jump, resamplings)
    grid = make_grid("ddpm", diffusion.make_schedule("linear"), num_steps)
    plan = repaint_plan(grid, jump_length=jump, resamplings=resamplings)
    assert steps_left(plan) == (scheduler.timesteps // (1000 // num_steps)).tolist()
    jumps = 0 if resamplings == 1 else len(range(0, num_steps - jump, jump)) * (resamplings - 1)
    assert plan.evaluations == num_steps + jumps * jump


@pytest.mark.parametrize(("sampler", "eta"), [("ddpm", 1.0), ("ddim", 0.0)])
def test_latents_are_diffusers(monkeypatch, sampler, eta):
    """The whole loop of RePaintScheduler with all 20 times, from the same noise and the same network.

    With fewer times, diffusers' undo_step takes betas of other times than the step that it undoes.
    """
    torch, diffusers = pytest.importorskip("torch"), pytest.importorskip("diffusers")
    from diffusers.schedulers import scheduling_repaint

    random = np.random.default_rng(0)
    plan = repaint_plan(make_grid(sampler, SHORT, 20), jump_length=3, resamplings=3)
    z, x = random.normal(size=(2, 1, 3, 4, 5)).astype(np.float32)
    unknown = random.integers(0, 2, (1, 3, 4, 1)).astype(np.float32)
    eps = random.normal(size=(len(plan.moves), *z.shape)).astype(np.float32)

    def denoise(z_t, t):
        output = np.tanh(np.asarray(z_t)) * (0.5 + np.float32(t) / 40)
        return diffusion.predict(output, z_t, *diffusion.coefficients(SHORT, t), "epsilon")

    drawn = iter(eps)
    monkeypatch.setattr(scheduling_repaint, "randn_tensor", lambda *a, **k: torch.from_numpy(next(drawn)))
    options = {"num_train_timesteps": 20, "beta_start": 0.02, "beta_end": 0.4, "beta_schedule": "scaled_linear"}
    scheduler = diffusers.RePaintScheduler(**options, eta=eta, clip_sample=False)
    scheduler.set_timesteps(20, 3, 3)
    expected, last = torch.from_numpy(z), 20
    for t in scheduler.timesteps.tolist():
        if t < last:
            output = torch.from_numpy(denoise(expected.numpy(), t).eps_hat.numpy())
            image, mask = torch.from_numpy(x), torch.from_numpy(1 - unknown)
            expected = scheduler.step(output, t, expected, image, mask).prev_sample
        else:
            expected = scheduler.undo_step(expected, last)
        last = t
    taken = [isinstance(move, Rise) or end_level(move) > 0 for move in plan.moves]  # diffusers always draws
    assert sum(taken) == plan.draws < len(taken)
    *_, got = repaint(denoise, tf.constant(z), plan, tf.constant(x), tf.constant(unknown), eps[taken])
    np.testing.assert_allclose(got, expected.numpy(), rtol=0, atol=2e-5)
    np.testing.assert_array_equal(got * (1 - unknown), x * (1 - unknown))


def test_the_filled_part_comes_to_fit_the_known_one():
    """Of two Gaussian numbers with correlation 0.9 one is known: the mean of the other is 0.9 times that.

    All moves are affine, so the mean is what comes of no noise. Jumps lead there, the rest of the error is that of 40
    steps. Catches rises to another level, and a known part whose signal is not that of its level.
    """
    schedule, rho = diffusion.make_schedule("scaled_linear"), 0.9
    covariance = np.array([[1.0, rho], [rho, 1.0]])

    def denoise(z_t, t):
        alpha, sigma = float(schedule.alpha[int(t)]), float(schedule.sigma[int(t)])
        gain = alpha * covariance @ np.linalg.inv(alpha**2 * covariance + sigma**2 * np.eye(2))
        return diffusion.predict(np.asarray(z_t) @ gain, z_t, *diffusion.coefficients(schedule, t, 2), "sample")

    unknown, known, errors = np.array([[0.0, 1.0]], np.float32), np.array([[1.0, 5.0]], np.float32), {}
    for resamplings in (1, 2, 8):
        plan = repaint_plan(make_grid("ddpm", schedule, 40), jump_length=5, resamplings=resamplings)
        *_, end = repaint(denoise, np.zeros((1, 2), np.float32), plan, known, unknown, [np.zeros((1, 2))] * plan.draws)
        errors[resamplings] = abs(float(end[0, 1]) - rho)
    assert errors[1] > 1.7 * errors[2] > 3 * errors[8] and errors[8] < 0.07, errors


def test_moves_that_cannot_be_are_refused():
    for sampler, options, message in (
        ("ddpm", {"jump_length": 4}, "jump_length is 4 and steps 4: .*lower it, or set resamplings to 1"),
        ("ddpm", {"jump_length": 0}, "jump_length is 0: it must be a whole number"),
        ("ddpm", {"resamplings": 0}, "resamplings is 0: it must be a whole number"),
        ("dpm++", {"jump_length": 2}, "this sampler extrapolates earlier steps.*use ddpm or ddim"),
    ):
        with pytest.raises(UserError, match=message):
            repaint_plan(make_grid(sampler, SHORT, 4), **options)
    plan = repaint_plan(make_grid("ddpm", SHORT, 4), jump_length=2)
    ones = np.ones((1, 2, 2, 1), np.float32)
    exact = lambda z_t, t: diffusion.predict(z_t, z_t, 0.6, 0.8, "sample")  # noqa: E731
    with pytest.raises(ValueError, match=f"fewer tensors than the {plan.draws}"):
        list(repaint(exact, ones, plan, ones, ones, [ones]))


def test_a_latent_is_known_if_all_of_its_pixels_are():
    hidden = np.zeros((1, 4, 6, 1), bool)
    hidden[0, 3, 2] = True
    np.testing.assert_array_equal(unknown_latents(hidden, 2)[0, ..., 0], [[0, 0, 0], [0, 1, 0]])


FEW = {"steps": 4, "jump_length": 2, "resamplings": 2}


def picture(seed: int = 0) -> np.ndarray:
    """An image of 14 x 18 pixels whose middle is unknown."""
    image = np.random.default_rng(seed).random((14, 18, 4)).astype(np.float32)
    image[..., 3] = 0.0
    image[4:9, 5:12, 3] = 1.0
    return image


@pytest.fixture(scope="module")
def model():
    return BaseModel(tiny_base())


@pytest.mark.usefixtures("eager")
def test_known_pixels_stay_and_unknown_ones_come_from_the_model(model):
    """Catches pixels below the mask that leak into the result, and known ones that change."""
    done, image = [], picture()
    made = fill(model, image, seed=3, report=done.append, **FEW)
    assert made.shape == (14, 18, 3) and made.dtype == np.uint8 and done == list(range(1, 7))
    known = image[..., 3] == 0
    np.testing.assert_array_equal(made[known], np.rint(255 * image[known, :3]).astype(np.uint8))
    other = image.copy()
    other[~known, :3] = 0.5
    np.testing.assert_array_equal(fill(model, other[None], seed=3, **FEW)[0], made)
    assert np.abs(np.int32(fill(model, image, seed=4, **FEW)) - made).max() > 20


@pytest.mark.usefixtures("eager")
def test_guidance_by_a_prompt_is_text_to_images(tmp_path):
    """Catches another formula, or another empty prompt, than that of codi text2image."""
    base = with_text(tiny_base(), tiny_text(tmp_path, 8))
    ours, theirs, z = BaseModel(base), TextToImage(base), tf.constant(np.ones((1, 2, 2, 4), np.float32))
    for guidance in (1.0, 3.0):
        conditioning = theirs.conditioning(["a cat"], guidance=guidance).tensors()
        if guidance == 1.0:
            expected = theirs.denoise(z, tf.constant(500), conditioning)
        else:
            expected = theirs.denoise_guided(z, tf.constant(500), conditioning, tf.constant(guidance))
        got = ours.denoiser(base.conditioning("a cat"), guidance=guidance)(z, tf.constant(500))
        for one, other in zip(got, expected, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-5)
    with pytest.raises(UserError, match="guidance is 3: there is no prompt"):
        ours.denoiser(guidance=3.0)


def test_bases_that_cannot_fill_are_refused(model):
    base = model.base
    with pytest.raises(UserError, match="has no UNet"):
        BaseModel(dataclasses.replace(base, unet=None))
    with pytest.raises(UserError, match="no text encoder; leave the prompt out"):
        fill(model, picture(), "a cat", **FEW)
    with pytest.raises(UserError, match=r"image has shape .*RGB and the mask"):
        fill(model, picture()[..., :3], **FEW)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, model):
    folder = tmp_path_factory.mktemp("repaint")
    (folder / "base").mkdir()
    save_base(model.base, folder / "base")
    image = picture()
    write_png(folder / "in.png", image[..., :3])
    write_png(folder / "mask.png", np.repeat(image[..., 3:], 3, axis=-1))
    return folder


def call(folder, *arguments):
    files = ("--image", folder / "in.png", "--mask", folder / "mask.png", "--out", folder / "out.png")
    return run_here(command.main, folder / "base", *files, "--steps", 4, "--jump-length", 2, *arguments)


@pytest.mark.usefixtures("eager")
def test_the_command_writes_what_fill_makes(folder, model):
    result = call(folder, "--resamplings", 2, "--seed", 3)
    assert result.returncode == 0 and "where " in result.stdout, result.stderr
    assert "6 steps, 4 of them without the jumps" in result.stderr
    image = np.concatenate([read_image(folder / "in.png"), picture()[..., 3:]], axis=-1)
    np.testing.assert_array_equal(np.rint(255 * read_image(folder / "out.png")), fill(model, image, seed=3, **FEW))


@pytest.mark.usefixtures("eager")
def test_folders_of_images_and_masks(folder, tmp_path):
    """Catches an image that gets another's mask, a text that is taken for an image, and results of one name."""
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    images = {"one": picture(1), "two": picture(2)[:, ::-1]}
    for name, image in images.items():
        write_png(tmp_path / "images" / f"{name}.png", image[..., :3])
        write_png(tmp_path / "masks" / f"{name}.png", np.repeat(image[..., 3:], 3, axis=-1))
    (tmp_path / "images" / "one.txt").write_text("a caption")
    files = ("--image", tmp_path / "images", "--mask", tmp_path / "masks", "--out", tmp_path / "filled")
    few = ("--steps", 2, "--resamplings", 1)
    done = run_here(command.main, folder / "base", *files, *few)
    assert done.returncode == 0, done.stderr
    for name, image in images.items():
        made, known = read_image(tmp_path / "filled" / f"{name}.png"), image[..., 3] == 0
        np.testing.assert_allclose(made[known], image[known, :3], atol=0.51 / 255)
        assert np.abs(made - image[..., :3])[~known].mean() > 0.05
    (tmp_path / "masks" / "two.png").unlink()
    done = run_here(command.main, folder / "base", *files[:-1], tmp_path / "again", *few)
    assert done.returncode == 2 and "it has no two.png" in done.stderr and not (tmp_path / "again").exists()
    (tmp_path / "images" / "two.png").rename(tmp_path / "images" / "one.jpg")
    done = run_here(command.main, folder / "base", *files[:-1], tmp_path / "again", *few)
    assert done.returncode == 2 and "one.jpg" in done.stderr and not (tmp_path / "again").exists()


@pytest.mark.usefixtures("eager")
def test_mistakes_are_one_line(folder, bundle):
    (folder / "out.png").unlink(missing_ok=True)
    for arguments, message in (
        (("--sampler", "dpm"), "use ddpm or ddim"),
        (("--steps", 2), "jump_length is 2 and steps 2"),
        (("--prompt", "a cat"), "leave the prompt out"),
        (("--guidance", 2), "there is no prompt"),
    ):
        result = call(folder, *arguments)
        assert result.returncode == 2 and message in result.stderr.splitlines()[-1], result.stderr
    files = ("--image", folder / "in.png", "--mask", folder / "mask.png", "--out", folder / "out.png")
    result = run_here(command.main, bundle, *files)
    assert result.returncode == 2 and "name a base, which needs none" in result.stderr
    assert not (folder / "out.png").exists()
