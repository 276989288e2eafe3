"""Latent consistency models (Luo et al. 2023): to the data by boundary scalings, and back by fresh noise."""

from __future__ import annotations

import numpy as np

from codi_tf.core.errors import UserError
from codi_tf.core.showing import shown
from codi_tf.diffusion.grid import Grid, Step, first_order_steps, levels_after
from codi_tf.diffusion.process import Schedule
from codi_tf.diffusion.samplers import CHECKPOINT_SAMPLERS, SAMPLERS

TIMES = 50  # of the solver by which latent consistency models are distilled
TIME_SCALING = 10.0  # of t in their boundary scalings
SIGMA_DATA = 0.5


@SAMPLERS.register("lcm")
def conditional_grid(schedule: Schedule, num_steps: int) -> Grid:
    """`lcm_grid` as an LCM-LoRA is trained: 50 times, scaled by 10. Raises UserError as it does."""
    return lcm_grid(schedule, num_steps, times=min(TIMES, schedule.num_steps))


@CHECKPOINT_SAMPLERS.register("lcm")
def checkpoint_grid(config: dict, schedule: Schedule, num_steps: int) -> Grid:
    """`lcm_grid` with the arguments of a scheduler_config.json, as diffusers' LCMScheduler.

    Raises:
        UserError: a value that is out of its range, or see `lcm_grid`.
    """
    times = config.get("original_inference_steps", min(TIMES, schedule.num_steps))
    if isinstance(times, bool) or not isinstance(times, int) or not 1 <= times <= schedule.num_steps:
        raise UserError(f"original_inference_steps is {shown(times)}: it must be from 1 to {schedule.num_steps}")
    scaling = config.get("timestep_scaling", TIME_SCALING)
    if isinstance(scaling, bool) or not isinstance(scaling, int | float) or not 0 < scaling < float("inf"):
        raise UserError(f"timestep_scaling is {shown(scaling)}: it must be a positive number")
    return lcm_grid(schedule, num_steps, times=times, scaling=scaling)


def lcm_grid(schedule: Schedule, num_steps: int, *, times: int = TIMES, scaling: float = TIME_SCALING) -> Grid:
    """z_s = alpha_s (c_out x_hat + c_skip z_t) + sigma_s eps, the last step without noise, at alpha_s = 1.

    c_skip = sd^2 / (tau^2 + sd^2) and c_out = tau / sqrt(tau^2 + sd^2) with tau = scaling t and sd = 0.5: the boundary
    scalings of consistency models (Song et al. 2023, Eq. 5) with the numbers of diffusers' LCMScheduler. As z_t =
    alpha_t x_hat + sigma_t eps_hat, this is a step of a grid.

    Args:
        schedule: the one that the network was trained with, of T times.
        num_steps: N.
        times: M: the N times are taken evenly from the M times k T // M - 1, k = M, ..., 1.
        scaling: see above.

    Raises:
        UserError: for num_steps that is not an int in 1..M.
    """
    if not isinstance(num_steps, int) or not 1 <= num_steps <= times:
        raise UserError(f"num_steps is {num_steps!r}; of sampler lcm it must be a whole number from 1 to {times}")
    known = np.arange(times, 0, -1) * (schedule.num_steps // times) - 1
    chosen = np.floor(np.linspace(0, times, num_steps, endpoint=False)).astype(int)
    taken = [int(t) for t in known[chosen]]
    steps = first_order_steps(schedule, taken, levels_after(schedule, taken))
    return Grid(tuple(_renoised(step, scaling * step.t) for step in steps))


def _renoised(step: Step, tau: float) -> Step:
    norm = tau * tau + SIGMA_DATA**2
    c_skip, c_out = SIGMA_DATA**2 / norm, tau / norm**0.5
    signal, noise = c_out + c_skip * step.alpha_t, c_skip * step.sigma_t  # of x_hat and of eps_hat
    return step._replace(alpha_s=step.alpha_s * signal, sigma_s=step.alpha_s * noise, noise=step.sigma_s)
