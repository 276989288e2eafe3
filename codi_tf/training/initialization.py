"""The start of a training with a task: a base, and a new adapter or that of a bundle or a folder."""

from __future__ import annotations

from codi_tf import config
from codi_tf.adapters import ADAPTERS
from codi_tf.adapters.adapted import Adapter
from codi_tf.checkpoints.base import Base
from codi_tf.checkpoints.stable_diffusion import load_stable_diffusion, with_text
from codi_tf.core.errors import UserError
from codi_tf.core.paths import as_path
from codi_tf.io.bundle_files import is_bundle, model_at
from codi_tf.methods import METHODS
from codi_tf.model import CoDi, load
from codi_tf.models.low_rank import LoraWeights
from codi_tf.tasks import Task


def load_base_and_adapter(
    experiment: config.Experiment, task: Task
) -> tuple[Base, str | Adapter, config.Lora | LoraWeights | None]:
    """The base of an experiment and its adapter: of the bundle in `base`, of `adaptation.start`, or a new one.

    Returns:
        The base; the adapter, or the name of a new one; the LoRA, or the options of a new one, or None.

    Raises:
        UserError: the base, or the bundle, does not fit the experiment.
    """
    adaptation, memory = experiment.adaptation, experiment.memory
    kind = ADAPTERS[adaptation.adapter]
    if adaptation.start is not None and not kind.starts_from_folder:
        raise UserError(
            f"adaptation.start is {adaptation.start!r}: adapter {adaptation.adapter} starts from no folder; remove it"
        )
    assert experiment.base is not None
    compute, weights = memory.compute, memory.frozen_weights
    path = str(model_at(experiment.base))
    if is_bundle(path):
        if experiment.text is not None:
            raise UserError(f"text is {experiment.text}: a bundle has its own text encoder, or none; remove it")
        bundle = load(path, compute=compute, weights=weights)
        _check_bundle(experiment, bundle, task)
        return bundle.base, bundle.student.adapter, bundle.student.lora or adaptation.lora
    if experiment.method.starts_from:
        raise UserError(f"base is {experiment.base}: {_wanted(experiment)}")
    base = load_stable_diffusion(path, compute=compute, weights=weights)
    if experiment.text is not None:
        base = with_text(base, experiment.text, compute=compute, weights=weights)
    if adaptation.start is None:
        return base, adaptation.adapter, adaptation.lora
    return base, kind.read(as_path(adaptation.start), base, task.condition_channels), adaptation.lora


def _check_bundle(experiment: config.Experiment, bundle: CoDi, task: Task) -> None:
    """Raises UserError for a bundle that the experiment cannot start from."""
    method, adaptation, path = experiment.method, experiment.adaptation, experiment.base
    assert path is not None
    for key, ours, theirs in (
        ("task", task, bundle.task),
        ("adaptation.adapter", adaptation.adapter, bundle.adaptation.adapter),
        ("adaptation.start", adaptation.start, None),
        ("adaptation.lora", adaptation.lora, bundle.adaptation.lora or adaptation.lora),
    ):
        if ours != theirs:
            raise UserError(f"{key} is {ours}, in the bundle {path} it is {theirs}: use the same")
    if not adaptation.pretrained:
        raise UserError(f"adaptation.pretrained is false, but base is {path}, a trained bundle: name an untrained base")
    trained_by = METHODS.name_of(type(bundle.settings))
    if method.starts_from and trained_by not in method.starts_from:
        raise UserError(f"base is {path}: {_wanted(experiment)}, this one is of method {trained_by}")
    method.check_bundle(bundle, path)


def _wanted(experiment: config.Experiment) -> str:
    methods = " or ".join(experiment.method.starts_from)
    return f"method {experiment.method_name} starts from a bundle of method {methods}"
