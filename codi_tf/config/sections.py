"""The sections of a config except method and task: frozen dataclasses that check their values."""

from __future__ import annotations

import math
import re
import typing
from dataclasses import asdict, dataclass, field
from typing import Literal

from codi_tf.adapters import ADAPTERS
from codi_tf.core.errors import UserError
from codi_tf.core.formats import FloatFormat
from codi_tf.core.limits import MAX_EXAMPLES, MAX_SEED, MAX_SIDE, MAX_WIDTH, check_most
from codi_tf.core.settings import check_choice, check_choices
from codi_tf.core.showing import shown

Trained = Literal["all", "adapter"]  # which weights are trained
Strategy = Literal["none", "mirrored", "multiworker", "tpu"]
OptimizerName = Literal["adamw", "adafactor", "lion"]
MomentFormat = Literal["float32", "bfloat16"]
STRATEGIES: tuple[str, ...] = typing.get_args(Strategy)

# Far beyond what can be trained: a number with some zeros too many is refused before memory is asked for it.
MAX_STEPS = 99_999_999  # the names of states have eight digits
MAX_BATCH = 1_000_000
MAX_DEVICES = 4096
ADDRESS = re.compile(r"[\w.-]{1,253}:\d{1,5}|\[[0-9a-fA-F:.]{2,45}\]:\d{1,5}")


@dataclass(frozen=True)
class Data:
    """Where images come from.

    Attributes:
        source: "photos" (those of scikit-image and scikit-learn), "scenes" (rendered), a folder of images, a pattern of
            shards, a TFDS name (`data.load_source`), several of these that take turns, as "scenes + photos", or a
            folder that codi_tf.cache made.
        heldout_fraction: the share of images that training leaves out, where there is no held-out set; 0: none, and
            then a run has no sample images and no condition_use.
        image_size: height and width of the training crops, in pixels.
        buckets: [[height, width], ...] of the training crops in place of image_size, for images of several aspect
            ratios: a batch has one of these shapes, see `data.buckets`. Held-out examples stay squares of image_size.
            []: all crops are squares.
        augment: random horizontal flips.
        recolor: random permutations and gammas of the color channels, for small sources.
        encode_once: encode this many examples before the first update and train on their latents; 0: encode every
            batch anew.
        seed: seed of crops and degradations.
        max_unreadable: the share of unreadable records that a run tolerates, see `data.stream.Stream`.
        prompts: whether the images' prompts are used; False: the empty prompt, except for tasks that need one.
        classes: whether the images' classes are used, which scenes have; False: the null class.

    Raises:
        UserError: a value out of its range.
    """

    source: str = "photos"
    heldout_fraction: float = 0.1
    image_size: int = 64
    buckets: list = field(default_factory=list)
    augment: bool = True
    recolor: bool = False
    encode_once: int = 0
    seed: int = 0
    max_unreadable: float = 0.01
    prompts: bool = False
    classes: bool = False

    def __post_init__(self):
        if self.image_size < 8 or self.image_size % 8:
            raise UserError(f"data.image_size is {self.image_size}: it must be a positive multiple of 8")
        self._check_buckets()
        if self.encode_once < 0:
            raise UserError(f"data.encode_once is {self.encode_once}: it must be 0 or the number of examples")
        if not 0 <= self.seed <= MAX_SEED:
            raise UserError(f"data.seed is {self.seed}: it must be from 0 to 2**63 - 1")
        check_most(self, "data.", image_size=MAX_SIDE, encode_once=MAX_EXAMPLES)
        if not 0 <= self.heldout_fraction < 1:
            raise UserError(f"data.heldout_fraction is {self.heldout_fraction}: it must be at least 0 and below 1")
        if not 0 <= self.max_unreadable <= 1:
            raise UserError(f"data.max_unreadable is {self.max_unreadable}: it must be in [0, 1]")

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """(height, width) of each bucket."""
        return [(height, width) for height, width in self.buckets]

    def _check_buckets(self) -> None:
        for bucket in self.buckets:
            pair = isinstance(bucket, list | tuple) and len(bucket) == 2
            if not pair or not all(type(side) is int and 8 <= side <= MAX_SIDE and side % 8 == 0 for side in bucket):
                raise UserError(
                    f"data.buckets has {shown(bucket)}: a bucket is [height, width], multiples of 8 up to {MAX_SIDE}"
                )
            if self.buckets.count(bucket) > 1:
                raise UserError(f"data.buckets has {shown(bucket)} twice: remove one")
        if self.buckets and self.encode_once:
            raise UserError("data.encode_once is set beside data.buckets: latents of one shape are encoded; remove one")


@dataclass(frozen=True)
class Lora:
    """Low-rank changes of the UNet's layers, trained in place of the UNet (LoRA, Hu et al. 2022).

    Attributes:
        rank: r of the changes.
        alpha: they are multiplied by alpha / r. None: by 1.
        targets: the ends of the names, as diffusers has them, of the layers that change: to_q, ff.net.2, conv1, ...
        dropout: the share of the layers' input channels that an update leaves out.

    Raises:
        UserError: a value out of its range.
    """

    rank: int = 8
    alpha: float | None = None
    targets: list = field(default_factory=lambda: ["to_q", "to_k", "to_v", "to_out.0"])
    dropout: float = 0.0

    def __post_init__(self):
        if not 1 <= self.rank <= MAX_WIDTH:
            raise UserError(f"adaptation.lora.rank is {self.rank}: it must be from 1 to {MAX_WIDTH}")
        object.__setattr__(self, "alpha", float(self.rank if self.alpha is None else self.alpha))  # runs write it down
        if not 0 < (self.alpha or 0.0) < math.inf:
            raise UserError(f"adaptation.lora.alpha is {self.alpha}: it must be positive")
        if not self.targets or not all(isinstance(target, str) and target for target in self.targets):
            raise UserError(f"adaptation.lora.targets is {shown(self.targets)}: give ends of layers' names, as [to_q]")
        if not 0 <= self.dropout < 1:
            raise UserError(f"adaptation.lora.dropout is {self.dropout}: it must be at least 0 and below 1")

    def settings(self) -> dict:
        """The options as plain data."""
        return asdict(self)


@dataclass(frozen=True)
class Adaptation:
    """How a base becomes conditional.

    Attributes:
        adapter: a name of `adapters.ADAPTERS`: "mu" (Eq. 12), "controlnet", "t2i" (a T2I-Adapter, light where the
            base's widths allow) or "concat" (the condition's latent beside z_t), or an adapter of your own.
        train: "all" (CoDi) or "adapter" (PE-CoDi: the base's weights stay as they are).
        pretrained: whether the base's UNet keeps its weights, or starts from random ones (the paper's Fig. 7).
        mu_rate: the learning rate of mu, as a multiple of that of the other weights.
        start: folder of the weights that an adapter starts from, of diffusers' ControlNetModel or T2IAdapter; None: a
            new adapter, or that of the bundle in `base`.
        lora: changes of the UNet's layers that are trained beside the adapter, with train "adapter"; None: none.

    Raises:
        UserError: a value out of its range, or values that do not go together.
    """

    adapter: str = "mu"
    train: Trained = "all"
    pretrained: bool = True
    mu_rate: float = 30.0
    start: str | None = None
    lora: Lora | None = None

    def __post_init__(self):
        check_choices(self, "adaptation.")
        if self.lora is not None and self.train != "adapter":
            raise UserError(
                f"adaptation.lora is set, but adaptation.train is {self.train!r}: a LoRA is trained in place of the "
                "UNet; set train to adapter, or remove lora"
            )
        check_choice("adaptation.adapter", self.adapter, tuple(ADAPTERS))
        if not self.pretrained and (self.train == "adapter" or self.start is not None):
            raise UserError("adaptation.pretrained is false: random weights must be trained, and need a new adapter")
        if self.mu_rate <= 0:
            raise UserError(f"adaptation.mu_rate is {self.mu_rate}: it must be positive")


@dataclass(frozen=True)
class Memory:
    """Number formats, and gradient checkpointing. Weights that are trained are always float32.

    Attributes:
        compute: the format of activations: float32, bfloat16 or float16.
        frozen_weights: the format of the base's weights, where the adapter alone is trained.
        recompute: gradient checkpointing: the backward pass computes the activations inside blocks again.

    Raises:
        UserError: a value out of its range.
    """

    compute: FloatFormat = "float32"
    frozen_weights: FloatFormat = "float32"
    recompute: bool = False

    def __post_init__(self):
        check_choices(self, "memory.")


@dataclass(frozen=True)
class Train:
    """The optimization: a linear warm-up, then constant or cosine decay to 0.

    Attributes:
        steps: updates (optimizer steps) of the whole run; may be raised when it is resumed.
        batch_size: examples in the global batch, of all replicas and micro-batches together.
        optimizer: adamw, lion (one moment; takes a rate 3 to 10 times lower) or adafactor (hardly any state).
        moments: the format of the optimizer's moments, float32 or bfloat16, which is rounded at random.
        accumulate: the number of micro-batches, one after the other, that a replica's share of the batch is split into.
        learning_rate: the peak.
        warmup_steps: updates of the linear warm-up.
        decay: "cosine" or "constant".
        cycles: how many times the cosine runs from the peak to 0; more than once without a warm-up. 0: once for each
            phase of the method, however long it is (guided distillation, stage 2).
        weight_decay: lambda of theta <- (1 - rate lambda) theta, for every optimizer.
        clip_norm: limit of the gradient's global norm.
        ema_decay: gamma of the moving average: theta-, the target network; for methods without one, the result.
        result_decay: the decay of an average of its own that generates and is saved, for methods with a target network;
            it grows from 0 with the updates. 0: theta- is the result. None: 0.999 with a target network, else 0.
        seed: seed of initialization and of all draws of the loss.
        log_every, sample_every, save_every: in updates; 0 turns sample images, with figures of held-out examples, or
            saved states off (the last state is always saved).
        keep, keep_every: the states on disk: the newest `keep`, and those of every `keep_every`-th update, 0 for none.
        max_skipped: a run ends when this many updates in a row had a loss or gradient that was not finite.
        steps_per_call: updates in one call from Python, a loop on the device; a call ends where a run logs or saves.
        jit_compile: compile the update with XLA. TPUs always do; on CPUs it is slower for small networks.

    Raises:
        UserError: a value out of its range, or values that do not go together.
    """

    steps: int
    batch_size: int = 32
    optimizer: OptimizerName = "adamw"
    moments: MomentFormat = "float32"
    accumulate: int = 1
    learning_rate: float = 3e-4
    warmup_steps: int = 100
    decay: Literal["cosine", "constant"] = "cosine"
    cycles: int = 1
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    ema_decay: float = 0.999
    result_decay: float | None = None
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
        check_choices(self, "train.")
        counts = ("steps", "batch_size", "accumulate", "log_every", "keep", "max_skipped", "steps_per_call")
        for name in counts:
            if getattr(self, name) < 1:
                raise UserError(f"train.{name} is {getattr(self, name)}: it must be at least 1")
        if self.batch_size % self.accumulate:
            raise UserError(f"train.accumulate is {self.accumulate}: it must divide train.batch_size {self.batch_size}")
        check_most(self, "train.", steps=MAX_STEPS, batch_size=MAX_BATCH, steps_per_call=MAX_STEPS)
        for name in ("warmup_steps", "cycles", "sample_every", "save_every", "keep_every", "weight_decay"):
            if getattr(self, name) < 0:
                raise UserError(f"train.{name} is {getattr(self, name)}: it must not be negative")
        for name in ("learning_rate", "clip_norm"):
            if getattr(self, name) <= 0:
                raise UserError(f"train.{name} is {getattr(self, name)}: it must be positive")
        if self.cycles != 1 and (self.warmup_steps or self.decay != "cosine"):
            raise UserError(f"train.cycles is {self.cycles}: it needs decay cosine and warmup_steps 0")
        if not 0 <= self.seed < 2**31:
            raise UserError(f"train.seed is {self.seed}: it must be from 0 to 2**31 - 1")
        for name in ("ema_decay", "result_decay"):
            if not 0 <= (getattr(self, name) or 0.0) < 1:
                raise UserError(f"train.{name} is {getattr(self, name)}: it must be in [0, 1)")


@dataclass(frozen=True)
class Distribution:
    """The devices that train. The result does not depend on them, and a run may be resumed on others.

    Attributes:
        strategy: none (one device), mirrored (the GPUs of this machine), multiworker (the machines in TF_CONFIG), tpu.
        tpu: "local" on a TPU VM; for a slice of several hosts its name, or their servers: grpc://HOST:PORT,HOST:PORT.
        devices: of mirrored, how many devices; 0 for all GPUs. Without GPUs the CPU is split into as many devices.
        data_service: HOST:PORT of a tf.data service, whose workers make the batches; None: this process does.

    Raises:
        UserError: a value out of its range, or values that do not go together.
    """

    strategy: Strategy = "none"
    tpu: str = "local"
    devices: int = 0
    data_service: str | None = None

    @property
    def feeds_elsewhere(self) -> bool:
        """Whether others make the batches: the workers of a data service, or the hosts of a TPU that is named."""
        return self.data_service is not None or (self.strategy == "tpu" and self.tpu != "local")

    def __post_init__(self):
        check_choices(self, "distribution.")
        if self.data_service is not None and not ADDRESS.fullmatch(self.data_service):
            raise UserError(f"distribution.data_service is {shown(self.data_service)}: write the address as HOST:PORT")
        if self.devices < 0:
            raise UserError(f"distribution.devices is {self.devices}: it must be 0, for all, or a number of devices")
        check_most(self, "distribution.", devices=MAX_DEVICES)
        if self.devices and self.strategy != "mirrored":
            raise UserError(f"distribution.devices is {self.devices}: it belongs to strategy mirrored; leave it out")
