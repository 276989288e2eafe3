"""The phases of progressive distillation: their numbers of steps and their updates. Needs no TensorFlow."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from codi_tf.core.errors import UserError


def planned_steps(steps: list | dict) -> list[int]:
    """The student's numbers of steps, phase by phase: as listed, or planned.

    Args:
        steps: a list, or {"from": M, "to": N}: from a teacher of M steps, which is halved again and again, to N. The
            first student has M / 2 (Meng et al. 2023, section 4.2: 512).

    Raises:
        UserError: a list whose numbers are not each half of the one before; a plan with other keys, or an M that is not
            N times a power of 2.
    """
    if isinstance(steps, dict):
        return _halved(steps)
    whole = all(_is_count(n) for n in steps)
    if not steps or not whole or any(a != 2 * b for a, b in itertools.pairwise(steps)):
        raise UserError(f"method.steps is {steps}: each must be half of the one before, as [16, 8, 4]")
    return steps


def _halved(plan: dict) -> list[int]:
    if set(plan) != {"from", "to"} or not all(map(_is_count, plan.values())):
        raise UserError(f"method.steps is {plan}: give the teacher's and the last student's, as {{from: 512, to: 4}}")
    steps, first, last = [], plan["from"], plan["to"]
    while first > last and first % 2 == 0:
        first //= 2
        steps.append(first)
    if not steps or first != last:
        raise UserError(f"method.steps is {plan}: from must be to, times 2 for each phase, as {{from: 512, to: 4}}")
    return steps


def phase_updates(updates: int | list, count: int) -> list[int]:
    """The updates of each of `count` phases.

    Args:
        updates: of every phase; or a list for the last phases in their order, whose first number is also that of all
            earlier ones: [2000, 20000] is 20000 for the last phase and 2000 for each before.

    Raises:
        UserError: a number below 1, an empty list, or one of more than `count` numbers.
    """
    listed = updates if isinstance(updates, list) else [updates]
    if not listed or not all(_is_count(number) for number in listed):
        raise UserError(f"method.updates is {updates}: it must be the optimizer steps of a phase, or a list of them")
    if len(listed) > count:
        raise UserError(f"method.updates is {updates}: there are only {count} phases; leave out the first numbers")
    return [listed[0]] * (count - len(listed)) + listed


def phase_lengths(updates: Sequence[int], steps: int) -> tuple[int, ...]:
    """The updates of each phase in a run of so many steps: the last one takes the rest of them."""
    *others, _ = updates
    return (*others, steps - sum(others))


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
