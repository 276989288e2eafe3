"""Samplers: pure functions that unroll a denoiser over a time grid. Noise and schedule are arguments.

A sampler is data: a `Grid` tells where the network is evaluated, where each step ends, what is extrapolated and how
much fresh noise is added. `trajectory` runs any of them. DDIM evaluates and goes; the DPM-Solvers extrapolate what the
last two evaluations said and then take the same step; the stochastic samplers go too far and come back with noise.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from numbers import Real
from typing import NamedTuple

from keras import ops

from codi_tf.core.errors import UserError
from codi_tf.diffusion.process import (
    Denoise,
    Prediction,
    Schedule,
    Tensor,
    ddim_step,
    predict,
    q_sample,
    spaced_times,
    trailing_times,
)

CLEAN = (1.0, 0.0)  # alpha and sigma of the data themselves
SAMPLERS = ("ddim", "dpm", "dpm++", "stochastic", "consistency")  # of `make_grid`


class Step(NamedTuple):
    """z_s = alpha_s x_hat + sigma_s eps_hat + noise eps: an evaluation at (t, alpha_t, sigma_t) and the way on.

    `ratio` is h / (2 h_before), the step's length in lambda = log(alpha / sigma) next to that of the step before: the
    weight of the extrapolation in a second-order step; 0 makes a first-order step. `noise` is the weight of a fresh
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
    """A sampler: its steps, noisiest first, and what second-order steps extrapolate, "sample" (x) or "epsilon"."""

    steps: tuple[Step, ...]
    extrapolate: str = "sample"

    @property
    def draws(self) -> int:
        """How many of the steps are stochastic: the number of noise tensors that `trajectory` takes."""
        return sum(step.noise != 0.0 for step in self.steps)


class Halving(NamedTuple):
    """Two DDIM steps of a teacher, t -> mid -> s, that a student learns to take in one (Meng et al. 2023, 3.2)."""

    t: int
    alpha_t: float
    sigma_t: float
    mid: int
    alpha_mid: float
    sigma_mid: float
    alpha_s: float
    sigma_s: float


def make_grid(sampler: str, schedule: Schedule, num_steps: int) -> Grid:
    """A conditional few-step model's sampler: trailing times, num_steps evaluations, the last step clean.

    Args:
        sampler: "ddim" (`few_step_grid`), "dpm" (DPM-Solver-2), "dpm++" (DPM-Solver++(2M); `dpm_grid` for both),
            "stochastic" (`stochastic_grid`) or "consistency" (`consistency_grid`). The solvers' first and last steps
            are of first order, the last so that it can end clean: up to two evaluations they are "ddim". With one
            evaluation all samplers are.
        schedule: the one that the network was trained with, of T times.
        num_steps: number of network evaluations, 1 to T.

    Raises:
        UserError: for an unknown sampler, or num_steps that is not an int in 1..T.
    """
    if sampler == "ddim":
        return few_step_grid(schedule, num_steps)
    if sampler in ("dpm", "dpm++"):
        what = "epsilon" if sampler == "dpm" else "sample"
        return dpm_grid(schedule, num_steps, extrapolate=what, spacing="trailing", ends_clean=True)
    if sampler == "stochastic":
        return stochastic_grid(schedule, num_steps)
    if sampler == "consistency":
        return consistency_grid(schedule, num_steps)
    raise UserError(f"unknown sampler {sampler!r}; choose one of {', '.join(SAMPLERS)}")


def few_step_grid(schedule: Schedule, num_steps: int) -> Grid:
    """z_s = alpha_s x_hat + sigma_s eps_hat at trailing times, each s the next of them, the last clean (CoDi, Eq. 7).

    Raises:
        UserError: for num_steps that is not an int in 1..T.
    """
    times = trailing_times(num_steps, schedule.num_steps)
    return Grid(_steps(schedule, times, _levels_after(schedule, times)))


def stochastic_grid(schedule: Schedule, num_steps: int) -> Grid:
    """z_s = (alpha_s / alpha_k) (alpha_k x_hat + sigma_k eps_hat) + sigma_s|k eps (Meng et al. 2023, Eq. 4 to 7).

    A DDIM step of twice the length, t -> k = t - 2/N, and a step of noise back to s = t - 1/N, where
    sigma_s|k^2 = (1 - e^(lambda_s - lambda_k)) sigma_s^2 = sigma_s^2 - (alpha_s sigma_k / alpha_k)^2, with that paper's
    lambda = log(alpha^2 / sigma^2). The last step, from t = 1/N, is deterministic and ends clean. Trailing times.

    Raises:
        UserError: for num_steps that is not an int in 1..T.
    """
    times = trailing_times(num_steps, schedule.num_steps)
    levels = [*_levels_after(schedule, times), CLEAN]  # of s; one further on: of k
    steps = []
    for step, (alpha_k, sigma_k) in zip(_steps(schedule, times, levels[:-1]), levels[1:], strict=True):
        kept = step.alpha_s / alpha_k * sigma_k  # of eps_hat
        steps.append(step._replace(sigma_s=kept, noise=math.sqrt(step.sigma_s**2 - kept**2)))
    return Grid(tuple(steps))


def consistency_grid(schedule: Schedule, num_steps: int) -> Grid:
    """z_s = alpha_s x_hat + sigma_s eps: multistep consistency sampling (Song et al. 2023, algorithm 1).

    Trailing times, the last step clean. That paper's process keeps alpha = 1; this is the variance-preserving one.

    Raises:
        UserError: for num_steps that is not an int in 1..T.
    """
    steps = few_step_grid(schedule, num_steps).steps
    return Grid(tuple(step._replace(sigma_s=0.0, noise=step.sigma_s) for step in steps))


def halving(schedule: Schedule, num_steps: int, *, stochastic: bool = False) -> list[Halving]:
    """t -> t - 1/2N -> t - 1/N: where a teacher's two DDIM steps go for each of a student's N (Meng et al. 2023, 3.2).

    The student's times are the N trailing ones, mid lies between them in the 2N-step grid, the last pair ends clean.
    `diffusion.halving_target` is the x_hat with which the student's step ends where the teacher's two do.

    Args:
        schedule: the one that both were trained with, of T times.
        num_steps: N, 1 to T / 2.
        stochastic: for a student of `stochastic_grid`, whose DDIM steps are twice as long: t -> t - 1/N -> t - 2/N. The
            last, t = 1/N, has no room for that and goes by halves to the data, as in the deterministic case.

    Returns:
        N pairs of steps, the noisiest first.

    Raises:
        UserError: for num_steps that is not an int in 1..T/2.
    """
    if not isinstance(num_steps, int) or not 1 <= num_steps <= schedule.num_steps // 2:
        raise UserError(f"num_steps is {num_steps!r}; it must be a whole number from 1 to {schedule.num_steps // 2}")
    times = trailing_times(num_steps, schedule.num_steps)
    mids = trailing_times(2 * num_steps, schedule.num_steps)[1::2]
    ends = _levels_after(schedule, times)
    if stochastic:
        mids = (*times[1:], mids[-1])
        ends = [*ends[1:], CLEAN]
    return [
        Halving(t, *_level(schedule, t), mid, *_level(schedule, mid), *end)
        for t, mid, end in zip(times, mids, ends, strict=True)
    ]


def ddim_grid(
    schedule: Schedule, num_steps: int, *, spacing: str = "leading", offset: int = 0, ends_clean: bool = True
) -> Grid:
    """z_s = alpha_s x_hat + sigma_s eps_hat, s = t - T // N (Song et al. 2021, Eq. 12, eta = 0), as diffusers does it.

    s is the next time of the grid for leading times only; for the others diffusers' DDIMScheduler subtracts T // N all
    the same, and this follows it.

    Args:
        schedule: the one that the network was trained with, of T times.
        num_steps: N.
        spacing, offset: see `diffusion.spaced_times`.
        ends_clean: whether s < 0 means the data themselves, or the schedule's time 0 (`set_alpha_to_one`).

    Raises:
        UserError: for an unknown spacing, or more steps than there are times.
    """
    times = spaced_times(spacing, num_steps, schedule.num_steps, offset=offset)
    stride = schedule.num_steps // num_steps
    last = CLEAN if ends_clean else _level(schedule, 0)
    ends = [_level(schedule, t - stride) if t >= stride else last for t in times]
    return Grid(_steps(schedule, times, ends))


def dpm_grid(
    schedule: Schedule,
    num_steps: int,
    *,
    extrapolate: str,
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

    Args:
        schedule: the one that the network was trained with.
        num_steps: number of network evaluations.
        extrapolate: "sample" or "epsilon".
        spacing, offset: see `diffusion.spaced_times`.
        ends_clean: whether the last step, of first order, ends at the data themselves, or at the schedule's time 0.
        lower_order_final: whether the last of fewer than 15 steps is of first order.
        euler_at_final: whether the last step is of first order in any case.

    Raises:
        UserError: for an unknown spacing, or more steps than there are times.
    """
    times = spaced_times(spacing, num_steps, schedule.num_steps, offset=offset, without_last=True)
    ends = [*(_level(schedule, t) for t in times[1:]), CLEAN if ends_clean else _level(schedule, 0)]
    first_order_end = ends_clean or euler_at_final or (lower_order_final and num_steps < 15)
    steps = list(_steps(schedule, times, ends))
    for i in range(1, num_steps - first_order_end):
        steps[i] = steps[i]._replace(ratio=_length(steps[i]) / (2.0 * _length(steps[i - 1])))
    return Grid(tuple(steps), extrapolate)


def sdedit_grid(grid: Grid, strength: float) -> Grid:
    """The last int(N strength) of a grid's N steps: SDEdit (Meng et al. 2022) begins with them, from a noised image.

    The first of them is of first order, because no evaluation goes before it.

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


def guided(unconditional: Tensor, conditional: Tensor, scale: Tensor | float) -> Tensor:
    """e = e_u + scale (e_c - e_u): classifier-free guidance (Ho & Salimans 2022, Eq. 6).

    Takes a network's raw outputs as well as x_hat, eps_hat or v_hat, which depend on them linearly. `scale` is
    diffusers' guidance_scale, 1 for none; the papers (also Meng et al. 2023, section 2) write (1 + w) e_c - w e_u, so
    that their w is scale - 1. float32, the shape of the outputs.
    """
    unconditional, conditional = ops.cast(unconditional, "float32"), ops.cast(conditional, "float32")
    return unconditional + scale * (conditional - unconditional)


def trajectory(
    denoise: Denoise, z: Tensor, grid: Grid, noise: Iterable[Tensor] = ()
) -> Iterator[tuple[Prediction, Tensor]]:
    """z_s = alpha_s x_hat + sigma_s eps_hat + noise eps, step by step: yields (what the network said, z_s).

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
    """The latents at the end of a grid, float32 [B, ...]: `trajectory`, whose arguments these are, to its end."""
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
    """The predictions that `few_step` makes on its way, one for each of its num_steps evaluations, noisiest first."""
    return (prediction for prediction, _ in trajectory(denoise, z, few_step_grid(schedule, num_steps)))


def _extrapolated(now: Prediction, before: Prediction, z: Tensor, step: Step, what: str) -> Prediction:
    """D = f + ratio (f - f before), f the signal or the noise, and the prediction at z of which it is a part."""
    f, f_before = (now.x_hat, before.x_hat) if what == "sample" else (now.eps_hat, before.eps_hat)
    return predict(f + step.ratio * (f - f_before), z, step.alpha_t, step.sigma_t, what)


def _steps(schedule: Schedule, times: Iterable[int], ends: Iterable[tuple[float, float]]) -> tuple[Step, ...]:
    return tuple(Step(t, *_level(schedule, t), *end) for t, end in zip(times, ends, strict=True))


def _levels_after(schedule: Schedule, times: Sequence[int]) -> list[tuple[float, float]]:
    """The noise levels where the steps from these times end: at the next time, the last at the data."""
    return [*(_level(schedule, t) for t in times[1:]), CLEAN]


def _level(schedule: Schedule, t: int) -> tuple[float, float]:
    return float(schedule.alpha[t]), float(schedule.sigma[t])


def _length(step: Step) -> float:
    """h = lambda_s - lambda_t, lambda = log(alpha / sigma)."""
    return math.log(step.alpha_s / step.sigma_s) - math.log(step.alpha_t / step.sigma_t)


def _last(items: Iterable):
    *_, last = items
    return last
