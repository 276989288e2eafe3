"""From images to noise and back: on Gaussian data against the ODE, distilled, and as `codi transfer`."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import tensorflow as tf
from commands import run_here
from gaussian_data import MEAN, SCHEDULE, STD, Recorder, gaussian_denoiser, level, noise
from tiny import tiny_base, tiny_text

from codi_tf import config
from codi_tf.checkpoints.folder import save_base
from codi_tf.checkpoints.stable_diffusion import load_stable_diffusion, with_text
from codi_tf.cli import transfer as command
from codi_tf.core.errors import UserError
from codi_tf.diffusion import process as diffusion
from codi_tf.diffusion.halving import halving_steps
from codi_tf.diffusion.samplers.ddim import few_step_grid, reverse_grid
from codi_tf.diffusion.sampling import sample
from codi_tf.diffusion.scheduler_config import is_reverse
from codi_tf.inference.base_model import BaseModel
from codi_tf.inference.repaint import fill
from codi_tf.inference.text_to_image import TextToImage
from codi_tf.inference.transfer import Transfer
from codi_tf.io.images import read_image, write_png
from codi_tf.model import CoDi
from codi_tf.training.experiment import build_trainer, save_result

# --- the reverse sampler


def carried(z: np.ndarray, t: int | None, s: int | None, std: float = STD) -> np.ndarray:
    """Where the ODE takes z_t by time s, in float64; None: the data."""
    (alpha_t, sigma_t), (alpha_s, sigma_s) = level(t), level(s)
    u = (np.float64(z) - alpha_t * MEAN) / np.hypot(alpha_t * std, sigma_t)
    return alpha_s * MEAN + np.hypot(alpha_s * std, sigma_s) * u


def data() -> np.ndarray:
    return (MEAN + STD * noise()).astype(np.float32)


@pytest.mark.parametrize("num_steps", [1, 3, 50])
def test_it_goes_the_samplers_way_back(num_steps):
    """Each step starts where the sampler's ends, and ends where that starts; one evaluation a step."""
    there, back = reverse_grid(SCHEDULE, num_steps).steps, few_step_grid(SCHEDULE, num_steps).steps[::-1]
    assert [step[3:5] for step in there] == [step[1:3] for step in back]
    assert [step[1:3] for step in there[1:]] == [step[3:5] for step in back[1:]]
    assert there[0][:3] == (0, *level(0))  # the data are taken as z_0
    recorder = Recorder(gaussian_denoiser())
    sample(recorder, tf.constant(data()), reverse_grid(SCHEDULE, num_steps))
    assert [int(t) for _, t, _ in recorder.calls] == [step.t for step in there]


def test_it_converges_to_the_odes_noise_at_first_order():
    """Catches an evaluation at the time where a step ends, and levels that are off by one."""
    expected = carried(data(), 0, 999)
    errors = {
        n: np.abs(sample(gaussian_denoiser(), tf.constant(data()), reverse_grid(SCHEDULE, n)) - expected).max()
        for n in (50, 100, 200)
    }
    for n in (50, 100):
        assert 1.7 < errors[n] / errors[2 * n] < 2.3, errors
    assert errors[200] < 0.05


def test_there_and_back_is_the_identity():
    """Within the order of the solver: the data come back, and another Gaussian's take its mean and spread."""
    errors = {}
    for n in (50, 100, 200):
        z = sample(gaussian_denoiser(), tf.constant(data()), reverse_grid(SCHEDULE, n))
        same, other = (sample(gaussian_denoiser(std), z, few_step_grid(SCHEDULE, n)) for std in (STD, 0.3))
        errors[n] = np.abs(same - data()).max(), np.abs(other - (MEAN + 0.3 / STD * (data() - MEAN))).max()
    for n in (50, 100):
        for one, half in zip(errors[n], errors[2 * n], strict=True):
            assert one > 1.6 * half, errors
    assert max(errors[200]) < 0.05, errors


@pytest.mark.parametrize("prediction_type", diffusion.PREDICTION_TYPES)
def test_steps_are_diffusers(prediction_type):
    """DDIMInverseScheduler, with the network evaluated where a step starts; its pipelines do so where it ends."""
    torch, diffusers = pytest.importorskip("torch"), pytest.importorskip("diffusers")
    options = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    scheduler = diffusers.DDIMInverseScheduler(
        **options,
        clip_sample=False,
        set_alpha_to_one=False,
        timestep_spacing="trailing",
        prediction_type=prediction_type,
    )
    field = {"epsilon": "eps_hat", "v_prediction": "v_hat", "sample": "x_hat"}[prediction_type]
    for num_steps in (1, 4, 20):
        scheduler.set_timesteps(num_steps)
        grid, z = reverse_grid(SCHEDULE, num_steps), torch.from_numpy(data())
        assert [step.t for step in grid.steps[1:]] == scheduler.timesteps[:-1].tolist()
        for step, t in zip(grid.steps, scheduler.timesteps, strict=True):
            output = getattr(gaussian_denoiser()(z.numpy(), step.t), field).numpy()
            z = scheduler.step(torch.from_numpy(output), t, z).prev_sample
        np.testing.assert_allclose(sample(gaussian_denoiser(), tf.constant(data()), grid), z.numpy(), atol=2e-5)


# --- its distillation


@pytest.mark.parametrize("num_steps", [1, 3, 4, 333, 500])
def test_a_teachers_steps_are_the_halved_ones(num_steps):
    """Two steps of the teacher's reverse grid are one pair, whatever the rounding of the times."""
    pairs = halving_steps(SCHEDULE, num_steps, reverse=True)
    teacher = reverse_grid(SCHEDULE, 2 * num_steps).steps
    assert [pair[:3] for pair in pairs] == [step[:3] for step in teacher[::2]]
    assert [pair[3:6] for pair in pairs] == [step[:3] for step in teacher[1::2]]
    assert [pair[6:] for pair in pairs] == [step[3:5] for step in teacher[1::2]]
    assert [pair[6:] for pair in pairs] == [step[3:5] for step in reverse_grid(SCHEDULE, num_steps).steps]


@pytest.mark.parametrize("num_steps", [1, 4])
def test_a_perfect_student_is_where_two_steps_of_the_teacher_lead(num_steps):
    """Catches a target of the way down used for the way up."""
    teacher = gaussian_denoiser()
    for pair in halving_steps(SCHEDULE, num_steps, reverse=True):
        z_t = tf.constant(data())
        z_mid = diffusion.ddim_step(teacher(z_t, pair.t), pair.alpha_mid, pair.sigma_mid)
        z_s = diffusion.ddim_step(teacher(z_mid, pair.mid), pair.alpha_s, pair.sigma_s)
        x_tilde = diffusion.halving_target(z_t, z_s, pair.alpha_t, pair.sigma_t, pair.alpha_s, pair.sigma_s)
        student = diffusion.predict(x_tilde, z_t, pair.alpha_t, pair.sigma_t, "sample")
        np.testing.assert_allclose(diffusion.ddim_step(student, pair.alpha_s, pair.sigma_s), z_s, atol=2e-5)


def experiment(base, **method):
    values = {"name": "guided", "stage": 2, "steps": [4, 2], "updates": 1, "reverse": True, **method}
    train = {"steps": 2, "warmup_steps": 0, "learning_rate": 1e-3, "ema_decay": 0.5, "batch_size": 2}
    return config.from_dict({"method": values, "base": str(base), "data": {"image_size": 16}, "train": train})


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Bases of one autoencoder, "a" and "b", and one of another, "c"; "text" has prompts; and an image."""
    folder = tmp_path_factory.mktemp("bases")
    a = tiny_base()
    b = dataclasses.replace(a, unet=tiny_base(seed=1).unet)
    text = with_text(a, tiny_text(folder, 8))
    for name, base in {"a": a, "b": b, "c": tiny_base(seed=2), "text": text}.items():
        (folder / name).mkdir()
        save_base(base, folder / name)
    write_png(folder / "in.png", np.random.default_rng(0).integers(0, 256, (14, 18, 3), "uint8"))
    return folder


@pytest.fixture(scope="module")
def reverse(folders, tmp_path_factory):
    """A base that two updates have distilled to lead to noise."""
    settings = experiment(folders / "a")
    trainer = build_trainer(settings)
    batch = {"latent": tf.constant(np.random.default_rng(0).normal(size=(2, 4, 4, 4)).astype("float32"))}
    tf.config.run_functions_eagerly(True)
    try:
        for _ in range(2):
            logs = trainer.train_step(batch)
            assert float(logs["skipped"]) == 0 and float(logs["gradient_norm"]) > 0 and float(logs["halving"]) > 0
    finally:
        tf.config.run_functions_eagerly(False)
    folder = tmp_path_factory.mktemp("run") / "reverse"
    save_result(settings, trainer, folder, {})
    return folder


def test_the_result_says_that_it_leads_to_noise(reverse, folders):
    """Also to diffusers. Nothing generates with it, or trains on it as a model that does."""
    base = load_stable_diffusion(reverse)
    assert is_reverse(base.scheduler) and BaseModel(base).is_reverse
    scheduler = json.loads((reverse / "scheduler" / "scheduler_config.json").read_text())
    assert scheduler["timestep_spacing"] == "trailing"
    diffusers = pytest.importorskip("diffusers")
    assert diffusers.DDIMInverseScheduler.from_config(scheduler).config.set_alpha_to_one is False
    with_prompts = with_text(base, tiny_text(reverse.parent, 8))
    for refused in (
        lambda: TextToImage(with_prompts),
        lambda: CoDi(base),
        lambda: fill(BaseModel(base), np.ones((8, 8, 4), np.float32)),
        lambda: build_trainer(experiment(reverse, reverse=False)),
    ):
        with pytest.raises(UserError, match="leads? from images to noise"):
            refused()
    build_trainer(experiment(reverse))  # which may go on


def test_settings_that_cannot_be_are_refused():
    for method, message in (
        ({"stochastic": True}, "both true: the way back draws no noise"),
        ({"stage": 1, "steps": [], "updates": 0}, "belong to stage 2"),
    ):
        with pytest.raises(UserError, match=message):
            experiment("base", **method)
    settings = {"method": {"name": "guided", "stage": 2, "steps": [2], "updates": 1, "reverse": True}, "base": "base"}
    with pytest.raises(UserError, match="trains without a condition: remove task"):
        config.from_dict({**settings, "task": {"name": "super_resolution"}, "train": {"steps": 1}})


# --- transfer


@pytest.fixture(scope="module")
def models(folders):
    return {name: BaseModel(load_stable_diffusion(folders / name)) for name in ("a", "b", "c", "text")}


@pytest.mark.usefixtures("eager")
def test_a_transfer_is_both_samplers_one_after_the_other(models):
    """Catches models in the wrong order, and guidance or prompts that go to the wrong one."""
    a, b, text = models["a"], models["b"], models["text"]
    image = np.random.default_rng(1).random((16, 24, 3)).astype(np.float32)
    x, schedule = a.encode(tf.constant(2 * image[None] - 1)), a.base.schedule
    z = sample(a.denoiser(), x, reverse_grid(schedule, 3))
    made = np.asarray(b.decode(sample(b.denoiser(), z, few_step_grid(schedule, 3))))[0]
    done = []
    got = Transfer(a, b).generate(image, steps=3, report=done.append)
    assert np.abs(got / 255 - (made + 1) / 2).max() < 0.5 / 255 + 1e-4 and done == [1, 2, 3, 4, 5, 6]
    one, other = (text.base.conditioning(prompt) for prompt in ("noon", "night"))
    z = sample(text.denoiser(one, guidance=1.5), x, reverse_grid(schedule, 2))
    made = np.asarray(text.decode(sample(text.denoiser(other, guidance=3.0), z, few_step_grid(schedule, 2))))[0]
    options = {"steps": 2, "guidance": 3.0, "reverse_guidance": 1.5}
    got = Transfer(text, text).generate(image, "night", "noon", **options)
    assert np.abs(got / 255 - (made + 1) / 2).max() < 0.5 / 255 + 1e-3
    with pytest.raises(UserError, match="2 prompts for 3 images: give one, or one per image"):
        Transfer(text, text).generate(np.zeros((3, 16, 16, 3)), ["day", "night"], **options)


def test_a_model_with_itself_gives_the_image_back(models):
    """Many steps: what is left is the autoencoder's error. Any size, and batches."""
    image = np.random.default_rng(1).random((2, 14, 18, 3)).astype(np.float32)
    smooth = Transfer(models["a"], models["a"])
    padded = np.pad(image, ((0, 0), (0, 2), (0, 2), (0, 0)), mode="reflect")
    x = smooth.a.encode(tf.constant(2 * padded - 1))
    errors = [float(tf.reduce_mean(tf.abs(smooth.carry(x, steps=n) - x))) for n in (4, 64)]
    assert errors[0] > 2 * errors[1], errors
    got = smooth.generate(image, steps=2)
    assert got.shape == image.shape and got.dtype == np.uint8


def test_models_that_do_not_belong_together_are_one_line(models, reverse):
    a, names = models["a"], ("runs/a", "runs/c")
    with pytest.raises(UserError, match="runs/a and runs/c have different latents: use models of one autoencoder"):
        Transfer(a, models["c"], names)
    other = dataclasses.replace(a.base, scheduler={**a.base.scheduler, "beta_schedule": "linear"})
    with pytest.raises(UserError, match="runs/a and runs/c have different noise schedules"):
        Transfer(a, BaseModel(other), names)
    back = BaseModel(load_stable_diffusion(reverse))
    Transfer(back, models["b"])
    with pytest.raises(UserError, match="runs/c leads from images to noise: name it first"):
        Transfer(a, back, names)


# --- the command


def call(folders, a, b, *arguments):
    return run_here(command.main, folders / a, folders / b, *arguments)


@pytest.mark.usefixtures("eager")
def test_an_image_and_a_folder_are_transferred(folders, models, tmp_path):
    expected = Transfer(models["a"], models["b"]).generate(read_image(folders / "in.png"), steps=2)
    done = call(folders, "a", "b", "--image", folders / "in.png", "--out", tmp_path / "out.png", "--steps", 2)
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(np.rint(255 * read_image(tmp_path / "out.png")), expected)
    (tmp_path / "images" / "more").mkdir(parents=True)
    write_png(tmp_path / "images" / "more" / "two.png", read_image(folders / "in.png"))
    done = call(folders, "a", "b", "--image", tmp_path / "images", "--out", tmp_path / "all", "--steps", 2)
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(np.rint(255 * read_image(tmp_path / "all" / "more" / "two.png")), expected)


PAIRS = ("--data", "scenes:noon-to-night", "--count", 2, "--size", 16)


@pytest.mark.usefixtures("eager")
def test_pairs_are_measured_against_their_counterparts(folders, tmp_path):
    """Catches images that are compared with the wrong domain, and rows or files that are missing."""
    beside = ("--undistilled", folders / "b", folders / "b")
    done = call(folders, "a", "b", *PAIRS, "--steps", 1, *beside, "--out", tmp_path / "report")
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "report" / "metrics.json").read_text())
    names = ["transfer, 1 step each way", "undistilled, 1 step each way"]
    assert list(figures["rows"]) == ["condition", *names, "autoencoder", "original"]
    assert figures["rows"]["original"]["psnr"] is None and figures["rows"]["original"]["ssim"] == pytest.approx(1)
    assert 5 < figures["rows"]["condition"]["psnr"] < 30  # noon against night
    files = {path.name for path in (tmp_path / "report").iterdir()}
    assert files >= {"report.md", "grid.png", "curves.png", "metrics.npz"}


@pytest.mark.slow
@pytest.mark.usefixtures("eager")
def test_pairs_are_measured_with_prompts_and_guidance(folders, tmp_path):
    """Catches captions that no base takes, or that only one of the two gets."""
    arguments = (*PAIRS, "--steps", 1, "--guidance", "1,2", "--prompts", "--out", tmp_path / "report")
    done = call(folders, "text", "text", *arguments)
    assert done.returncode == 0 and "transfer, guidance 2, 1 step each way" in done.stdout, done.stderr
    done = call(folders, "a", "b", *arguments)
    assert done.returncode == 2 and "no text encoder" in done.stderr, done.stderr


@pytest.mark.usefixtures("eager")
def test_mistakes_are_one_line(folders, bundle, tmp_path):
    image = ("--image", folders / "in.png")
    for a, b, arguments, message in (
        ("a", "c", image, "have different latents"),
        ("a", "b", (*image, "--prompt", "night"), "no text encoder"),
        ("a", "b", (*image, "--steps", "4,2"), "--image takes one number of --steps"),
        ("a", "b", (*image, "--steps", "0"), "--steps is 0: it must be a whole number"),
        ("a", "b", (*image, "--count", 3), "--count does not go with --image"),
        ("a", "b", ("--image", tmp_path / "no.png"), "no such file or folder"),
        ("a", "b", ("--data", "scenes:noon-to-night", "--prompt", "x"), "--prompt does not go with --data"),
        ("a", "b", ("--data", "scenes:noon-to-night", "--guidance", "1,1"), "--guidance is 1,1: give each value once"),
        ("a", "missing", image, "no such model"),
        ("a", bundle, image, "name a base, which needs none"),
        ("a", "b", (), "one of the arguments --image --data is required"),
    ):
        done = call(folders, a, b, *arguments, "--out", tmp_path / "out.png")
        assert done.returncode == 2 and message in done.stderr.splitlines()[-1], done.stderr
        assert not (tmp_path / "out.png").exists()
    text = call(folders, "text", "text", *image, "--guidance", 2, "--out", tmp_path / "out.png")
    assert text.returncode == 2 and "no prompt to be guided by" in text.stderr
