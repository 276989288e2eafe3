"""The entries of a comparison: every bundle with every sampler."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from codi_tf.core.errors import UserError
from codi_tf.evaluation.grids import name_of_steps
from codi_tf.evaluation.samplers import BATCH

if TYPE_CHECKING:
    from codi_tf.model import CoDi


@dataclass(frozen=True)
class Entry:
    """A bundle with a sampler: one curve, one row of images and one process image of a report.

    Attributes:
        label: its name.
        bundle: the label of the bundle.
        model: the bundle's.
        options: of `model_sampler`: sampler, guidance, text_guidance, prompt.
        cost: network evaluations of a step.
    """

    label: str
    bundle: str
    model: CoDi
    options: dict
    cost: int

    def row(self, steps: int) -> str:
        """The name of the row of a number of steps."""
        return f"{self.label}, {name_of_steps(steps)}"

    def options_of_first(self) -> dict:
        """The options for the first BATCH images."""
        prompt = self.options["prompt"]
        return self.options | {"prompt": prompt[:BATCH] if isinstance(prompt, list) else prompt}

    def options_of(self, place: int) -> dict:
        """The options for one image."""
        prompt = self.options["prompt"]
        return self.options | {"prompt": prompt[place] if isinstance(prompt, list) else prompt}


def make_entries(
    models: Mapping[str, CoDi],
    samplers: Sequence[str] | None,
    *,
    prompts: str | list[str] | None,
    guidance: float | None = None,
    text_guidance: float | None = None,
) -> list[Entry]:
    """Combine every bundle with every sampler. Guidance is used for the bundles that were trained with it.

    Args:
        models: label of a bundle -> model.
        samplers: names; None: of each bundle the one that it is trained for.
        prompts: one text for all images, or one for each; models without a text encoder get none.
        guidance, text_guidance: weights, see `CoDi.generate`.

    Raises:
        UserError: guidance is given, and no bundle was trained with it; text_guidance without a prompt.
    """
    from codi_tf.inference.generation import guidance_weights

    guided = [label for label, model in models.items() if model.can_be_guided]
    guided_by_text = [label for label, model in models.items() if model.settings.drop_prompt > 0.0]
    for flag, value, taking in (
        ("--text-guidance", text_guidance, guided_by_text),
        ("--guidance", guidance, guided),
    ):
        if value is not None and not taking:
            raise UserError(f"{flag} is {value:g}: no bundle was trained to take one; leave it out")
    entries = []
    for bundle, model in models.items():
        weight = guidance if bundle in guided else None
        prompt = None if model.base.text_encoder is None else prompts
        by_text = text_guidance if bundle in guided_by_text else None
        by_text = model.check_text_guidance(by_text, prompted=prompt is not None)
        by_condition = 1.0 if weight is None or model.network.takes_guidance else weight
        cost = sum(share != 0.0 for share in guidance_weights(by_condition, by_text))
        own = (model.sampler,) if samplers is None else samplers
        for sampler in own:
            label = bundle if len(own) == 1 else f"{bundle}, {sampler}"
            chosen = {"sampler": sampler, "guidance": weight, "text_guidance": by_text, "prompt": prompt}
            entries.append(Entry(label, bundle, model, chosen, cost))
    return entries
