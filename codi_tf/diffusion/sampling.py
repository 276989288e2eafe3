"""Sampling: pure functions that run a denoiser over a time grid. Noise and schedule are arguments."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from keras import ops

from codi_tf.diffusion.grid import Grid, Step
from codi_tf.diffusion.process import Denoise, Prediction, Schedule, Tensor, ddim_step, predict
from codi_tf.diffusion.samplers import CHECKPOINT_SAMPLERS, SAMPLERS
from codi_tf.diffusion.samplers.ddim import few_step_grid


def make_grid(sampler: str, schedule: Schedule, num_steps: int) -> Grid:
    """The sampler of a conditional few-step model: trailing times, num_steps evaluations, the last step clean.

    Args:
        sampler: a name in `SAMPLERS`: "ddim", "dpm" (DPM-Solver-2), "dpm++" (DPM-Solver++(2M)), "ddpm" (ancestral),
            "stochastic", "consistency". With one evaluation these are all the same, with two the solvers are "ddim".
            "lcm" has times of its own, at most 50.
        schedule: the one that the network was trained with, of T times.
        num_steps: number of network evaluations, 1 to T.

    Raises:
        UserError: for an unknown sampler, or num_steps that is not an int in 1..T.
    """
    return SAMPLERS[sampler](schedule, num_steps)


def make_checkpoint_grid(sampler: str, config: dict, schedule: Schedule, num_steps: int) -> Grid:
    """The sampler of a text-to-image checkpoint, as diffusers makes it from the checkpoint's scheduler_config.json.

    Args:
        sampler: a name in `CHECKPOINT_SAMPLERS`: "ddim", "dpm" (DPM-Solver-2), "dpm++" (DPM-Solver++(2M)), "ddpm",
            "stochastic" or "lcm".
        config: the contents of scheduler_config.json.
        schedule: from `scheduler_config.make_schedule_of`.
        num_steps: number of network evaluations.

    Raises:
        UserError: for an unknown sampler, too many steps, or a key of the config that is not built here.
    """
    return CHECKPOINT_SAMPLERS[sampler](config, schedule, num_steps)


def guided(unconditional: Tensor, conditional: Tensor, scale: Tensor | float) -> Tensor:
    """e = e_u + scale (e_c - e_u): classifier-free guidance (Ho & Salimans 2022, Eq. 6).

    Takes a network's raw outputs as well as x_hat, eps_hat or v_hat, which depend on them linearly. `scale` is
    diffusers' guidance_scale, 1 for none, a number or a tensor that broadcasts; the papers (also Meng et al. 2023,
    section 2) write (1 + w) e_c - w e_u, so that their w is scale - 1. float32, the shape of the outputs.
    """
    unconditional, conditional = ops.cast(unconditional, "float32"), ops.cast(conditional, "float32")
    return unconditional + scale * (conditional - unconditional)


def trajectory(
    denoise: Denoise, z: Tensor, grid: Grid, noise: Iterable[Tensor] = ()
) -> Iterator[tuple[Prediction, Tensor]]:
    """z_s = alpha_s x_hat + sigma_s eps_hat + noise eps, step by step: yields (the network's prediction, z_s).

    Args:
        denoise: (z_t, t int32 []) -> Prediction; evaluated once a step.
        z: float32 [B, ...], at the noise level of the grid's first time.
        grid: the sampler.
        noise: eps ~ N(0, I), `grid.draws` tensors of the shape of z, in the order of the steps that take them.

    Raises:
        ValueError: when a stochastic step finds no noise left.
    """
    noise, before = iter(noise), None
    for step in grid.steps:
        now = denoise(z, ops.convert_to_tensor(step.t, "int32"))
        along = now if before is None or step.ratio == 0.0 else _extrapolated(now, before, z, step, grid.extrapolate)
        z = ddim_step(along, step.alpha_s, step.sigma_s)
        if step.noise != 0.0:
            eps = next(noise, None)
            if eps is None:
                raise ValueError(f"noise has fewer tensors than the {grid.draws} that the sampler draws")
            z = z + step.noise * ops.cast(eps, "float32")
        yield now, z
        before = now


def sample(denoise: Denoise, z: Tensor, grid: Grid, noise: Iterable[Tensor] = ()) -> Tensor:
    """The latents at the end of a grid, float32 [B, ...]: `trajectory`, with the same arguments, to its end."""
    return _last(trajectory(denoise, z, grid, noise))[1]


def few_step(denoise: Denoise, z: Tensor, schedule: Schedule, num_steps: int) -> Tensor:
    """z_s = alpha_s x_hat + sigma_s eps_hat at num_steps decreasing times (CoDi, Eq. 7); the last one returns x_hat.

    This is DDIM (eta = 0, "trailing" times): a distilled model uses it with 1 to 4 evaluations, an undistilled one with
    20 to 200. There is no classifier-free guidance in it: a step is exactly one call of `denoise`.

    Args:
        denoise: (z_t, t int32 []) -> Prediction.
        z: float32 [B, ...], the starting noise, N(0, I).
        schedule: the one that the network was trained with, of T times.
        num_steps: number of network evaluations, 1 to T.

    Returns:
        float32 [B, ...], the clean latents.

    Raises:
        UserError: for num_steps that is not an int in 1..T.
    """
    return _last(few_step_trajectory(denoise, z, schedule, num_steps)).x_hat


def few_step_trajectory(denoise: Denoise, z: Tensor, schedule: Schedule, num_steps: int) -> Iterator[Prediction]:
    """The predictions of the num_steps evaluations of `few_step`, noisiest first. Arguments and errors as there."""
    return (prediction for prediction, _ in trajectory(denoise, z, few_step_grid(schedule, num_steps)))


def _extrapolated(now: Prediction, before: Prediction, z: Tensor, step: Step, what: str) -> Prediction:
    """D = f + ratio (f - f before), f the signal or the noise, and the prediction at z of which it is a part."""
    f, f_before = (now.x_hat, before.x_hat) if what == "sample" else (now.eps_hat, before.eps_hat)
    return predict(f + step.ratio * (f - f_before), z, step.alpha_t, step.sigma_t, what)


def _last(items: Iterable):
    *_, last = items
    return last
