"""Guided distillation (Meng et al. 2023): the guidance becomes an input, then the number of steps is halved."""

from __future__ import annotations

import numpy as np
import tensorflow as tf
from keras import ops

from codi_tf import config
from codi_tf.adapters.adapted import AdaptedUNet
from codi_tf.checkpoints.base import Base
from codi_tf.core.errors import UserError
from codi_tf.diffusion import losses
from codi_tf.diffusion.halving import Halving, halving_steps
from codi_tf.methods.method import Method
from codi_tf.methods.networks import assign_network, copy_of, denoiser, encoded


class GuidanceMethod(Method):
    """Stage one, Eq. 3: a student with the guidance as an input learns what the guided teacher says.

    Args:
        settings: range of the guidance and space of the error.
        base: the fine-tuned model; its UNet is the student's.
        student: the network that takes the guidance.
        frozen: the fine-tuned network that does not: the teacher, with and without (c = 0) the condition.
    """

    terms = ("guidance_matching",)

    def __init__(self, settings: config.Guided, base: Base, student: AdaptedUNet, frozen: AdaptedUNet | None):
        self.settings, self.base, self.student, self.frozen = settings, base, student, frozen

    def start_average(self) -> AdaptedUNet:
        """The network that will generate.

        Raises:
            UserError: there is no teacher, because the base's UNet takes the guidance already.
        """
        if self.frozen is None:
            raise UserError("this model takes the guidance already: go on with stage 2, or start from another model")
        return copy_of(self.student, "average")

    def loss_terms(self, batch, draws):
        """{"guidance_matching": [B]} of a batch."""
        base = self.base
        x, c, context = encoded(base, self.student, batch)
        guidance = _draw_guidance(self.settings, x, draws)
        loss = losses.guidance_matching(
            denoiser(base, self.student, c, context, guidance=guidance),
            denoiser(base, self.frozen, c, context),
            denoiser(base, self.frozen, ops.zeros_like(c), context),
            base.schedule,
            x,
            draws.noise(x),
            draws.times(x, low=0, high=base.schedule.num_steps, shared=False),
            guidance,
            space=self.settings.space,
        )
        return {"guidance_matching": loss}


class HalvingMethod(Method):
    """Stage two, progressive distillation: the student does in one step what its teacher does in two, again and again.

    When a phase ends, teacher and student become the moving average, and the number of steps is halved. Works on a
    conditional model as well as on a base alone.

    Args:
        settings: the numbers of steps, the updates of a phase, range of the guidance and space of the error.
        base: the model; its UNet is the student's.
        student: the network to start from.
    """

    terms = ("halving",)

    def __init__(self, settings: config.Guided, base: Base, student: AdaptedUNet):
        self.settings, self.base, self.student = settings, base, student
        self.average = None
        if settings.steps[0] > base.schedule.num_steps // 2:
            raise UserError(f"method.steps begins with {settings.steps[0]}: at most {base.schedule.num_steps // 2}")
        grids = [halving_steps(base.schedule, n, stochastic=settings.stochastic) for n in settings.steps]
        # All phases in one table: the steps of phase p begin at offset p.
        self._table = [np.array(column) for column in zip(*(step for grid in grids for step in grid), strict=True)]
        self._counts = np.array(settings.steps, np.int32)
        self._offsets = np.cumsum([0, *settings.steps[:-1]]).astype(np.int32)

    def start_average(self) -> AdaptedUNet:
        """The network that will generate; the teacher of the first phase is made, too."""
        self.average, self.teacher = copy_of(self.student, "average"), copy_of(self.student, "teacher")
        return self.average

    def begin_step(self, step) -> None:
        """Teacher and student <- moving average, where a phase begins that is not the first."""
        phase, place = step // self.settings.updates, step % self.settings.updates

        def refresh():
            assign_network(self.average, self.teacher)
            assign_network(self.average, self.student)
            return True

        tf.cond((place == 0) & (phase > 0) & (phase < len(self._counts)), refresh, lambda: False)

    def loss_terms(self, batch, draws):
        """{"halving": [B]} of a batch."""
        base = self.base
        x, c, context = encoded(base, self.student, batch)
        guidance = _draw_guidance(self.settings, x, draws) if self.student.takes_guidance else None
        loss = losses.halving(
            denoiser(base, self.student, c, context, guidance=guidance),
            denoiser(base, self.teacher, c, context, guidance=guidance),
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


def _draw_guidance(settings: config.Guided, x, draws):
    """Guidance uniform in its range, float32 [B]."""
    low, high = settings.guidance
    return low + (high - low) * draws.uniform(x, "guidance")
