"""The stochastic sampler of guided distillation: steps of twice the length, and noise to return (Meng et al. 2023)."""

from __future__ import annotations

import math

from codi_tf.diffusion.grid import CLEAN, Grid, first_order_steps, levels_after
from codi_tf.diffusion.process import Schedule, trailing_times
from codi_tf.diffusion.samplers import CHECKPOINT_SAMPLERS, SAMPLERS


@SAMPLERS.register("stochastic")
def stochastic_grid(schedule: Schedule, num_steps: int) -> Grid:
    """z_s = (alpha_s / alpha_k) (alpha_k x_hat + sigma_k eps_hat) + sigma_s|k eps (Meng et al. 2023, Eq. 4 to 7).

    A DDIM step of twice the length, t -> k = t - 2/N, and a step of noise back to s = t - 1/N, where
    sigma_s|k^2 = (1 - e^(lambda_s - lambda_k)) sigma_s^2 = sigma_s^2 - (alpha_s sigma_k / alpha_k)^2, with that paper's
    lambda = log(alpha^2 / sigma^2). The last step, from t = 1/N, is deterministic and ends clean. Trailing times.

    Raises:
        UserError: for num_steps that is not an int in 1..T.
    """
    times = trailing_times(num_steps, schedule.num_steps)
    levels = [*levels_after(schedule, times), CLEAN]  # of s; of k, the levels one further on
    steps = []
    for step, (alpha_k, sigma_k) in zip(first_order_steps(schedule, times, levels[:-1]), levels[1:], strict=True):
        kept = step.alpha_s / alpha_k * sigma_k  # of eps_hat
        steps.append(step._replace(sigma_s=kept, noise=math.sqrt(step.sigma_s**2 - kept**2)))
    return Grid(tuple(steps))


@CHECKPOINT_SAMPLERS.register("stochastic")
def checkpoint_stochastic_grid(config: dict, schedule: Schedule, num_steps: int) -> Grid:
    """`stochastic_grid`, whatever times a scheduler_config.json names: only distilled models are trained for it."""
    return stochastic_grid(schedule, num_steps)
