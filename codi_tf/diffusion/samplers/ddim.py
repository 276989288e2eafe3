"""DDIM: an evaluation, then a step along its prediction (Song et al. 2021; CoDi, Eq. 7)."""

from __future__ import annotations

from codi_tf.diffusion.grid import CLEAN, Grid, first_order_steps, level, levels_after
from codi_tf.diffusion.process import Schedule, spaced_times, trailing_times
from codi_tf.diffusion.samplers import CHECKPOINT_SAMPLERS, SAMPLERS
from codi_tf.diffusion.scheduler_config import STEPS_OFFSET


@SAMPLERS.register("ddim")
def few_step_grid(schedule: Schedule, num_steps: int) -> Grid:
    """z_s = alpha_s x_hat + sigma_s eps_hat at trailing times, each s the next of them, the last clean (CoDi, Eq. 7).

    Raises:
        UserError: for num_steps that is not an int in 1..T.
    """
    times = trailing_times(num_steps, schedule.num_steps)
    return Grid(first_order_steps(schedule, times, levels_after(schedule, times)))


def reverse_grid(schedule: Schedule, num_steps: int) -> Grid:
    """The way back of `few_step_grid`, from the data to its first time: z_t = alpha_t x_hat + sigma_t eps_hat, t > s.

    DDIM reversed (Song et al. 2021, section 4.3; Meng et al. 2023, section 4.3). A step is evaluated where it starts:
    at z_s. The data are taken as z_0, the cleanest of the schedule. It is not in SAMPLERS, because it generates
    nothing: `sampling.sample` runs it on the latents of an image.

    Raises:
        UserError: for num_steps that is not an int in 1..T.
    """
    ends = trailing_times(num_steps, schedule.num_steps)[::-1]
    return Grid(first_order_steps(schedule, (0, *ends[:-1]), (level(schedule, t) for t in ends)))


@CHECKPOINT_SAMPLERS.register("ddim")
def checkpoint_grid(config: dict, schedule: Schedule, num_steps: int) -> Grid:
    """`ddim_grid` with the arguments of a scheduler_config.json. Raises UserError as it does."""
    spacing, ends_clean = config.get("timestep_spacing", "leading"), config.get("set_alpha_to_one", True)
    return ddim_grid(schedule, num_steps, spacing=spacing, offset=STEPS_OFFSET, ends_clean=ends_clean)


def ddim_grid(
    schedule: Schedule, num_steps: int, *, spacing: str = "leading", offset: int = 0, ends_clean: bool = True
) -> Grid:
    """z_s = alpha_s x_hat + sigma_s eps_hat, s = t - T // N (Song et al. 2021, Eq. 12, eta = 0), as in diffusers.

    Only with leading times is s the next time of the grid. diffusers' DDIMScheduler subtracts T // N from the others as
    well, and so does this grid.

    Args:
        schedule: the one that the network was trained with, of T times.
        num_steps: N.
        spacing, offset: see `process.spaced_times`.
        ends_clean: whether s < 0 means the data themselves, or the schedule's time 0 (`set_alpha_to_one`).

    Raises:
        UserError: for an unknown spacing, or more steps than there are times.
    """
    times = spaced_times(spacing, num_steps, schedule.num_steps, offset=offset)
    stride = schedule.num_steps // num_steps
    last = CLEAN if ends_clean else level(schedule, 0)
    ends = [level(schedule, t - stride) if t >= stride else last for t in times]
    return Grid(first_order_steps(schedule, times, ends))
