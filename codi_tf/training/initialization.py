"""What a training starts from: a base, the adapter of a bundle, and whether they are fit for the method."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from codi_tf import config
from codi_tf.adapters import ADAPTERS
from codi_tf.adapters.adapted import Adapter
from codi_tf.checkpoints.base import Base, check_decoder, make_network, make_unet
from codi_tf.checkpoints.stable_diffusion import load_stable_diffusion, with_text
from codi_tf.core.errors import UserError
from codi_tf.model import CoDi, is_bundle, load
from codi_tf.models.tiny_decoder import TinyDecoder
from codi_tf.tasks import Task


def adapted(experiment: config.Experiment, task: Task) -> tuple[Base, str | Adapter]:
    """The base of an experiment and its adapter: of the bundle in `base`, of `adaptation.start`, or a new one."""
    adaptation, memory = experiment.adaptation, experiment.memory
    kind = ADAPTERS[adaptation.adapter]
    if adaptation.start is not None and not kind.starts_from_folder:
        raise UserError(
            f"adaptation.start is {adaptation.start!r}: adapter {adaptation.adapter} starts from no folder; remove it"
        )
    formats = {"compute": memory.compute, "weights": memory.frozen_weights}
    if is_bundle(experiment.base):
        if experiment.text is not None:
            raise UserError(f"text is {experiment.text}: a bundle has its own text encoder, or none; remove it")
        bundle = load(experiment.base, **formats)
        theirs = {"task": bundle.task, "adaptation.adapter": bundle.adaptation.adapter, "adaptation.start": None}
        ours = {"task": task, "adaptation.adapter": adaptation.adapter, "adaptation.start": adaptation.start}
        for key, value in theirs.items():
            if ours[key] != value:
                raise UserError(f"{key} is {ours[key]}, in the bundle {experiment.base} it is {value}: use the same")
        _check_teacher(experiment, bundle)
        return bundle.base, bundle.student.adapter
    if isinstance(experiment.method, config.Consistency | config.Guided):
        raise UserError(f"base is {experiment.base}: method {experiment.method_name} starts from a fine-tuned bundle")
    base = load_stable_diffusion(experiment.base, **formats)
    if experiment.text is not None:
        base = with_text(base, experiment.text, **formats)
    if adaptation.start is None:
        return base, adaptation.adapter
    return base, kind.read(Path(adaptation.start), base, task.condition_channels)


def _check_teacher(experiment: config.Experiment, bundle: CoDi) -> None:
    """Whether a bundle is what a method goes on from."""
    method, path = experiment.method, experiment.base
    if not experiment.adaptation.pretrained:
        raise UserError(f"adaptation.pretrained is false, but base is {path}, a trained bundle: name an untrained base")
    if not isinstance(method, config.Consistency | config.Guided):
        return
    guided = isinstance(bundle.settings, config.Guided)
    goes_on = guided and isinstance(method, config.Guided) and method.stage == 2
    if not goes_on and not isinstance(bundle.settings, config.Finetune):
        raise UserError(
            f"base is {path}: {experiment.method_name} starts from a fine-tuned bundle, this one is another"
        )
    if isinstance(method, config.Guided):
        _check_guidance(method, path, bundle)


def _check_guidance(method: config.Guided, path: str, bundle: CoDi) -> None:
    """Whether a bundle knows the guidance that is to be distilled."""
    low, high = method.guidance
    if isinstance(bundle.settings, config.Guided):
        known, remedy = bundle.settings.guidance, "stay within"
    elif method.stage == 2:
        known, remedy = [1.0, 1.0], "distil it with stage 1 first, or use [1.0, 1.0]"
    else:
        known = [1.0, float("inf")] if bundle.can_be_guided else [1.0, 1.0]
        remedy = "fine-tune it with method.drop_condition=0.1 first, or use [1.0, 1.0]"
    if not known[0] <= low <= high <= known[1]:
        raise UserError(f"method.guidance is {method.guidance}, {path} knows {known}: {remedy}")


def alone(path: str) -> Base:
    """A base with a UNet that is to be trained without an adapter."""
    if is_bundle(path):
        raise UserError(f"base is {path}: a bundle's UNet is nothing without its adapter; set task, or name its base")
    base = load_stable_diffusion(path)
    if base.unet is None:
        raise UserError(f"base is {path}: it has no UNet; name another one, or set method.network")
    return base


def to_decode(path: str, method: config.Decoder) -> tuple[Base, TinyDecoder]:
    """The autoencoder that a small decoder is trained beside, as a base without a UNet, and the new decoder."""
    decoder = make_network(TinyDecoder, method.network, "decoder")
    base = dataclasses.replace(load_stable_diffusion(path), unet=None, text_encoder=None, tokenizer=None)
    try:
        check_decoder(decoder, base.vae)
    except UserError as error:
        raise UserError(f"method.network: {error}") from None
    return base, decoder


def to_pretrain(path: str, method: config.Pretrain) -> Base:
    """The base of a pre-training: with a new UNet, or its own one in what may be another parametrisation."""
    if method.network is None:
        base = alone(path)
        return dataclasses.replace(base, scheduler={**base.scheduler, **method.scheduler}, path=None)
    base, unet = load_stable_diffusion(path), make_unet(method.network)
    if base.text_encoder is not None and base.text_encoder.hidden_size != unet.cross_attention_dim:
        raise UserError(
            f"method.network.cross_attention_dim is {unet.cross_attention_dim}: the base's text encoder gives "
            f"{base.text_encoder.hidden_size}; use that"
        )
    return dataclasses.replace(base, unet=unet, scheduler={**base.scheduler, **method.scheduler}, path=None)
