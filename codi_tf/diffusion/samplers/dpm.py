"""DPM-Solver-2 and DPM-Solver++(2M): steps that extrapolate the last two evaluations (Lu et al. 2022)."""

from __future__ import annotations

import math
from typing import Literal

from codi_tf.core.errors import UserError
from codi_tf.diffusion.grid import CLEAN, Grid, Step, first_order_steps, level
from codi_tf.diffusion.process import Schedule, spaced_times
from codi_tf.diffusion.samplers import CHECKPOINT_SAMPLERS, SAMPLERS
from codi_tf.diffusion.scheduler_config import STEPS_OFFSET, check_values

# Values of keys of a scheduler_config.json that change nothing here; others are refused. A missing key is fine.
POSSIBLE = {
    "solver_order": (2,),
    "solver_type": ("midpoint", "logrho", "bh1", "bh2"),  # diffusers turns other solvers' types into the midpoint
    "use_karras_sigmas": (False, None),
    "use_exponential_sigmas": (False, None),
    "use_beta_sigmas": (False, None),
    "use_lu_lambdas": (False, None),
    "lambda_min_clipped": (-math.inf,),
}


@SAMPLERS.register("dpm")
def dpm_solver_grid(schedule: Schedule, num_steps: int) -> Grid:
    """DPM-Solver-2 at trailing times; formula and errors: see `dpm_grid`."""
    return dpm_grid(schedule, num_steps, extrapolate="epsilon", spacing="trailing", ends_clean=True)


@SAMPLERS.register("dpm++")
def dpm_solver_plus_plus_grid(schedule: Schedule, num_steps: int) -> Grid:
    """DPM-Solver++(2M) at trailing times; formula and errors: see `dpm_grid`."""
    return dpm_grid(schedule, num_steps, extrapolate="sample", spacing="trailing", ends_clean=True)


@CHECKPOINT_SAMPLERS.register("dpm")
def checkpoint_dpm_solver_grid(config: dict, schedule: Schedule, num_steps: int) -> Grid:
    """DPM-Solver-2 as a scheduler_config.json has it.

    It ends at the schedule's time 0: the noise cannot be integrated up to sigma = 0.

    Raises:
        UserError: a key of the config that is not built here, or see `dpm_grid`.
    """
    _ends_clean(config)
    return _checkpoint_grid(config, schedule, num_steps, extrapolate="epsilon", ends_clean=False)


@CHECKPOINT_SAMPLERS.register("dpm++")
def checkpoint_dpm_solver_plus_plus_grid(config: dict, schedule: Schedule, num_steps: int) -> Grid:
    """DPM-Solver++(2M) as a scheduler_config.json has it.

    Raises:
        UserError: a key of the config that is not built here, or see `dpm_grid`.
    """
    return _checkpoint_grid(config, schedule, num_steps, extrapolate="sample", ends_clean=_ends_clean(config))


def dpm_grid(
    schedule: Schedule,
    num_steps: int,
    *,
    extrapolate: Literal["sample", "epsilon"],
    spacing: str = "linspace",
    offset: int = 0,
    ends_clean: bool,
    lower_order_final: bool = True,
    euler_at_final: bool = False,
) -> Grid:
    """z_s = sigma_s / sigma_t z_t - alpha_s (e^-h - 1) D, D = x_hat + h / (2 h_before) (x_hat - x_hat before).

    This is DPM-Solver++(2M), extrapolate="sample" (Lu et al. 2022b, algorithm 2). With the noise in the signal's place,
    extrapolate="epsilon", z_s = alpha_s / alpha_t z_t - sigma_s (e^h - 1) D, it is the multistep DPM-Solver-2 (Lu et
    al. 2022a). Both are alpha_s x + sigma_s eps of the prediction that D stands for. The arguments are those of
    diffusers' DPMSolverMultistepScheduler (solver_order=2, solver_type="midpoint").

    The first step is of first order, and the last one if it ends clean: up to two evaluations this is DDIM.

    Args:
        schedule: the one that the network was trained with.
        num_steps: number of network evaluations.
        extrapolate: "sample" or "epsilon".
        spacing, offset: see `process.spaced_times`.
        ends_clean: whether the last step, of first order, ends at the data themselves, or at the schedule's time 0.
        lower_order_final: whether the last of fewer than 15 steps is of first order.
        euler_at_final: whether the last step is of first order in any case.

    Raises:
        UserError: for an unknown spacing, or more steps than there are times.
    """
    times = spaced_times(spacing, num_steps, schedule.num_steps, offset=offset, without_last=True)
    ends = [*(level(schedule, t) for t in times[1:]), CLEAN if ends_clean else level(schedule, 0)]
    first_order_end = ends_clean or euler_at_final or (lower_order_final and num_steps < 15)
    steps = list(first_order_steps(schedule, times, ends))
    for i in range(1, num_steps - first_order_end):
        steps[i] = steps[i]._replace(ratio=_length(steps[i]) / (2.0 * _length(steps[i - 1])))
    return Grid(tuple(steps), extrapolate)


def _checkpoint_grid(
    config: dict, schedule: Schedule, num_steps: int, *, extrapolate: Literal["sample", "epsilon"], ends_clean: bool
) -> Grid:
    return dpm_grid(
        schedule,
        num_steps,
        extrapolate=extrapolate,
        spacing=config.get("timestep_spacing", "linspace"),
        offset=STEPS_OFFSET,
        ends_clean=ends_clean,
        lower_order_final=config.get("lower_order_final", True),
        euler_at_final=config.get("euler_at_final", False),
    )


def _ends_clean(config: dict) -> bool:
    """Whether the config's last sigma is 0. Raises UserError for a config that differs from what is built here."""
    check_values(config, POSSIBLE)
    final = config.get("final_sigmas_type", "zero")
    if final not in ("zero", "sigma_min"):
        raise UserError(f"final_sigmas_type is {final!r}: use zero or sigma_min")
    return final == "zero"


def _length(step: Step) -> float:
    """h = lambda_s - lambda_t, lambda = log(alpha / sigma)."""
    return math.log(step.alpha_s / step.sigma_s) - math.log(step.alpha_t / step.sigma_t)
