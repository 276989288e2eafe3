"""Reading scheduler_config.json: the same schedules, times and samples as diffusers makes of the same file."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from codi_tf.core.errors import UserError
from codi_tf.diffusion import process as diffusion
from codi_tf.diffusion.grid import sdedit_grid, sdedit_start
from codi_tf.diffusion.sampling import make_checkpoint_grid, sample, trajectory
from codi_tf.diffusion.scheduler_config import SCHEDULERS, check_scheduler, make_schedule_of

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
torch.set_num_threads(1)
pytestmark = pytest.mark.filterwarnings("ignore:`algorithm_types dpmsolver")

STABLE_DIFFUSION = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "num_train_timesteps": 1000,
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}
CONFIGS = {  # the files of Stable Diffusion 1.x, 2.x as published, and others that occur
    "1.x": {**STABLE_DIFFUSION, "_class_name": "PNDMScheduler", "skip_prk_steps": True, "trained_betas": None},
    "2.x": {**STABLE_DIFFUSION, "_class_name": "DDIMScheduler", "prediction_type": "v_prediction"},
    "resaved": {**STABLE_DIFFUSION, "_class_name": "PNDMScheduler", "timestep_spacing": "leading"},
    "trailing": {**STABLE_DIFFUSION, "set_alpha_to_one": True, "timestep_spacing": "trailing"},
    "linspace": {**STABLE_DIFFUSION, "_class_name": "EulerDiscreteScheduler", "timestep_spacing": "linspace"},
    "sigma_min": {**STABLE_DIFFUSION, "final_sigmas_type": "sigma_min", "lower_order_final": False},
    "euler_end": {**STABLE_DIFFUSION, "final_sigmas_type": "sigma_min", "euler_at_final": True},
    "unipc": {**STABLE_DIFFUSION, "_class_name": "UniPCMultistepScheduler", "solver_type": "bh2"},
    "cosine": {"beta_schedule": "squaredcos_cap_v2", "clip_sample": False, "steps_offset": 1},
    "empty": {"_class_name": "DDIMScheduler", "clip_sample": False, "steps_offset": 1},
}
SAMPLERS = ("ddim", "dpm", "dpm++")
SHAPE = (2, 3, 4, 4)  # PyTorch's order; every element is on its own here


ROUGH = ("cosine", "empty")
CASES = [(name, sampler) for name in CONFIGS for sampler in SAMPLERS if sampler == "ddim" or name not in ROUGH]


def theirs(name: str, sampler: str, **options):
    """diffusers' scheduler; for the ROUGH configs with DDIM's tables in double precision.

    It computes sigma^2 as 1 - alpha^2 in float32. For Stable Diffusion that is good enough for the tolerances here, but
    not with noise as weak, or signals as faint, as in the ROUGH ones; there the DPM-Solvers subtract numbers a hundred
    times larger than the result. test_sampling.py holds these against the papers' formulas in double precision.
    """
    config = {**CONFIGS[name], **options}
    if sampler == "ddim":
        scheduler = diffusers.DDIMScheduler.from_config(config)
    else:
        options = {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"} if sampler == "dpm" else {}
        scheduler = diffusers.DPMSolverMultistepScheduler.from_config(config, **options)
    if name in ROUGH and sampler == "ddim":
        alpha, sigma = (torch.from_numpy(np.float64(table)) for table in make_schedule_of(config))
        scheduler.alphas_cumprod = 1 / (1 + (sigma / alpha) ** 2)
    return scheduler


def network(z: np.ndarray, t: int, schedule: diffusion.Schedule, prediction_type: str) -> np.ndarray:
    """The output of the best denoiser of x = 1 or x = -1, each half the time: x_hat = tanh(alpha z / sigma^2)."""
    alpha, sigma = np.float64(schedule.alpha[t]), np.float64(schedule.sigma[t])
    z = np.float64(z)
    x_hat = 0.9 * np.tanh(alpha * z / (sigma**2 + 0.1))
    eps_hat = (z - alpha * x_hat) / sigma
    output = {"epsilon": eps_hat, "v_prediction": alpha * eps_hat - sigma * x_hat, "sample": x_hat}[prediction_type]
    return output.astype(np.float32)


def denoiser(schedule: diffusion.Schedule, prediction_type: str):
    def denoise(z_t, t):
        output = network(z_t.numpy(), int(t), schedule, prediction_type)
        return diffusion.predict(output, z_t, *diffusion.coefficients(schedule, t), prediction_type)

    return denoise


def noise(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=SHAPE).astype(np.float32)


def run_theirs(scheduler, z: np.ndarray, schedule, prediction_type: str, times) -> np.ndarray:
    z = torch.from_numpy(z)
    for t in times:
        output = torch.from_numpy(network(z.numpy(), int(t), schedule, prediction_type))
        z = scheduler.step(output, t, z).prev_sample
    return z.numpy()


@pytest.mark.parametrize("name", CONFIGS)
def test_the_schedule_is_diffusers(name):
    schedule = make_schedule_of(CONFIGS[name])
    for kind in (diffusers.DDIMScheduler, diffusers.DPMSolverMultistepScheduler):
        scheduler = kind.from_config(CONFIGS[name])
        np.testing.assert_allclose(schedule.alpha**2, scheduler.alphas_cumprod, rtol=2e-5)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("name", CONFIGS)
def test_times_are_diffusers(name, sampler):
    """All numbers of steps up to 60; diffusers' trailing times differ from ours in 111 of 1000 numbers, 48 the first.

    There a float that should be half of a whole number, or zero, is not: a time is off by one, or the time -1 is added.
    """
    schedule = make_schedule_of(CONFIGS[name])
    for num_steps in range(1, 61):
        scheduler = theirs(name, sampler)
        scheduler.set_timesteps(num_steps)
        times = [step.t for step in make_checkpoint_grid(sampler, CONFIGS[name], schedule, num_steps).steps]
        if name == "trailing" and num_steps == 48:
            assert np.abs(np.subtract(times, scheduler.timesteps)).max() == 1
        else:
            assert times == scheduler.timesteps.tolist()


@pytest.mark.parametrize("prediction_type", diffusion.PREDICTION_TYPES)
@pytest.mark.parametrize(("name", "sampler"), CASES)
def test_samples_are_diffusers(name, sampler, prediction_type):
    """The whole loop, with the same network and noise."""
    config = {**CONFIGS[name], "prediction_type": prediction_type}
    schedule = make_schedule_of(config)
    for num_steps in (1, 2, 4, 10, 20, 50):
        scheduler = theirs(name, sampler, prediction_type=prediction_type)
        scheduler.set_timesteps(num_steps)
        z = torch.from_numpy(noise())
        for t in scheduler.timesteps:
            output = network(z.numpy(), int(t), schedule, prediction_type)
            z = scheduler.step(torch.from_numpy(output), t, z).prev_sample
        grid = make_checkpoint_grid(sampler, config, schedule, num_steps)
        got = sample(denoiser(schedule, prediction_type), tf.constant(noise()), grid)
        np.testing.assert_allclose(got, z, rtol=0, atol=2e-4 * np.abs(z).max())


@pytest.mark.parametrize(("name", "sampler"), CASES)
def test_steps_are_diffusers(name, sampler):
    """Every step by itself: from our latents, theirs ends where ours does, within 2e-5 of the scale."""
    config = CONFIGS[name]
    schedule, kind = make_schedule_of(config), config.get("prediction_type", "epsilon")
    for num_steps in (4, 20):
        scheduler = theirs(name, sampler)
        scheduler.set_timesteps(num_steps)
        z = noise()
        steps = trajectory(
            denoiser(schedule, kind), tf.constant(z), make_checkpoint_grid(sampler, config, schedule, num_steps)
        )
        for t, (_, z_s) in zip(scheduler.timesteps, steps, strict=True):
            output = network(z, int(t), schedule, kind)
            expected = scheduler.step(torch.from_numpy(output), t, torch.from_numpy(z)).prev_sample.numpy()
            np.testing.assert_allclose(z_s, expected, rtol=0, atol=2e-5 * np.abs(expected).max())
            z = z_s.numpy()


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("strength", [0.3, 0.75, 1.0])
def test_image_to_image_is_diffusers(sampler, strength):
    """As StableDiffusionImg2ImgPipeline counts: it begins at time N - int(N strength) of the grid, with no memory."""
    config = CONFIGS["1.x"]
    schedule = make_schedule_of(config)
    x = 0.5 * noise(1)
    for num_steps in (4, 20):
        scheduler = theirs("1.x", sampler)
        scheduler.set_timesteps(num_steps)
        begin = num_steps - int(num_steps * strength)
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(begin)
        times = scheduler.timesteps[begin:]
        z = scheduler.add_noise(torch.from_numpy(x), torch.from_numpy(noise()), times[:1])
        for t in times:
            z = scheduler.step(torch.from_numpy(network(z.numpy(), int(t), schedule, "epsilon")), t, z).prev_sample
        grid = sdedit_grid(make_checkpoint_grid(sampler, config, schedule, num_steps), strength)
        got = sample(denoiser(schedule, "epsilon"), sdedit_start(tf.constant(x), tf.constant(noise()), grid), grid)
        np.testing.assert_allclose(got, z, rtol=0, atol=2e-4 * np.abs(z).max())


# --- what is refused


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rescale_betas_zero_snr": True}, "rescale_betas_zero_snr is True"),
        ({"trained_betas": [0.1, 0.2]}, r"trained_betas is \[0.1, 0.2\]"),
        ({"clip_sample": "yes"}, "clip_sample is 'yes'.*only False"),
        ({"thresholding": True}, "thresholding is True"),
        ({"use_flow_sigmas": True}, "use_flow_sigmas is True"),
        ({"variance_type": "learned_range"}, "variance_type is 'learned_range'"),
        ({"timestep_spacing": "quadratic"}, "timestep_spacing is 'quadratic'.*leading or linspace or trailing"),
        ({"prediction_type": "flow_prediction"}, "prediction_type is 'flow_prediction'"),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler"}, "_class_name is 'FlowMatchEulerDiscreteScheduler'"),
        ({"beta_schedule": "sigmoid"}, "unknown beta_schedule 'sigmoid'"),
        ({"beta_start": "0.1"}, "must be numbers"),
        ({"num_train_timesteps": 0}, "num_train_timesteps is 0"),
    ],
)
def test_refuses_other_diffusions(change, message):
    with pytest.raises(UserError, match=message) as caught:
        make_schedule_of({**STABLE_DIFFUSION, **change})
    assert "\n" not in str(caught.value)


def test_clipping_is_turned_off_as_the_pipeline_does_it():
    """StableDiffusionPipeline puts false in place of true; tests/test_convert.py looks at it."""
    expected = make_schedule_of(STABLE_DIFFUSION)
    for value in (True, None):
        config = {**STABLE_DIFFUSION, "clip_sample": value}
        schedule = make_schedule_of(config)
        np.testing.assert_array_equal(schedule.alpha, expected.alpha)
        grids = [make_checkpoint_grid("ddim", c, schedule, 4) for c in (config, STABLE_DIFFUSION)]
        assert [step.t for step in grids[0].steps] == [step.t for step in grids[1].steps]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"use_karras_sigmas": True}, "use_karras_sigmas is True"),
        ({"use_exponential_sigmas": True}, "use_exponential_sigmas is True"),
        ({"use_beta_sigmas": True}, "use_beta_sigmas is True"),
        ({"use_lu_lambdas": True}, "use_lu_lambdas is True"),
        ({"solver_order": 3}, "solver_order is 3.*only 2"),
        ({"solver_type": "heun"}, "solver_type is 'heun'.*midpoint"),
        ({"lambda_min_clipped": -5.1}, "lambda_min_clipped is -5.1"),
        ({"final_sigmas_type": "one"}, "final_sigmas_type is 'one'"),
    ],
)
def test_refuses_other_solvers_only_where_they_matter(change, message):
    """DDIM has none of these keys: a checkpoint that is meant for another solver is not refused as such."""
    config = {**STABLE_DIFFUSION, **change}
    schedule = make_schedule_of(config)
    assert len(make_checkpoint_grid("ddim", config, schedule, 4).steps) == 4
    for sampler in ("dpm", "dpm++"):
        with pytest.raises(UserError, match=message):
            make_checkpoint_grid(sampler, config, schedule, 4)


def test_refuses_unknown_samplers_and_too_many_steps():
    schedule = make_schedule_of(STABLE_DIFFUSION)
    with pytest.raises(UserError, match="unknown sampler 'euler': known are ddim, ddpm, dpm, dpm"):
        make_checkpoint_grid("euler", STABLE_DIFFUSION, schedule, 4)
    for sampler, num_steps in (
        ("ddim", 1000),
        ("dpm", 1000),
        ("dpm++", 999),
        ("ddim", 0),
        ("ddim", 1001),
        ("ddim", 2.0),
    ):
        config = {**STABLE_DIFFUSION, "timestep_spacing": "leading"}
        with pytest.raises(UserError, match=f"num_steps is {num_steps}"):
            make_checkpoint_grid(sampler, config, schedule, num_steps)


def test_all_named_schedulers_are_diffusers_own_and_read():
    for name in SCHEDULERS:
        assert hasattr(diffusers, name)
        check_scheduler({"_class_name": name})
