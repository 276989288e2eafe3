"""Time grids: a sampler as data.

A `Grid` says where the network is evaluated, where each step ends, what is extrapolated and how much fresh noise is
added. `sampling.trajectory` runs any grid.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from numbers import Real
from typing import Literal, NamedTuple

from codi_tf.core.errors import UserError
from codi_tf.diffusion.process import Schedule, Tensor, q_sample

CLEAN = (1.0, 0.0)  # alpha and sigma of the data themselves


class Step(NamedTuple):
    """z_s = alpha_s x_hat + sigma_s eps_hat + noise eps: an evaluation at (t, alpha_t, sigma_t), and the step from it.

    `ratio` is h / (2 h_before), the step's length in lambda = log(alpha / sigma) relative to that of the step before:
    the weight of the extrapolation in a second-order step; 0 makes a first-order step. `noise` is the weight of a fresh
    eps ~ N(0, I), 0 in a deterministic step; z_s has the noise level sqrt(sigma_s^2 + noise^2).
    """

    t: int
    alpha_t: float
    sigma_t: float
    alpha_s: float
    sigma_s: float
    ratio: float = 0.0
    noise: float = 0.0


class Grid(NamedTuple):
    """The steps, noisiest first, and what second-order steps extrapolate: "sample" (x) or "epsilon"."""

    steps: tuple[Step, ...]
    extrapolate: Literal["sample", "epsilon"] = "sample"

    @property
    def draws(self) -> int:
        """The number of stochastic steps, and so of noise tensors that `sampling.trajectory` takes."""
        return sum(step.noise != 0.0 for step in self.steps)


def level(schedule: Schedule, t: int) -> tuple[float, float]:
    """(alpha_t, sigma_t)."""
    return float(schedule.alpha[t]), float(schedule.sigma[t])


def levels_after(schedule: Schedule, times: Sequence[int]) -> list[tuple[float, float]]:
    """(alpha, sigma) where the steps from these times end: at the next time, the last step at the data."""
    return [*(level(schedule, t) for t in times[1:]), CLEAN]


def first_order_steps(
    schedule: Schedule, times: Iterable[int], ends: Iterable[tuple[float, float]]
) -> tuple[Step, ...]:
    """Deterministic steps of first order from these times to these noise levels (alpha_s, sigma_s)."""
    return tuple(Step(t, *level(schedule, t), *end) for t, end in zip(times, ends, strict=True))


def sdedit_grid(grid: Grid, strength: float) -> Grid:
    """The last int(N strength) of a grid's N steps: SDEdit (Meng et al. 2022) starts with them, from a noised image.

    The first of them is of first order, because no evaluation comes before it.

    Raises:
        UserError: for a strength outside of 0..1, or one that leaves no step.
    """
    num_steps = len(grid.steps)
    if not isinstance(strength, Real) or not 0.0 < strength <= 1.0:
        raise UserError(f"strength is {strength!r}: it must be a number above 0 and at most 1")
    kept = int(num_steps * strength)
    if kept == 0:
        raise UserError(f"strength {strength} of {num_steps} steps leaves none; raise one of them")
    return grid._replace(steps=grid.steps[num_steps - kept :])


def sdedit_start(x: Tensor, eps: Tensor, grid: Grid) -> Tensor:
    """z_t = alpha_t x + sigma_t eps at the grid's first time: where SDEdit starts. float32, the shape of x."""
    first = grid.steps[0]
    return q_sample(x, eps, first.alpha_t, first.sigma_t)
