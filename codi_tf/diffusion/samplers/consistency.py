"""Multistep consistency sampling: every step goes to the data, and fresh noise leads back (Song et al. 2023)."""

from __future__ import annotations

from codi_tf.diffusion.grid import Grid, first_order_steps, levels_after
from codi_tf.diffusion.process import Schedule, trailing_times
from codi_tf.diffusion.samplers import SAMPLERS


@SAMPLERS.register("consistency")
def consistency_grid(schedule: Schedule, num_steps: int) -> Grid:
    """z_s = alpha_s x_hat + sigma_s eps: multistep consistency sampling (Song et al. 2023, algorithm 1).

    Trailing times, the last step clean. That paper's process keeps alpha = 1; this is the variance-preserving one.

    Raises:
        UserError: for num_steps that is not an int in 1..T.
    """
    times = trailing_times(num_steps, schedule.num_steps)
    steps = first_order_steps(schedule, times, levels_after(schedule, times))
    return Grid(tuple(step._replace(sigma_s=0.0, noise=step.sigma_s) for step in steps))
