"""RePaint: inpainting with an unconditional model, without training (Lugmayr et al. 2022, algorithm 1).

After every step of a sampler the known part of z is that of the image, noised. So that the filled part comes to fit it,
the way goes back up and down again several times.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from keras import ops

from codi_tf.core.arguments import whole_number
from codi_tf.core.errors import UserError
from codi_tf.diffusion.grid import Grid, Step
from codi_tf.diffusion.process import Denoise, Tensor, ddim_step

MAX_RESAMPLINGS = 1000


class Rise(NamedTuple):
    """z_t = kept z_s + noise eps: the forward process from the end of a step back to its start (line 10)."""

    kept: float
    noise: float


class Plan(NamedTuple):
    """The moves of RePaint, in order: steps of a sampler, and rises that undo them."""

    moves: tuple[Step | Rise, ...]

    @property
    def evaluations(self) -> int:
        """The number of network evaluations."""
        return sum(isinstance(move, Step) for move in self.moves)

    @property
    def draws(self) -> int:
        """The number of noise tensors that `repaint` takes."""
        return sum(isinstance(move, Rise) or end_level(move) > 0.0 for move in self.moves)


def repaint_plan(grid: Grid, *, jump_length: int = 10, resamplings: int = 10) -> Plan:
    """The steps of a grid, where each `jump_length` of them, except the first, are taken `resamplings` times.

    The paper's schedule of jumps (appendix, "get_schedule_jump"; its defaults are N = 250, j = 10, r = 10): wherever 0,
    j, 2 j, ... of the N steps are left, below N - j, the last j are undone and taken again r - 1 times.

    Args:
        grid: steps of first order, as "ddpm" (the paper's) or "ddim" (diffusers' default).
        jump_length: j, from 1 to N - 1.
        resamplings: r; with 1 there are no jumps, and any jump_length will do.

    Raises:
        UserError: a number out of its range, or steps of second order.
    """
    count = len(grid.steps)
    whole_number("resamplings", resamplings, 1, MAX_RESAMPLINGS)
    whole_number("jump_length", jump_length, 1, 2**31 - 1)
    if resamplings > 1 and jump_length >= count:
        raise UserError(
            f"jump_length is {jump_length} and steps {count}: a jump must be shorter than all steps; lower it, or set "
            "resamplings to 1"
        )
    if any(step.ratio for step in grid.steps):
        raise UserError("this sampler extrapolates earlier steps, which jumps undo: use ddpm or ddim")
    jumps = dict.fromkeys(range(0, count - jump_length, jump_length), resamplings - 1)  # steps left -> jumps to make
    moves, left = [], count
    while left:
        moves.append(grid.steps[count - left])
        left -= 1
        if jumps.get(left, 0):
            jumps[left] -= 1
            for _ in range(jump_length):
                left += 1
                moves.append(_undone(grid.steps[count - left]))
    return Plan(tuple(moves))


def repaint(
    denoise: Denoise, z: Tensor, plan: Plan, x: Tensor, unknown: Tensor, noise: Iterable[Tensor]
) -> Iterator[Tensor]:
    """z_s = unknown (a step of the sampler) + (1 - unknown) (alpha_s x + sigma_s eps): yields z_s after each step.

    Line 5 of algorithm 1 prints the variance 1 - alpha_s^2 where its root is meant (Eq. 8a). A step and the known part
    that belongs to it take the same eps, as in diffusers: each place has only one of them.

    Args:
        denoise: (z_t, t int32 []) -> Prediction; evaluated once a step.
        z: float32 [B, ...], at the noise level of the grid's first time.
        plan: from `repaint_plan`.
        x: float32 [B, ...], what is known; any values elsewhere.
        unknown: float32 [B or 1, ..., 1 or C], 1 where x is unknown, else 0.
        noise: eps ~ N(0, I), `plan.draws` tensors of the shape of z, in the order of the moves that take them.

    Raises:
        ValueError: when a move finds no noise left.
    """
    draws = iter(noise)

    def draw() -> Tensor:
        eps = next(draws, None)
        if eps is None:
            raise ValueError(f"noise has fewer tensors than the {plan.draws} that the plan draws")
        return ops.cast(eps, "float32")

    x, unknown = ops.cast(x, "float32"), ops.cast(unknown, "float32")
    for move in plan.moves:
        if isinstance(move, Rise):
            z = move.kept * z + move.noise * draw()
            continue
        filled = ddim_step(denoise(z, ops.convert_to_tensor(move.t, "int32")), move.alpha_s, move.sigma_s)
        known, level = move.alpha_s * x, end_level(move)
        if level > 0.0:
            eps = draw()
            filled, known = filled + move.noise * eps, known + level * eps
        z = unknown * filled + (1.0 - unknown) * known
        yield z


def end_level(step: Step) -> float:
    """sqrt(sigma_s^2 + noise^2): the noise level at which a step ends; 0 for the data."""
    return math.hypot(step.sigma_s, step.noise)


def _undone(step: Step) -> Rise:
    """From the end of a step to its start: kept = alpha_t / alpha_s, noise^2 = sigma_t^2 - kept^2 sigma_s^2."""
    kept = step.alpha_t / step.alpha_s
    return Rise(kept, math.sqrt(max(step.sigma_t**2 - (kept * end_level(step)) ** 2, 0.0)))
