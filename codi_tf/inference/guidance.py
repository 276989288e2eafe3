"""Checks of a guidance: whether a model was trained for it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real

from codi_tf.core.errors import UserError


def check_guidance(guidance: object, trained: Sequence[float] | None, *, can_be_guided: bool) -> float | None:
    """A guidance by the condition as the generator takes it; None stays None, the model's default.

    Args:
        guidance: 1 for none.
        trained: [lowest, highest] of a network that takes the guidance as an input; None for others.
        can_be_guided: whether a guidance other than 1 has an effect that the model was trained for.

    Raises:
        UserError: it is no number, or the model was not trained for it.
    """
    if guidance is None:
        return None
    if not isinstance(guidance, Real) or not math.isfinite(guidance):
        raise UserError(f"guidance is {guidance!r}: it must be a number, 1 for none")
    if trained is not None:
        low, high = trained
        if not low <= float(guidance) <= high:
            raise UserError(f"guidance is {guidance}: this model was trained for {low} to {high}")
    elif guidance != 1.0 and not can_be_guided:
        raise UserError(f"guidance is {guidance}: this model was trained without; use 1 or leave it out")
    return float(guidance)


def check_text_guidance(guidance: object, *, trained: bool, prompted: bool, as_input: bool = False) -> float | None:
    """A guidance by the prompt as the generator takes it, None for none.

    Args:
        guidance: 1 for none; None: the default.
        trained: whether prompts were dropped in training.
        prompted: whether there is a prompt.
        as_input: whether the guidance that the network takes as an input is that by the prompt.

    Raises:
        UserError: it is no number, or it has no effect.
    """
    if as_input and guidance not in (None, 1.0):
        raise UserError(
            f"text_guidance is {guidance}: this model takes the prompt's guidance as an input; use guidance"
        )
    if guidance is None:
        return 1.0 if trained and prompted else None
    if not isinstance(guidance, Real) or not math.isfinite(guidance):
        raise UserError(f"text_guidance is {guidance!r}: it must be a number, 1 for none")
    if guidance != 1.0 and not prompted:
        raise UserError(f"text_guidance is {guidance}: there is no prompt; give one or use 1")
    if guidance != 1.0 and not trained:
        raise UserError(f"text_guidance is {guidance}: this model was trained without (method.drop_prompt); use 1")
    return float(guidance) if trained and prompted else None
