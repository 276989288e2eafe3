"""The steps with which a student learns to take one step for a teacher's two (progressive and guided distillation)."""

from __future__ import annotations

from typing import NamedTuple

from codi_tf.core.errors import UserError
from codi_tf.diffusion.grid import CLEAN, level, levels_after
from codi_tf.diffusion.process import Schedule, trailing_times
from codi_tf.diffusion.samplers.ddim import reverse_grid


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


def halving_steps(
    schedule: Schedule, num_steps: int, *, stochastic: bool = False, reverse: bool = False
) -> list[Halving]:
    """t -> t - 1/2N -> t - 1/N: where a teacher's two DDIM steps go for each of a student's N (Meng et al. 2023, 3.2).

    The student's times are the N trailing ones, mid lies between them in the 2N-step grid, the last pair ends clean.
    `process.halving_target` is the x_hat with which the student's step ends where the teacher's two do.

    Args:
        schedule: the one that both were trained with, of T times.
        num_steps: N, 1 to T / 2.
        stochastic: for a student of the stochastic sampler, whose DDIM steps are twice as long: t -> t - 1/N ->
            t - 2/N. The last, t = 1/N, has no room for that and is halved down to the data, as in the deterministic
            case.
        reverse: for a student of the reverse sampler, from the data to noise (Meng et al., section 4.3): the steps of
            `samplers.ddim.reverse_grid`.

    Returns:
        N pairs of steps, in the order of sampling.

    Raises:
        UserError: for num_steps that is not an int in 1..T/2.
    """
    if not isinstance(num_steps, int) or not 1 <= num_steps <= schedule.num_steps // 2:
        raise UserError(f"num_steps is {num_steps!r}; it must be a whole number from 1 to {schedule.num_steps // 2}")
    if reverse:
        steps, halves = reverse_grid(schedule, num_steps).steps, reverse_grid(schedule, 2 * num_steps).steps[1::2]
        return [Halving(*one[:3], *half[:3], *one[3:5]) for one, half in zip(steps, halves, strict=True)]
    times = trailing_times(num_steps, schedule.num_steps)
    mids = trailing_times(2 * num_steps, schedule.num_steps)[1::2]
    ends = levels_after(schedule, times)
    if stochastic:
        mids = (*times[1:], mids[-1])
        ends = [*ends[1:], CLEAN]
    return [
        Halving(t, *level(schedule, t), mid, *level(schedule, mid), *end)
        for t, mid, end in zip(times, mids, ends, strict=True)
    ]
