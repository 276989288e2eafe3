"""`Experiment`: all settings of a training run."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace

from codi_tf.config.sections import Adaptation, Data, Distribution, Memory, Train
from codi_tf.core.errors import UserError
from codi_tf.core.settings import named
from codi_tf.methods import METHODS
from codi_tf.methods.method import MethodSettings, result_decay_of
from codi_tf.tasks import TASKS


@dataclass(frozen=True)
class Experiment:
    """All settings of a training run.

    Attributes:
        method: what is trained and how; in YAML a mapping with `name` (of `codi_tf.methods.METHODS`) and the method's
            own options.
        base: folder of the model to start from (a bundle, or Stable Diffusion in the diffusers layout).
        task: the condition; in YAML a mapping with `name` and the task's own options. None: no condition.
        text: folder with text_encoder/ and tokenizer/, for a base without them that is trained with prompts.

    Raises:
        UserError: sections that do not go together.
    """

    method: MethodSettings
    train: Train
    data: Data = field(default_factory=Data)
    adaptation: Adaptation = field(default_factory=Adaptation)
    memory: Memory = field(default_factory=Memory)
    distribution: Distribution = field(default_factory=Distribution)
    base: str | None = None
    task: dict | None = None
    text: str | None = None

    def __post_init__(self):
        method, task_use = self.method, self.method.task_use
        if self.base is None and method.needs_base:
            raise UserError("base is not set: name the folder of the model to start from")
        if task_use == "required" and self.task is None:
            raise UserError("task is not set: name one, for example {name: super_resolution}")
        if task_use == "none" and self.task is not None:
            raise UserError("task is set, but this method trains without a condition: remove task")
        if self.task is None:
            self._check_without_task()
        elif "name" not in self.task:
            raise UserError("task.name is not set, for example {name: super_resolution}")
        elif self.task["name"] not in TASKS:
            raise UserError(TASKS.unknown(self.task["name"]))
        if method.examples == "images":
            for name in ("prompts", "classes", "encode_once"):
                if getattr(self.data, name):
                    raise UserError(f"data.{name} is set, but method {self.method_name} uses images alone: remove it")
        if self.task is not None and self.memory.frozen_weights != "float32" and self.adaptation.train == "all":
            raise UserError(
                f"memory.frozen_weights is {self.memory.frozen_weights!r}, but adaptation.train is 'all', which needs "
                "float32: train the adapter alone, or remove it"
            )
        method.check_steps(self.train.steps)
        decay = result_decay_of("train.result_decay", self.train.result_decay, method)
        object.__setattr__(self, "train", replace(self.train, result_decay=decay))  # runs write down what None means

    def _check_without_task(self) -> None:
        if self.text is not None:
            raise UserError(f"text is {self.text}, but this method trains without a task: remove text")
        if self.memory.frozen_weights != "float32":
            raise UserError(
                f"memory.frozen_weights is {self.memory.frozen_weights!r}, but a training without a task has float32 "
                "weights: remove it"
            )
        if self.method.trains_text and not self.data.prompts:
            raise UserError("the text encoder is to be trained, but no prompts are used: set data.prompts=true")
        guidance = self.method.guidance_range
        if guidance not in (None, [1.0, 1.0]) and not (self.data.prompts or self.data.classes):
            raise UserError(
                f"method.guidance is {guidance}, which without a task guides the prompt, but no prompts are used: set "
                "data.prompts=true (or data.classes=true), or use [1.0, 1.0]"
            )
        if self.adaptation != Adaptation():
            raise UserError("adaptation is set, but a training without a task has no adapter: remove it, or set task")

    @property
    def method_name(self) -> str:
        """The name by which the method is chosen in YAML."""
        return METHODS.name_of(type(self.method))

    def as_dict(self) -> dict:
        """The experiment as plain data, in the form that `from_dict` reads.

        Raises:
            UserError: see `core.settings.named`.
        """
        return {**asdict(self), "method": named(METHODS, self.method)}
