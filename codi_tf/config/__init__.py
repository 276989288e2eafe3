"""Experiments as data: frozen dataclasses, read strictly from YAML. Imports no TensorFlow."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import itertools
import math
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from codi_tf.core.errors import UserError

SPACES = ("noise", "signal", "velocity")


def _one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UserError(f"{name} is {value!r}: use one of {', '.join(choices)}")


def _check_delta(delta: int) -> None:
    if delta < 1:
        raise UserError(f"method.delta is {delta}: it must be at least 1 training time")


def _check_share(name: str, share: float) -> None:
    if not 0 <= share < 1:
        raise UserError(f"{name} is {share}: it must be in [0, 1)")


def _check_features(name: str, value: str, features: str | None) -> None:
    if value == "perceptual" and features is None:
        raise UserError(f"{name} is 'perceptual': set method.features to the folder of a feature network")


@dataclass(frozen=True)
class Autoencoder:
    """Train an autoencoder: mean |image - reconstruction| + kl_weight * KL(posterior || N(0, I)).

    Attributes:
        network: the arguments of `models.autoencoder.AutoencoderKL` (the keys of a diffusers vae/config.json).
    """

    network: dict
    kl_weight: float = 1e-6


@dataclass(frozen=True)
class Decoder:
    """Train a small decoder of the latents of the autoencoder in `base`, which stays as it is.

    The loss is d(y, D(z)) + perceptual_weight * sum_l ||F_l(y) - F_l(D(z))||^2, z the scaled latent of an image.

    Attributes:
        network: the arguments of `models.tiny_decoder.TinyDecoder` (keys of an AutoencoderTiny's config.json).
        target: y, the "image" itself, or its "decoding", what the autoencoder's own decoder makes of z.
        distance: d in pixels, "squared" or "absolute".
        perceptual_weight: at least 0, none.
        features: F, the folder of a feature network or a file of LPIPS' weights (`perception.lpips`).
    """

    network: dict
    target: str = "image"
    distance: str = "squared"
    perceptual_weight: float = 0.0
    features: str | None = None

    def __post_init__(self):
        _one_of("method.target", self.target, ("image", "decoding"))
        _one_of("method.distance", self.distance, ("squared", "absolute"))
        if self.perceptual_weight < 0:
            raise UserError(f"method.perceptual_weight is {self.perceptual_weight}: it must be at least 0")
        if (self.perceptual_weight > 0) != (self.features is not None):
            raise UserError(
                f"method.perceptual_weight is {self.perceptual_weight}, method.features {self.features}: set both, or "
                "neither"
            )


@dataclass(frozen=True)
class Pretrain:
    """Train an unconditional latent diffusion model on the latents of the autoencoder in `base`.

    Without a network the UNet of `base` is trained on. With another prediction_type that is the conversion of guided
    distillation (Meng et al. 2023, section 4.2): epsilon to v.

    Attributes:
        network: the arguments of `models.unet.UNet` (the keys of a diffusers unet/config.json); None: the base's UNet.
        scheduler: keys of a diffusers scheduler_config.json that replace the base's, as beta_schedule, prediction_type.
        space: the space of the squared error.
    """

    network: dict | None = None
    scheduler: dict = field(default_factory=dict)
    space: str = "velocity"

    def __post_init__(self):
        _one_of("method.space", self.space, SPACES)
        if self.network is not None and "beta_schedule" not in self.scheduler:
            raise UserError("method.scheduler.beta_schedule is not set, for example squaredcos_cap_v2")


@dataclass(frozen=True)
class Finetune:
    """Conditional diffusion fine-tuning of the adapted network: the undistilled model ("LDM" in the paper's tables).

    Attributes:
        space: the space of the squared error.
        drop_condition: the share of examples whose condition is all 0, for guidance with the condition.
        drop_prompt: the share of examples whose prompt is empty, for guidance with the prompt. Half of the smaller
            share loses both: with 0.1 and 0.1 it is 5 % each and 5 % both, as in InstructPix2Pix.
    """

    space: str = "velocity"
    drop_condition: float = 0.0
    drop_prompt: float = 0.0

    def __post_init__(self):
        _one_of("method.space", self.space, SPACES)
        _check_share("method.drop_condition", self.drop_condition)
        _check_share("method.drop_prompt", self.drop_prompt)
        if self.drop_condition + self.drop_prompt > 1:
            raise UserError("method.drop_condition and method.drop_prompt are more than 1 together: lower one of them")


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
        features: of the perceptual distance: folder of a feature network, or a file of LPIPS' weights.
        drop_prompt: the share of examples whose prompt is empty.
    """

    z_s: str = "own"
    consistency: str = "noise"
    guidance: str = "latent"
    guidance_weight: float = 1.0
    t: str = "shared"
    delta: int = 1
    boundary: bool = False
    features: str | None = None
    drop_prompt: float = 0.0

    def __post_init__(self):
        _check_share("method.drop_prompt", self.drop_prompt)
        _one_of("method.z_s", self.z_s, ("own", "predicted", "frozen"))
        _one_of("method.consistency", self.consistency, ("noise", "signal", "velocity", "none"))
        _one_of("method.guidance", self.guidance, ("latent", "encoded", "pixel", "perceptual", "none"))
        _one_of("method.t", self.t, ("shared", "per_sample"))
        _check_delta(self.delta)
        if self.guidance_weight < 0:
            raise UserError(f"method.guidance_weight is {self.guidance_weight}: it must be at least 0")
        if self.consistency == "none" and self.guidance == "none":
            raise UserError("method.consistency and method.guidance are both 'none': nothing would be trained")
        _check_features("method.guidance", self.guidance, self.features)


@dataclass(frozen=True)
class Consistency:
    """Consistency distillation (Song et al. 2023) of the fine-tuned model in `base`, a bundle: the paper's CM-II.

    With `adaptation.train: adapter` it is CM-II (frozen).

    Attributes:
        distance: latent (squared error) or perceptual.
        delta: t - s in training times: the length of the teacher's DDIM step.
        t: per_sample (as in the literature) or shared.
        boundary: scalings that make the model the identity at t = 0, which one that predicts v is already.
        features: of the perceptual distance: folder of a feature network, or a file of LPIPS' weights.
    """

    distance: str = "latent"
    delta: int = 1
    t: str = "per_sample"
    boundary: bool = False
    features: str | None = None

    def __post_init__(self):
        _one_of("method.distance", self.distance, ("latent", "perceptual"))
        _one_of("method.t", self.t, ("per_sample", "shared"))
        _check_delta(self.delta)
        _check_features("method.distance", self.distance, self.features)


@dataclass(frozen=True)
class Guided:
    """Guided distillation (Meng et al. 2023) of the model in `base`.

    Stage 1 puts the guidance into the network (Eq. 3); stage 2 halves the number of sampling steps again and again. In
    `base` stands a fine-tuned bundle, or for stage 2 that of stage 1: GD-II. Without a task, stage 2 distils the base
    itself; fine-tuning it afterwards makes GD-I.

    Attributes:
        stage: 1 or 2.
        guidance: [lowest, highest] guidance that is trained, 1 for none: the paper's w is guidance - 1.
        steps: of stage 2, the student's numbers of sampling steps, each half of the one before. The result of a phase
            is the next one's teacher.
        updates: of stage 2, the optimizer steps of a phase; what train.steps leaves belongs to the last.
        stochastic: of stage 2, train for the stochastic sampler (Eq. 4 to 7): steps of twice the length.
        space: the space of the squared error.
    """

    stage: int
    guidance: list = field(default_factory=lambda: [1.0, 1.0])
    steps: list = field(default_factory=list)
    updates: int = 0
    stochastic: bool = False
    space: str = "velocity"

    def __post_init__(self):
        _one_of("method.space", self.space, SPACES)
        if self.stage not in (1, 2):
            raise UserError(f"method.stage is {self.stage}: use 1 (guidance) or 2 (halving)")
        low_high = self.guidance
        if len(low_high) != 2 or not all(isinstance(g, int | float) for g in low_high) or low_high[0] > low_high[1]:
            raise UserError(f"method.guidance is {low_high}: give [lowest, highest], for example [1.0, 3.0]")
        if self.stage == 1 and (self.steps or self.updates or self.stochastic):
            raise UserError("method.steps, method.updates and method.stochastic belong to stage 2: leave them out")
        if self.stage == 2:
            whole = all(isinstance(n, int) and n >= 1 for n in self.steps)
            if not self.steps or not whole or any(a != 2 * b for a, b in itertools.pairwise(self.steps)):
                raise UserError(f"method.steps is {self.steps}: each must be half of the one before, as [16, 8, 4]")
            if self.updates < 1:
                raise UserError(f"method.updates is {self.updates}: it must be the optimizer steps of a phase")


METHODS = {
    "autoencoder": Autoencoder,
    "decoder": Decoder,
    "pretrain": Pretrain,
    "finetune": Finetune,
    "codi": ConditionalDistillation,
    "consistency": Consistency,
    "guided": Guided,
}


CONDITIONAL = (Finetune, ConditionalDistillation, Consistency, Guided)  # methods of an adapted network
OF_IMAGES = (Autoencoder, Decoder)  # methods whose examples are images alone, never latents


@dataclass(frozen=True)
class Data:
    """Where images come from.

    Attributes:
        source: "photos" (what scikit-image and scikit-learn carry), a folder of images, a pattern of shards, a TFDS
            name (`data.load_source`), or a folder that codi_tf.cache made.
        heldout_fraction: the share of images that training leaves out, where there is no held-out set.
        image_size: height and width of the training crops, in pixels.
        augment: random horizontal flips.
        recolor: random permutations and gammas of the color channels: for sources of few photos.
        encode_once: encode this many examples before the first step and train on their latents; 0 encodes every batch
            anew.
        seed: seed of crops and degradations.
        max_unreadable: the share of unreadable records that a run goes on with, see `data.stream.Stream`.
        prompts: whether the images' texts are used; False: the empty prompt, but where the text is the task.
    """

    source: str = "photos"
    heldout_fraction: float = 0.1
    image_size: int = 64
    augment: bool = True
    recolor: bool = False
    encode_once: int = 0
    seed: int = 0
    max_unreadable: float = 0.01
    prompts: bool = False

    def __post_init__(self):
        if self.image_size < 8 or self.image_size % 8:
            raise UserError(f"data.image_size is {self.image_size}: it must be a positive multiple of 8")
        if self.encode_once < 0:
            raise UserError(f"data.encode_once is {self.encode_once}: it must be 0 or the number of examples")
        if not 0 < self.heldout_fraction < 1:
            raise UserError(f"data.heldout_fraction is {self.heldout_fraction}: it must be above 0 and below 1")
        if not 0 <= self.max_unreadable <= 1:
            raise UserError(f"data.max_unreadable is {self.max_unreadable}: it must be in [0, 1]")


@dataclass(frozen=True)
class Adaptation:
    """How a base becomes conditional.

    Attributes:
        adapter: "mu" (Eq. 12), "controlnet" or "t2i" (a T2I-Adapter, light where the base's widths allow).
        train: "all" (CoDi) or "adapter" (PE-CoDi: the base's weights stay as they are).
        pretrained: whether the base's UNet keeps its weights, or starts from random ones (the paper's Fig. 7).
        mu_rate: the learning rate of mu, as a multiple of the others'.
        start: folder of the diffusers ControlNetModel or T2IAdapter that such an adapter starts from; None: a new one,
            or that of the bundle in `base`.
    """

    adapter: str = "mu"
    train: str = "all"
    pretrained: bool = True
    mu_rate: float = 30.0
    start: str | None = None

    def __post_init__(self):
        _one_of("adaptation.adapter", self.adapter, ("mu", "controlnet", "t2i"))
        _one_of("adaptation.train", self.train, ("all", "adapter"))
        if self.start is not None and self.adapter == "mu":
            raise UserError(
                f"adaptation.start is {self.start!r}: only adapters controlnet and t2i start from a folder; remove it"
            )
        if not self.pretrained and (self.train == "adapter" or self.start is not None):
            raise UserError("adaptation.pretrained is false: random weights must be trained, and go with a new adapter")
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
        batch_size: examples in the global batch, of all replicas and micro-batches together.
        accumulate: into how many micro-batches, one after the other, a replica's share of the batch is divided.
        learning_rate: the peak.
        decay: "cosine" or "constant".
        cycles: how many times the cosine runs from the peak to 0, without a warm-up if more than once: for guided
            distillation, once a phase.
        clip_norm: limit of the gradient's global norm.
        ema_decay: gamma of the moving average; for CoDi it is also the target network.
        seed: seed of initialisation and of all draws of the loss.
        log_every, sample_every, save_every: in steps; 0 turns pictures or checkpoints off (a last one is always made).
        keep, keep_every: checkpoints kept: the newest `keep`, and those of every `keep_every`-th step, 0 for none.
        max_skipped: a run ends when so many steps in a row had a loss or gradient that was not finite.
        steps_per_call: steps in one call from Python, a loop on the device; never past what is logged or saved.
        jit_compile: compile the step with XLA. TPUs always do; on processors it is slower for small networks.
    """

    steps: int
    batch_size: int = 32
    accumulate: int = 1
    learning_rate: float = 3e-4
    warmup_steps: int = 100
    decay: str = "cosine"
    cycles: int = 1
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    ema_decay: float = 0.999
    seed: int = 0
    log_every: int = 50
    sample_every: int = 0
    save_every: int = 500
    keep: int = 2
    keep_every: int = 0
    max_skipped: int = 10
    steps_per_call: int = 1
    jit_compile: bool = False

    def __post_init__(self):
        _one_of("train.decay", self.decay, ("cosine", "constant"))
        for name in (
            "steps",
            "batch_size",
            "accumulate",
            "cycles",
            "log_every",
            "keep",
            "max_skipped",
            "steps_per_call",
        ):
            if getattr(self, name) < 1:
                raise UserError(f"train.{name} is {getattr(self, name)}: it must be at least 1")
        if self.batch_size % self.accumulate:
            raise UserError(f"train.accumulate is {self.accumulate}: it must divide train.batch_size {self.batch_size}")
        for name in ("warmup_steps", "sample_every", "save_every", "keep_every", "weight_decay"):
            if getattr(self, name) < 0:
                raise UserError(f"train.{name} is {getattr(self, name)}: it must not be negative")
        for name in ("learning_rate", "clip_norm"):
            if getattr(self, name) <= 0:
                raise UserError(f"train.{name} is {getattr(self, name)}: it must be positive")
        if self.cycles > 1 and (self.warmup_steps or self.decay != "cosine"):
            raise UserError(f"train.cycles is {self.cycles}: it goes with decay cosine and warmup_steps 0")
        if not 0 <= self.seed < 2**31:
            raise UserError(f"train.seed is {self.seed}: it must be from 0 to 2**31 - 1")
        if not 0 <= self.ema_decay < 1:
            raise UserError(f"train.ema_decay is {self.ema_decay}: it must be in [0, 1)")


STRATEGIES = ("none", "mirrored", "multiworker", "tpu")


@dataclass(frozen=True)
class Distribution:
    """Which devices train. What is learnt does not depend on it: a run may be resumed on others.

    Attributes:
        strategy: none (one device), mirrored (the GPUs of this machine), multiworker (several machines, told by
            TF_CONFIG), tpu.
        tpu: "local" on a TPU VM, or the name of a TPU.
        devices: of mirrored, how many devices; 0 for all GPUs. Without GPUs the processor is divided into as many.
    """

    strategy: str = "none"
    tpu: str = "local"
    devices: int = 0

    def __post_init__(self):
        _one_of("distribution.strategy", self.strategy, STRATEGIES)
        if self.devices < 0:
            raise UserError(f"distribution.devices is {self.devices}: it must be 0, for all, or a number of devices")
        if self.devices and self.strategy != "mirrored":
            raise UserError(f"distribution.devices is {self.devices}: it belongs to strategy mirrored; leave it out")


@dataclass(frozen=True)
class Experiment:
    """A whole training run.

    Attributes:
        method: what is trained and how; in YAML a mapping with `name` (a key of METHODS) and the method's own options.
        base: folder of the model to start from (a bundle, or Stable Diffusion in the diffusers layout).
        task: the condition; in YAML a mapping with `name` and the task's own options. None: no condition.
        text: folder with text_encoder/ and tokenizer/, for a base that has none and is to be told something.
    """

    method: Autoencoder | Decoder | Pretrain | Finetune | ConditionalDistillation | Consistency | Guided
    train: Train
    data: Data = field(default_factory=Data)
    adaptation: Adaptation = field(default_factory=Adaptation)
    memory: Memory = field(default_factory=Memory)
    distribution: Distribution = field(default_factory=Distribution)
    base: str | None = None
    task: dict | None = None
    text: str | None = None

    def __post_init__(self):
        if self.base is None and not isinstance(self.method, Autoencoder):
            raise UserError("base is not set: name the folder of the model to start from")
        optional = isinstance(self.method, Guided) and self.method.stage == 2  # of a base or of a conditional model
        conditional = isinstance(self.method, CONDITIONAL) and not (optional and self.task is None)
        if conditional and self.task is None:
            raise UserError("task is not set: name one, for example {name: super_resolution}")
        if not conditional and self.task is not None:
            raise UserError("task is set, but this method trains without a condition: remove task")
        if not conditional and self.text is not None:
            raise UserError(f"text is {self.text}, but this method trains without a task: remove text")
        if isinstance(self.method, OF_IMAGES):
            for name in ("prompts", "encode_once"):
                if getattr(self.data, name):
                    raise UserError(f"data.{name} is set, but method {self.method_name} sees images alone: remove it")
        if not conditional and self.memory != Memory():
            raise UserError("memory is set, but this method trains all there is, in float32: remove memory")
        if not conditional and self.adaptation != Adaptation():
            raise UserError("adaptation is set, but without a task nothing is adapted: remove it, or set task")
        if self.memory.frozen_weights != "float32" and self.adaptation.train == "all":
            raise UserError(
                f"memory.frozen_weights is {self.memory.frozen_weights!r}, but adaptation.train is 'all': what is "
                "trained is float32; train the adapter alone, or remove it"
            )
        if isinstance(self.method, Guided) and self.train.steps < len(self.method.steps) * self.method.updates:
            raise UserError(
                f"train.steps is {self.train.steps}: {len(self.method.steps)} phases of method.updates "
                f"{self.method.updates} are more; lower method.updates"
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
    values[last] = parse_value(override, text)


def parse_value(override: str, text: str):
    """The YAML value behind the = of an override. Raises UserError for what is none."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        raise UserError(f"override {override!r}: {text!r} is not a YAML value") from None


_NAMES_OF_0_1_0 = {"data.recolour": "recolor"}


def _make(kind: type, values: typing.Any, where: str):
    if not isinstance(values, dict):
        raise UserError(f"{where} is {values!r}: it must be a mapping")
    hints = typing.get_type_hints(kind)
    fields = {f.name: f for f in dataclasses.fields(kind)}
    prefix = f"{where}." if where else ""
    values = {_NAMES_OF_0_1_0.get(f"{prefix}{key}", key): value for key, value in values.items()}
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
