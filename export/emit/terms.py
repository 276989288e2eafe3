"""The terms of a guided step: what each evaluation of the network sees, and its weight in the step."""

from __future__ import annotations

from typing import Any, NamedTuple

from codi_tf.core.errors import UserError
from codi_tf.inference.generation import guidance_weights


class View(NamedTuple):
    """What an evaluation sees: the condition or none, which is zeros; the program's prompt or the empty one."""

    shown: bool = True
    prompted: bool = True


class Term(NamedTuple):
    """An evaluation of the network and its weight in the step; the weights of a step's terms add up to 1."""

    weight: float
    view: View


def terms_of(model: Any, guidance: float, text_guidance: float | None) -> tuple[Term, ...]:
    """The terms of every step, one to three: those of `inference.generation.Generator.denoiser`.

    Args:
        model: what is exported.
        guidance: by the condition; an input of networks that take it, and hence no reason for a second evaluation.
        text_guidance: by the prompt; None for a model that was trained without, or has no prompt.
    """
    if model.task is None or model.network.takes_guidance:
        guidance = 1.0
    views = View(), View(prompted=False), View(shown=False, prompted=text_guidance is None)
    weights = guidance_weights(guidance, text_guidance)
    return tuple(Term(weight, view) for weight, view in zip(weights, views, strict=True) if weight)


def views_of(terms: tuple[Term, ...], *, prompt_matters: bool) -> list[View]:
    """The views of terms for which condition features are computed, each once.

    `prompt_matters`: whether the features depend on the prompt (`Adapter.condition_takes_prompt`).
    """
    return list(dict.fromkeys(seen(term.view, prompt_matters=prompt_matters) for term in terms))


def seen(view: View, *, prompt_matters: bool) -> View:
    """A view as condition features distinguish it."""
    return view if prompt_matters else view._replace(prompted=True)


def guidance_of(model: Any, guidance: float | None) -> float:
    """The guidance of a program, 1 for none; None: the model's default. Raises UserError if it was not trained."""
    if model.task is None:
        return model.check_guidance(guidance)
    taken = model.check_guidance(guidance)
    return model.lowest_guidance if taken is None else taken


def text_guidance_of(model: Any, text_guidance: float | None, *, prompted: bool) -> float | None:
    """The guidance by the prompt of a program, None for none. Raises UserError if it has no effect."""
    if model.task is None:
        if text_guidance is not None:
            raise UserError(f"text_guidance is {text_guidance:g}: this model has no condition; use --guidance")
        return None
    return model.check_text_guidance(text_guidance, prompted=prompted)
