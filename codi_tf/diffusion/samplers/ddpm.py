"""DDPM: every step draws z_s from the posterior of the forward process (Ho et al. 2020)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from codi_tf.diffusion.grid import Grid, Step, first_order_steps, levels_after
from codi_tf.diffusion.process import Schedule, spaced_times, trailing_times
from codi_tf.diffusion.samplers import CHECKPOINT_SAMPLERS, SAMPLERS
from codi_tf.diffusion.scheduler_config import STEPS_OFFSET, check_values

POSSIBLE = {"variance_type": ("fixed_small", "fixed_small_log", None)}  # of a scheduler_config.json; the same here


@SAMPLERS.register("ddpm")
def ddpm_grid(schedule: Schedule, num_steps: int) -> Grid:
    """z_s ~ q(z_s | z_t, x_hat) at trailing times, the last step clean: `ancestral_grid`.

    Raises:
        UserError: for num_steps that is not an int in 1..T.
    """
    return ancestral_grid(schedule, trailing_times(num_steps, schedule.num_steps))


@CHECKPOINT_SAMPLERS.register("ddpm")
def checkpoint_grid(config: dict, schedule: Schedule, num_steps: int) -> Grid:
    """`ancestral_grid` at the times of a scheduler_config.json, as diffusers' DDPMScheduler.

    Raises:
        UserError: for another variance than the posterior's, an unknown spacing, or more steps than there are times.
    """
    check_values(config, POSSIBLE)
    spacing = config.get("timestep_spacing", "leading")
    return ancestral_grid(schedule, spaced_times(spacing, num_steps, schedule.num_steps, offset=STEPS_OFFSET))


def ancestral_grid(schedule: Schedule, times: Sequence[int]) -> Grid:
    """z_s ~ q(z_s | z_t, x_hat), each s the next of the times, the last step clean (Ho et al. 2020, Eq. 6 and 7).

    With alpha_t|s = alpha_t / alpha_s and sigma_t|s^2 = sigma_t^2 - alpha_t|s^2 sigma_s^2 it has the mean
    (alpha_s sigma_t|s^2 x_hat + alpha_t|s sigma_s^2 z_t) / sigma_t^2 = alpha_s x_hat + alpha_t|s sigma_s^2 / sigma_t
    eps_hat and the variance (sigma_s sigma_t|s / sigma_t)^2, diffusers' "fixed_small". This is DDIM with eta = 1 (Song
    et al. 2021, Eq. 16).
    """
    return Grid(tuple(map(_ancestral, first_order_steps(schedule, times, levels_after(schedule, times)))))


def _ancestral(step: Step) -> Step:
    kept = step.alpha_t * step.sigma_s**2 / (step.alpha_s * step.sigma_t)  # of eps_hat
    return step._replace(sigma_s=kept, noise=math.sqrt(max(step.sigma_s**2 - kept**2, 0.0)))
