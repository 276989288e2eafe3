"""Guided distillation (Meng et al. 2023): the guidance becomes an input, then the number of steps is halved."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import tensorflow as tf
from keras import ops

from codi_tf.adapters.adapted import AdaptedUNet
from codi_tf.checkpoints.base import Base
from codi_tf.core.errors import UserError
from codi_tf.diffusion import losses
from codi_tf.diffusion.halving import Halving, halving_steps
from codi_tf.diffusion.scheduler_config import REVERSE
from codi_tf.methods import METHODS
from codi_tf.methods.latent import LatentMethod, load_unconditional
from codi_tf.methods.method import MethodSettings, Space
from codi_tf.methods.networks import assign_network, clone_adapter, copy_of, denoiser, encoded, with_guidance


@METHODS.register("guided")
@dataclass(frozen=True)
class Guided(MethodSettings):
    """Guided distillation (Meng et al. 2023) of the model in `base`.

    Stage 1 makes the guidance an input of the network (Eq. 3); stage 2 halves the number of sampling steps again and
    again. Stage 1 starts from a fine-tuned bundle, stage 2 from that or from a bundle of stage 1: GD-II. Without a
    task, stage 2 distills the base itself; fine-tuning the result makes GD-I.

    Attributes:
        stage: 1 or 2.
        guidance: [lowest, highest] guidance that is trained, 1 for none: the paper's w is guidance - 1.
        steps: of stage 2, the student's numbers of sampling steps, each half of the one before. The result of a phase
            is the next one's teacher.
        updates: of stage 2, the number of updates of a phase; the last phase takes the rest of train.steps, too.
        stochastic: of stage 2, train for the stochastic sampler (Eq. 4 to 7): steps of twice the length.
        reverse: of stage 2, distill the reverse sampler, from an image to noise (section 4.3), of a base alone.
        space: the space of the squared error.
    """

    stage: Literal[1, 2]
    guidance: list = field(default_factory=lambda: [1.0, 1.0])
    steps: list = field(default_factory=list)
    updates: int = 0
    stochastic: bool = False
    reverse: bool = False
    space: Space = "velocity"

    @property
    def task_use(self) -> Literal["required", "optional", "none"]:
        """Stage 2 works on a base alone as well; the reverse sampler is a base's."""
        if self.reverse:
            return "none"
        return "required" if self.stage == 1 else "optional"

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
            whole = all(isinstance(n, int) and n >= 1 for n in self.steps)
            if not self.steps or not whole or any(a != 2 * b for a, b in itertools.pairwise(self.steps)):
                raise UserError(f"method.steps is {self.steps}: each must be half of the one before, as [16, 8, 4]")
            if self.updates < 1:
                raise UserError(f"method.updates is {self.updates}: it must be the optimizer steps of a phase")

    def check_steps(self, steps: int) -> None:
        """Raises UserError where the phases do not fit into the run."""
        if steps < len(self.steps) * self.updates:
            raise UserError(
                f"train.steps is {steps}: {len(self.steps)} phases of method.updates {self.updates} are more; lower "
                "method.updates"
            )

    def check_bundle(self, bundle: Any, path: str) -> None:
        """Raises UserError where the bundle was not trained for the guidance that is to be distilled."""
        low, high = self.guidance
        if bundle.settings.guidance_range is not None:
            known, remedy = bundle.settings.guidance_range, "stay within"
        elif self.stage == 2:
            known, remedy = [1.0, 1.0], "distill it with stage 1 first, or use [1.0, 1.0]"
        else:
            known = [1.0, float("inf")] if bundle.can_be_guided else [1.0, 1.0]
            remedy = "fine-tune it with method.drop_condition=0.1 first, or use [1.0, 1.0]"
        if not known[0] <= low <= high <= known[1]:
            raise UserError(f"method.guidance is {self.guidance}, {path} was trained for {known}: {remedy}")

    def load(self, path: str) -> tuple[Base, AdaptedUNet]:
        """A base to distill without a task. Raises UserError, see `load_unconditional`."""
        base = load_unconditional(path, reverse=self.reverse)
        assert base.unet is not None
        return base, AdaptedUNet(base.unet, name="student")

    def build(self, base: Base, student: AdaptedUNet, perceptual: Callable | None = None) -> LatentMethod:
        """The method of the stage. Stage 1 puts a UNet that takes the guidance into the base.

        Raises:
            UserError: a guidance other than 1 for a network that does not take it, or a stage 1 on a frozen UNet.
        """
        if self.stage == 2:
            if list(self.guidance) != [1.0, 1.0] and not student.takes_guidance:
                raise UserError(
                    f"method.guidance is {self.guidance}: this model takes none; distill it with stage 1 first"
                )
            return HalvingMethod(self, base, student)
        if student.takes_guidance:
            return GuidanceMethod(self, base, student, None)
        if student.train != "all":
            raise UserError("method guided, stage 1, gives the UNet a new input: it needs train 'all'")
        # The given UNet stays as it is from here on: it is the teacher's.
        has_mask, frozen = student.has_mask, clone_adapter(student.adapter, "frozen_adapter")
        teacher = AdaptedUNet(student.unet, frozen, has_mask=has_mask, name="frozen")
        unet = with_guidance(student.unet, "unet")
        base = dataclasses.replace(base, unet=unet)
        student = AdaptedUNet(unet, student.adapter, has_mask=has_mask, name="student")
        return GuidanceMethod(self, base, student, teacher)


class GuidanceMethod(LatentMethod):
    """Stage one, Eq. 3: a student that takes the guidance as an input learns the guided prediction of its teacher.

    Args:
        settings: range of the guidance and space of the error.
        base: the fine-tuned model; its UNet is the student's.
        student: the network that takes the guidance.
        frozen: the teacher, which takes no guidance: it is evaluated with and without (c = 0) the condition. None for a
            model that takes the guidance already, and hence cannot be trained in this stage.
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
        guidance = _draw_guidance(self.settings, x, draws)
        loss = losses.guidance_matching(
            denoiser(base, self.student, c, conditioning, guidance=guidance),
            denoiser(base, self.frozen, c, conditioning),
            denoiser(base, self.frozen, ops.zeros_like(c), conditioning),
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


class HalvingMethod(LatentMethod):
    """Stage two, progressive distillation: the student learns to take one step for two of its teacher.

    When a phase ends, teacher and student take the weights of the moving average, and the number of steps is halved.
    Works on a conditional model as well as on a base alone.

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
        phase, place = step // self.settings.updates, step % self.settings.updates

        def refresh():
            assign_network(self.average, self.teacher)
            assign_network(self.average, self.student)
            return True

        tf.cond((place == 0) & (phase > 0) & (phase < len(self._counts)), refresh, lambda: False)

    def loss_terms(self, batch, draws):
        """{"halving": float32 [B]} of a batch, see `losses.halving`."""
        base = self.base
        x, c, conditioning = encoded(base, self.student, batch)
        guidance = _draw_guidance(self.settings, x, draws) if self.student.takes_guidance else None
        loss = losses.halving(
            denoiser(base, self.student, c, conditioning, guidance=guidance),
            denoiser(base, self.teacher, c, conditioning, guidance=guidance),
            x,
            draws.noise(x),
            self._draw_steps(x, draws),
            space=self.settings.space,
        )
        return {"halving": loss}

    def _draw_steps(self, x, draws) -> Halving:
        """One of the phase's N steps for each example, uniformly."""
        phase = tf.minimum(tf.cast(draws.step // self.settings.updates, tf.int32), len(self._counts) - 1)
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


def _draw_guidance(settings: Guided, x, draws):
    """Guidance uniform in its range, float32 [B]."""
    low, high = settings.guidance
    return low + (high - low) * draws.uniform(x, "guidance")
