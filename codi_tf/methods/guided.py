"""Guided distillation (Meng et al. 2023): the guidance becomes an input, then the number of steps is halved."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import tensorflow as tf
from keras import ops

from codi_tf.adapters.adapted import AdaptedUNet
from codi_tf.adapters.lora import clone_lora, with_guidance_input
from codi_tf.checkpoints.base import Base
from codi_tf.checkpoints.made_for import MadeFor
from codi_tf.core.errors import UserError
from codi_tf.diffusion import losses
from codi_tf.diffusion.halving import Halving, halving_steps
from codi_tf.diffusion.scheduler_config import REVERSE
from codi_tf.methods import METHODS, phases
from codi_tf.methods.batches import require
from codi_tf.methods.latent import LatentMethod, load_unconditional
from codi_tf.methods.method import GuidedBy, MethodSettings, Space
from codi_tf.methods.networks import assign_network, clone_adapter, copy_of, denoiser, encoded, with_guidance

NO_GUIDANCE = [1.0, 1.0]


@METHODS.register("guided")
@dataclass(frozen=True)
class Guided(MethodSettings):
    """Guided distillation (Meng et al. 2023) of the model in `base`.

    Stage 1 makes the guidance an input of the network (Eq. 3); stage 2 halves the number of sampling steps again and
    again. With a task, stage 1 starts from a fine-tuned bundle, stage 2 from that or from a bundle of stage 1: GD-II;
    the condition is what is guided, or the prompt beside it (section 4.2.4). Without a task they distill the base
    itself: the prompt, or the class, is what is guided, and stage 2 starts from the result of stage 1 (section 4.2.2)
    or from a base without guidance. Fine-tuning the latter makes GD-I.

    Attributes:
        stage: 1 or 2.
        guidance: [lowest, highest] guidance that is trained, 1 for none: the paper's w is guidance - 1.
        guided: with a task, what is guided: the "condition", against one of zeros, or the "prompt", against the empty
            one with the same condition. Both stages name the same.
        steps: of stage 2, the student's numbers of sampling steps, each half of the one before, or a plan for them:
            {"from": 512, "to": 4}, see `phases.planned_steps`. The result of a phase is the next one's teacher.
        updates: of stage 2, the number of updates of a phase, or a list whose numbers are those of the last phases, see
            `phases.phase_updates`; the last phase takes the rest of train.steps, too.
        stochastic: of stage 2, train for the stochastic sampler (Eq. 4 to 7): steps of twice the length.
        reverse: of stage 2, distill the reverse sampler, from an image to noise (section 4.3), of a base alone.
        space: the space of the squared error.
    """

    stage: Literal[1, 2]
    guidance: list = field(default_factory=lambda: list(NO_GUIDANCE))
    guided: GuidedBy = "condition"
    steps: list | dict = field(default_factory=list)
    updates: int | list = 0
    stochastic: bool = False
    reverse: bool = False
    space: Space = "velocity"

    @property
    def task_use(self) -> Literal["optional", "none"]:
        """Both stages work on a base alone as well; the reverse sampler is a base's."""
        return "none" if self.reverse else "optional"

    @property
    def starts_from(self) -> tuple[str, ...]:
        """Stage 2 also continues stage 1, or an earlier stage 2; the reverse sampler is that of a base."""
        if self.reverse:
            return ()
        return ("finetune",) if self.stage == 1 else ("finetune", "guided")

    @property
    def guidance_range(self) -> list:
        """[lowest, highest] guidance that is trained."""
        return self.guidance

    @property
    def sampling_steps(self) -> int | None:
        """N of the last phase of stage 2; stage 1 leaves the number of steps as it is."""
        return self.steps[-1] if self.stage == 2 else None

    @property
    def sampler(self) -> str:
        """The sampler that the model is trained for."""
        return "stochastic" if self.stochastic else "ddim"

    def check(self) -> None:
        """Raises UserError for options out of their range, or of the other stage."""
        low_high = self.guidance
        if len(low_high) != 2 or not all(isinstance(g, int | float) for g in low_high) or low_high[0] > low_high[1]:
            raise UserError(f"method.guidance is {low_high}: give [lowest, highest], for example [1.0, 3.0]")
        if self.stage == 1 and (self.steps or self.updates or self.stochastic or self.reverse):
            raise UserError(
                "method.steps, method.updates, method.stochastic and method.reverse belong to stage 2: leave them out"
            )
        if self.stochastic and self.reverse:
            raise UserError("method.stochastic and method.reverse are both true: the way back draws no noise")
        if self.stage == 2:
            object.__setattr__(self, "steps", phases.planned_steps(self.steps))  # runs write down what a plan means
            phases.phase_updates(self.updates, len(self.steps))

    @property
    def phase_updates(self) -> list[int]:
        """The updates of each phase of stage 2, without the rest that the last one takes."""
        return phases.phase_updates(self.updates, len(self.steps))

    def check_steps(self, steps: int) -> None:
        """Raises UserError where the phases do not fit into the run."""
        if self.stage == 2 and steps < sum(self.phase_updates):
            raise UserError(
                f"train.steps is {steps}: {len(self.steps)} phases of method.updates {self.updates} are more; lower "
                "method.updates"
            )

    def phase_lengths(self, steps: int) -> tuple[int, ...]:
        """The updates of each phase of a run, whose last one takes the rest."""
        return phases.phase_lengths(self.phase_updates, steps) if self.stage == 2 else (steps,)

    def check_bundle(self, bundle: Any, path: str) -> None:
        """Raises UserError where the bundle was not trained for the guidance that is to be distilled."""
        if bundle.settings.guidance_range is not None:
            if bundle.settings.guided != self.guided and self.guidance != NO_GUIDANCE:
                raise UserError(f"method.guided is {self.guided}, of {path} it is {bundle.settings.guided}: use that")
            self._check_range(bundle.settings.guidance_range, path, "stay within")
        elif self.stage == 2:
            self._check_range(NO_GUIDANCE, path, "distill it with stage 1 first, or use [1.0, 1.0]")
        else:
            by_prompt = self.guided == "prompt"
            can_be = bundle.settings.drop_prompt > 0.0 if by_prompt else bundle.can_be_guided
            remedy = f"fine-tune it with method.drop_{self.guided}=0.1 first, or use [1.0, 1.0]"
            self._check_range([1.0, float("inf")] if can_be else NO_GUIDANCE, path, remedy)

    def _check_range(self, known: Sequence[float], path: str, remedy: str) -> None:
        low, high = self.guidance
        if not known[0] <= low <= high <= known[1]:
            raise UserError(f"method.guidance is {self.guidance}, {path} was trained for {list(known)}: {remedy}")

    def load(self, path: str) -> tuple[Base, AdaptedUNet]:
        """A base to distill without a task.

        Raises:
            UserError: see `load_unconditional`; a guidance that the base was not trained for, or of prompts that it
                does not take.
        """
        base = load_unconditional(path, reverse=self.reverse)
        unet = base.unet
        assert unet is not None
        if self.guidance != NO_GUIDANCE and base.text_encoder is None and not base.num_classes:
            raise UserError(
                f"method.guidance is {self.guidance}: {path} has no text encoder and no classes, and without a task "
                "the prompt or the class is guided; use [1.0, 1.0], or set task"
            )
        if unet.time_cond_proj_dim is not None:
            self._check_range(base.made_for.guidance or (1.0, float("inf")), path, "stay within")
        elif self.stage == 2:
            self._check_range(NO_GUIDANCE, path, "distill it with stage 1 first, or use [1.0, 1.0]")
        else:
            self._check_range((1.0, float("inf")), path, "a guidance is at least 1, none")
        return base, AdaptedUNet(unet, name="student")

    def build(self, base: Base, student: AdaptedUNet, perceptual: Callable | None = None) -> LatentMethod:
        """The method of the stage. Stage 1 puts a UNet that takes the guidance into the base.

        Raises:
            UserError: a guidance other than 1 for a network that does not take it, or a stage 1 on a frozen UNet
                without a LoRA.
        """
        if self.stage == 2:
            if self.guidance != NO_GUIDANCE and not student.takes_guidance:
                raise UserError(
                    f"method.guidance is {self.guidance}: this model takes none; distill it with stage 1 first"
                )
            return HalvingMethod(self, base, student)
        if student.takes_guidance:
            return GuidanceMethod(self, base, student, None)
        if student.train != "all" and student.lora is None:
            raise UserError(
                "method guided, stage 1, gives the UNet a new input: it needs train 'all', or a LoRA beside the adapter"
            )
        return GuidanceMethod(self, *_with_guidance(base, student))


def _with_guidance(base: Base, student: AdaptedUNet) -> tuple[Base, AdaptedUNet, AdaptedUNet]:
    """The base and the student with a UNet that takes the guidance, and the teacher, which is the network as given.

    A UNet that is trained is copied, and the given one is the teacher's. One that is not serves both: its new input has
    no effect, and the LoRA alone gives it one. So the base is still the one that was read.
    """
    adapter, lora, has_mask = student.adapter, student.lora, student.has_mask
    frozen = None if adapter is None else clone_adapter(adapter, "frozen_adapter")
    unet = with_guidance(student.unet, "unet")
    if lora is None:
        teacher = AdaptedUNet(student.unet, frozen, has_mask=has_mask, name="frozen")
        student = AdaptedUNet(unet, adapter, has_mask=has_mask, name="student")
        return dataclasses.replace(base, unet=unet, path=None), student, teacher
    before = clone_lora(lora, unet, "frozen_lora", dropout=0.0)
    teacher = AdaptedUNet(unet, frozen, "adapter", lora=before, has_mask=has_mask, name="frozen")
    lora = with_guidance_input(lora, unet)
    student = AdaptedUNet(unet, adapter, "adapter", lora=lora, has_mask=has_mask, name="student")
    return dataclasses.replace(base, unet=unet), student, teacher


class GuidedMethod(LatentMethod):
    """What both stages share. Without an adapter, a base is distilled, and the prompt or class is what is guided."""

    settings: Guided

    def check_batch(self, batch) -> None:
        """Raises UserError as `LatentMethod` does, and for a batch without prompts or classes that are to be guided."""
        super().check_batch(batch)
        by_condition = self.student.adapter is not None and self.settings.guided == "condition"
        if not by_condition and self.settings.guidance != NO_GUIDANCE:
            require(batch, *(["class"] if self.base.num_classes else []), "tokens", "context")

    def draw_guidance(self, x, draws):
        """Guidance uniform in its range, float32 [B]."""
        low, high = self.settings.guidance
        return low + (high - low) * draws.uniform(x, "guidance")

    def result(self, average: AdaptedUNet) -> Base:
        """The distilled base, the result of a training without a task."""
        return dataclasses.replace(super().result(average), path=None, made_for=self.made_for())

    def made_for(self) -> MadeFor:
        """How the distilled base is to be sampled."""
        low, high = map(float, self.settings.guidance)
        return dataclasses.replace(self.base.made_for, guidance=(low, high))


class GuidanceMethod(GuidedMethod):
    """Stage one, Eq. 3: a student that takes the guidance as an input learns the guided prediction of its teacher.

    Args:
        settings: range of the guidance and space of the error.
        base: the fine-tuned model, or the base to distill; its UNet is the student's.
        student: the network that takes the guidance.
        frozen: the teacher, which takes no guidance: it is evaluated with and without what is guided, the condition (c
            = 0) or the prompt, or, where there is no condition, prompt and class. None for a model that takes the
            guidance already, and hence cannot be trained in this stage.
    """

    terms = ("guidance_matching",)

    def __init__(self, settings: Guided, base: Base, student: AdaptedUNet, frozen: AdaptedUNet | None):
        super().__init__(settings, base, student)
        self.frozen = frozen

    def start_average(self) -> AdaptedUNet:
        """See `LatentMethod`. Raises UserError for a model that takes the guidance already."""
        if self.frozen is None:
            raise UserError("this model takes the guidance already: use stage 2, or start from another model")
        return super().start_average()

    def loss_terms(self, batch, draws):
        """{"guidance_matching": float32 [B]} of a batch (Eq. 3)."""
        base = self.base
        x, c, conditioning = encoded(base, self.student, batch)
        guidance = self.draw_guidance(x, draws)
        if c is None:
            without = (None, base.conditioning())
        elif self.settings.guided == "prompt":
            without = (c, conditioning._replace(context=base.context))
        else:
            without = (ops.zeros_like(c), conditioning)
        loss = losses.guidance_matching(
            denoiser(base, self.student, c, conditioning, guidance=guidance),
            denoiser(base, self.frozen, c, conditioning),
            denoiser(base, self.frozen, *without),
            base.schedule,
            x,
            draws.noise(x),
            draws.times(x, low=0, high=base.schedule.num_steps, shared=False),
            guidance,
            space=self.settings.space,
        )
        return {"guidance_matching": loss}


def trailing_scheduler(config: dict) -> dict:
    """A scheduler_config.json whose DDIM steps are those that halving trains: trailing times, the last step ends clean.

    With the base's own, text2image and diffusers would evaluate the network at other times (751, 501, 251, 1 in place
    of 999, 749, 499, 249).
    """
    clean = {"set_alpha_to_one": True, "final_sigmas_type": "zero"}
    return {**config, "timestep_spacing": "trailing", **{key: clean[key] for key in clean if key in config}}


def reverse_scheduler(config: dict) -> dict:
    """A scheduler_config.json that says that a base leads from images to noise. The data are z_0 in diffusers, too."""
    return {**config, "_class_name": REVERSE, "timestep_spacing": "trailing", "set_alpha_to_one": False}


class HalvingMethod(GuidedMethod):
    """Stage two, progressive distillation: the student learns to take one step for two of its teacher.

    When a phase ends, teacher and student take the weights of the moving average, and the number of steps is halved.
    Works on a conditional model as well as on a base alone, with or without prompts and guidance.

    If the UNet is trained, the base's scheduler names the times that are trained, see `trailing_scheduler` and
    `reverse_scheduler`.

    Args:
        settings: the numbers of steps, the updates of a phase, range of the guidance and space of the error.
        base: the model; its UNet is the student's.
        student: the network to start from.

    Raises:
        UserError: settings.steps begins with more than half of the training times.
    """

    terms = ("halving",)

    average: AdaptedUNet

    def __init__(self, settings: Guided, base: Base, student: AdaptedUNet):
        trained = set(map(id, student.trainable_variables))
        if any(id(variable) in trained for variable in student.unet.variables):
            change = reverse_scheduler if settings.reverse else trailing_scheduler
            base = dataclasses.replace(base, scheduler=change(base.scheduler), path=None)
        super().__init__(settings, base, student)
        if settings.steps[0] > base.schedule.num_steps // 2:
            raise UserError(f"method.steps begins with {settings.steps[0]}: at most {base.schedule.num_steps // 2}")
        kind = {"stochastic": settings.stochastic, "reverse": settings.reverse}
        grids = [halving_steps(base.schedule, n, **kind) for n in settings.steps]
        self._starts = np.cumsum([0, *settings.phase_updates[:-1]])  # the first update of each phase
        # All phases in one table: the steps of phase p begin at offset p.
        self._table = [np.array(column) for column in zip(*(step for grid in grids for step in grid), strict=True)]
        self._counts = np.array(settings.steps, np.int32)
        self._offsets = np.cumsum([0, *settings.steps[:-1]]).astype(np.int32)

    def start_average(self) -> AdaptedUNet:
        """The network that generates after training, and the teacher of the first phase."""
        self.average, self.teacher = copy_of(self.student, "average"), copy_of(self.student, "teacher")
        return self.average

    def begin_step(self, step) -> None:
        """Teacher and student <- moving average, at the start of every phase but the first."""

        def refresh():
            assign_network(self.average, self.teacher)
            assign_network(self.average, self.student)
            return True

        tf.cond(tf.reduce_any(tf.cast(step, tf.int64) == self._starts[1:]), refresh, lambda: False)

    def loss_terms(self, batch, draws):
        """{"halving": float32 [B]} of a batch, see `losses.halving`."""
        base = self.base
        x, c, conditioning = encoded(base, self.student, batch)
        guidance = self.draw_guidance(x, draws) if self.student.takes_guidance else None
        loss = losses.halving(
            denoiser(base, self.student, c, conditioning, guidance=guidance),
            denoiser(base, self.teacher, c, conditioning, guidance=guidance),
            x,
            draws.noise(x),
            self._draw_steps(x, draws),
            space=self.settings.space,
        )
        return {"halving": loss}

    def made_for(self) -> MadeFor:
        """See `GuidedMethod`; also the sampler and the number of steps that were trained."""
        own = {"sampler": self.settings.sampler, "steps": self.settings.steps[-1]}
        return dataclasses.replace(super().made_for(), **own)

    def _draw_steps(self, x, draws) -> Halving:
        """One of the phase's N steps for each example, uniformly."""
        phase = tf.reduce_sum(tf.cast(tf.cast(draws.step, tf.int64) >= self._starts[1:], tf.int32))
        count, offset = tf.gather(self._counts, phase), tf.gather(self._offsets, phase)
        u = draws.uniform(x, "step")  # [B]
        place = offset + tf.minimum(tf.cast(u * tf.cast(count, tf.float32), tf.int32), count - 1)
        fields = []
        for column in self._table:
            if column.dtype.kind == "i":  # times
                fields.append(tf.gather(column.astype(np.int32), place))
            else:
                levels = tf.gather(column.astype(np.float32), place)
                fields.append(tf.reshape(levels, (-1,) + (1,) * (len(x.shape) - 1)))
        return Halving(*fields)
