"""Experiments as data: frozen dataclasses, read strictly from YAML. Imports no TensorFlow."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import math
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from codi_tf.errors import UserError


def _one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UserError(f"{name} is {value!r}: use one of {', '.join(choices)}")


@dataclass(frozen=True)
class Autoencoder:
    """Train an autoencoder: mean |image - reconstruction| + kl_weight * KL(posterior || N(0, I)).

    Attributes:
        network: the arguments of `models.autoencoder.AutoencoderKL` (the keys of a diffusers vae/config.json).
    """

    network: dict
    kl_weight: float = 1e-6


@dataclass(frozen=True)
class Pretrain:
    """Train an unconditional latent diffusion model on the latents of the autoencoder in `base`.

    Attributes:
        network: the arguments of `models.unet.UNet` (the keys of a diffusers unet/config.json).
        scheduler: beta_schedule and prediction_type, as in a diffusers scheduler_config.json.
        space: the space of the squared error.
    """

    network: dict
    scheduler: dict
    space: str = "velocity"

    def __post_init__(self):
        _one_of("method.space", self.space, ("noise", "signal", "velocity"))
        if "beta_schedule" not in self.scheduler:
            raise UserError("method.scheduler.beta_schedule is not set, for example squaredcos_cap_v2")


@dataclass(frozen=True)
class Finetune:
    """Conditional diffusion fine-tuning of the adapted network: the undistilled model ("LDM" in the paper's tables)."""

    space: str = "velocity"

    def __post_init__(self):
        _one_of("method.space", self.space, ("noise", "signal", "velocity"))


@dataclass(frozen=True)
class ConditionalDistillation:
    """CoDi's loss, Eq. 15, with its switches; the first value of each is the default.

    Attributes:
        z_s: own (Eq. 14), predicted (Algorithm 1), frozen (the ODE of the network before training).
        consistency: the space of the consistency term: noise, signal, velocity, none.
        guidance: the distance of the guidance term: latent, encoded, pixel, perceptual (Fig. 2), none.
        guidance_weight: the weight of the guidance term, at least 0.
        t: shared (one t for the whole global batch, Fig. 7) or per_sample.
        delta: t - s in training times; s = max(t - delta, 0).
        boundary: boundary scalings on the predicted noise and signal (Eq. 11, 17, 18).
        features: folder of the feature network of the perceptual distance.
    """

    z_s: str = "own"
    consistency: str = "noise"
    guidance: str = "latent"
    guidance_weight: float = 1.0
    t: str = "shared"
    delta: int = 1
    boundary: bool = False
    features: str | None = None

    def __post_init__(self):
        _one_of("method.z_s", self.z_s, ("own", "predicted", "frozen"))
        _one_of("method.consistency", self.consistency, ("noise", "signal", "velocity", "none"))
        _one_of("method.guidance", self.guidance, ("latent", "encoded", "pixel", "perceptual", "none"))
        _one_of("method.t", self.t, ("shared", "per_sample"))
        if self.delta < 1:
            raise UserError(f"method.delta is {self.delta}: it must be at least 1 training time")
        if self.guidance_weight < 0:
            raise UserError(f"method.guidance_weight is {self.guidance_weight}: it must be at least 0")
        if self.consistency == "none" and self.guidance == "none":
            raise UserError("method.consistency and method.guidance are both 'none': nothing would be trained")
        if self.guidance == "perceptual" and self.features is None:
            raise UserError("method.guidance is 'perceptual': set method.features to the folder of a feature network")


METHODS = {
    "autoencoder": Autoencoder,
    "pretrain": Pretrain,
    "finetune": Finetune,
    "codi": ConditionalDistillation,
}


@dataclass(frozen=True)
class Data:
    """Where images come from.

    Attributes:
        source: "photos" (the photos that scikit-image and scikit-learn carry) or a folder of images.
        image_size: height and width of the training crops, in pixels.
        augment: random horizontal flips.
        recolour: random permutations and gammas of the colour channels: for sources of few photos.
        encode_once: encode this many examples before the first step and train on their latents; 0 encodes every batch
            anew.
        seed: seed of crops and degradations.
    """

    source: str = "photos"
    image_size: int = 64
    augment: bool = True
    recolour: bool = False
    encode_once: int = 0
    seed: int = 0

    def __post_init__(self):
        if self.image_size < 8 or self.image_size % 8:
            raise UserError(f"data.image_size is {self.image_size}: it must be a positive multiple of 8")
        if self.encode_once < 0:
            raise UserError(f"data.encode_once is {self.encode_once}: it must be 0 or the number of examples")


@dataclass(frozen=True)
class Adaptation:
    """How a base becomes conditional.

    Attributes:
        adapter: "mu" (Eq. 12) or "controlnet".
        train: "all" (CoDi) or "adapter" (PE-CoDi: the base's weights stay as they are).
        mu_rate: the learning rate of mu, as a multiple of the others'.
        start: folder of the diffusers ControlNetModel that a controlnet adapter starts from; None: a copy of the
            base's encoder.
    """

    adapter: str = "mu"
    train: str = "all"
    mu_rate: float = 30.0
    start: str | None = None

    def __post_init__(self):
        _one_of("adaptation.adapter", self.adapter, ("mu", "controlnet"))
        _one_of("adaptation.train", self.train, ("all", "adapter"))
        if self.start is not None and self.adapter != "controlnet":
            raise UserError(
                f"adaptation.start is {self.start!r}: only adapter controlnet starts from a folder; remove it"
            )
        if self.mu_rate <= 0:
            raise UserError(f"adaptation.mu_rate is {self.mu_rate}: it must be positive")


@dataclass(frozen=True)
class Memory:
    """Number formats, and what is kept for the backward pass. Only what is trained needs float32 weights.

    Attributes:
        compute: the format of activations: float32, bfloat16 or float16.
        frozen_weights: the format that the base's weights are kept in, where the adapter alone is trained.
        recompute: gradient checkpointing: the insides of blocks are computed again by the backward pass.
    """

    compute: str = "float32"
    frozen_weights: str = "float32"
    recompute: bool = False

    def __post_init__(self):
        for name in ("compute", "frozen_weights"):
            _one_of(f"memory.{name}", getattr(self, name), ("float32", "bfloat16", "float16"))


@dataclass(frozen=True)
class Train:
    """The optimisation: AdamW with a linear warm-up, then constant or cosine decay to 0.

    Attributes:
        steps: optimizer steps of the whole run.
        batch_size: examples in the global batch.
        learning_rate: the peak.
        decay: "cosine" or "constant".
        clip_norm: limit of the gradient's global norm.
        ema_decay: gamma of the moving average; for CoDi it is also the target network.
        seed: seed of initialisation and of all draws of the loss.
        log_every, sample_every, save_every: in steps; 0 turns pictures or checkpoints off (a last one is always made).
        keep: checkpoints kept.
    """

    steps: int
    batch_size: int = 32
    learning_rate: float = 3e-4
    warmup_steps: int = 100
    decay: str = "cosine"
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    ema_decay: float = 0.999
    seed: int = 0
    log_every: int = 50
    sample_every: int = 0
    save_every: int = 500
    keep: int = 2

    def __post_init__(self):
        _one_of("train.decay", self.decay, ("cosine", "constant"))
        for name in ("steps", "batch_size", "log_every", "keep"):
            if getattr(self, name) < 1:
                raise UserError(f"train.{name} is {getattr(self, name)}: it must be at least 1")
        for name in ("warmup_steps", "sample_every", "save_every", "weight_decay"):
            if getattr(self, name) < 0:
                raise UserError(f"train.{name} is {getattr(self, name)}: it must not be negative")
        for name in ("learning_rate", "clip_norm"):
            if getattr(self, name) <= 0:
                raise UserError(f"train.{name} is {getattr(self, name)}: it must be positive")
        if not 0 <= self.seed < 2**31:
            raise UserError(f"train.seed is {self.seed}: it must be from 0 to 2**31 - 1")
        if not 0 <= self.ema_decay < 1:
            raise UserError(f"train.ema_decay is {self.ema_decay}: it must be in [0, 1)")


@dataclass(frozen=True)
class Experiment:
    """A whole training run.

    Attributes:
        method: what is trained and how; in YAML a mapping with `name` (a key of METHODS) and the method's own options.
        base: folder of the model to start from (a bundle, or Stable Diffusion in the diffusers layout).
        task: the condition; in YAML a mapping with `name` and the task's own options. None: no condition.
    """

    method: Autoencoder | Pretrain | Finetune | ConditionalDistillation
    train: Train
    data: Data = field(default_factory=Data)
    adaptation: Adaptation = field(default_factory=Adaptation)
    memory: Memory = field(default_factory=Memory)
    base: str | None = None
    task: dict | None = None

    def __post_init__(self):
        if self.base is None and not isinstance(self.method, Autoencoder):
            raise UserError("base is not set: name the folder of the model to start from")
        conditional = isinstance(self.method, (Finetune, ConditionalDistillation))
        if conditional and self.task is None:
            raise UserError("task is not set: name one, for example {name: super_resolution}")
        if not conditional and self.task is not None:
            raise UserError("task is set, but this method trains without a condition: remove task")
        if not conditional and self.memory != Memory():
            raise UserError("memory is set, but this method trains all there is, in float32: remove memory")
        if self.memory.frozen_weights != "float32" and self.adaptation.train == "all":
            raise UserError(
                f"memory.frozen_weights is {self.memory.frozen_weights!r}, but adaptation.train is 'all': what is "
                "trained is float32; train the adapter alone, or remove it"
            )

    @property
    def method_name(self) -> str:
        """The name by which the method is chosen in YAML."""
        return next(name for name, kind in METHODS.items() if isinstance(self.method, kind))

    def as_dict(self) -> dict:
        """The experiment as plain data, in the form that `from_dict` reads."""
        values = dataclasses.asdict(self)
        return {**values, "method": {"name": self.method_name, **values["method"]}}


def load(path: str | Path, overrides: typing.Sequence[str] = ()) -> Experiment:
    """Read an experiment from YAML.

    Args:
        path: the file.
        overrides: "section.key=value" strings; the values are YAML.

    Raises:
        UserError: for a missing or unreadable file, an unknown key, a value of the wrong type or out of its range.
    """
    path = Path(path)
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such config file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as a config ({error})") from None
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        raise UserError(f"{path}{f', line {where.line + 1}' if where else ''}: not valid YAML") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: a config is a mapping of sections, for example 'train: {{steps: 100}}'")
    for override in overrides:
        _override(values, override)
    try:
        return from_dict(values)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def from_dict(values: dict) -> Experiment:
    """An experiment from plain data. Raises UserError as `load` does."""
    values = dict(values)
    method = values.get("method")
    if not isinstance(method, dict) or "name" not in method:
        raise UserError(f"method.name is not set: use one of {', '.join(METHODS)}")
    _one_of("method.name", method["name"], tuple(METHODS))
    options = {key: value for key, value in method.items() if key != "name"}
    values["method"] = _make(METHODS[method["name"]], options, "method")
    return _make(Experiment, values, "")


def _override(values: dict, override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise UserError(f"{override!r} is no override: write section.key=value, for example train.steps=100")
    *sections, last = key.split(".")
    for section in sections:
        values = values.setdefault(section, {})
        if not isinstance(values, dict):
            raise UserError(f"override {override!r}: {section} has no keys below it")
    try:
        values[last] = yaml.safe_load(text)
    except yaml.YAMLError:
        raise UserError(f"override {override!r}: {text!r} is not a YAML value") from None


def _make(kind: type, values: typing.Any, where: str):
    if not isinstance(values, dict):
        raise UserError(f"{where} is {values!r}: it must be a mapping")
    hints = typing.get_type_hints(kind)
    fields = {f.name: f for f in dataclasses.fields(kind)}
    prefix = f"{where}." if where else ""
    for key in values:
        if key not in fields:
            close = difflib.get_close_matches(str(key), fields, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"use one of {', '.join(fields)}"
            raise UserError(f"unknown key {prefix}{key}: {hint}")
    for name, f in fields.items():
        if name not in values and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
            raise UserError(f"{prefix}{name} is not set")
    return kind(**{key: _checked(hints[key], value, f"{prefix}{key}") for key, value in values.items()})


def _checked(hint, value, where: str):
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if any(dataclasses.is_dataclass(o) and isinstance(value, o) for o in options):
        return value
    if len(options) == 1 and dataclasses.is_dataclass(hint):
        return _make(hint, value, where)
    if value is None and type(None) in options:
        return None
    kind = next(o for o in options if o is not type(None))
    if kind is float and isinstance(value, str):  # YAML 1.1 reads 1e-4 as a string
        with contextlib.suppress(ValueError):
            value = float(value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise UserError(f"{where} is {value!r}: it must be of type {kind.__name__}")
    if kind is float and not math.isfinite(value):
        raise UserError(f"{where} is {value}: it must be finite")
    return value
