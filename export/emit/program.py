"""The whole way from condition and noise to image, of fixed shapes."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from codi_tf.core.errors import UserError
from codi_tf.model import CoDi
from codi_tf.models.convolution import plain_convolutions
from export.package.manifest import SIGNATURE, check_steps


class SamplerProgram(tf.Module):
    """image = decode(x_hat), x_hat by `steps` network evaluations from the noise on (CoDi, Eq. 7).

    The condition is encoded and its features are computed once; all steps refer to the same weights. What the task does
    to conditions and pictures is part of the program.

    Inputs, of fixed shapes: condition float32 [1, H, W, C] in [0, 1], C 3, or 4 with a mask (1 is unknown, 0 known);
    noise float32 [1, h, w, 4], standard normal; and, where no prompt is given for a model that does what it is told,
    ids int32 [77], the prompt's tokens. Output: image float32 [1, H, W, 3] in [0, 1].

    Args:
        model: the model that generates.
        steps: network evaluations, 1 to `package.MAX_STEPS`.
        height, width: H and W, positive multiples of `model.base.multiple`.
        prompt: the one that the program is made for. None: the empty one, or, where the task wants one, an input.

    Attributes:
        context: the embedded prompt, float32 [77, D]; None where it is an input.

    Raises:
        UserError: steps or a side out of these bounds; a prompt that the model has no use for.
    """

    def __init__(self, model: CoDi, *, steps: int, height: int, width: int, prompt: str | None = None):
        super().__init__(name="sampler")
        check_steps(steps)
        multiple = model.base.multiple
        if min(height, width) < multiple or height % multiple or width % multiple:
            raise UserError(f"size is {height}x{width}: both sides must be positive multiples of {multiple}")
        self.steps, self.height, self.width, self.prompt = steps, height, width, prompt
        self.latent_shape = model.latent_shape(1, height, width)
        self.time_channels = model.network.unet.time_embedding.channels
        self.context_shape = model.base.context.shape[1:]
        if prompt is None:
            self.context = None if model.task.prompted else np.asarray(model.base.context)[0]
        else:
            self.context = np.asarray(model.base.embed(prompt))[0]
        object.__setattr__(self, "model", model)  # past tf.Module, which would save the trainer with all it has
        # TensorFlow's variables: Keras' are not tracked by a module, and converters then lose them without an error.
        self.weights = [variable.value for variable in self.variables_in_use()]

    def variables_in_use(self) -> tuple[keras.Variable, ...]:
        """All weights that the image depends on, each once."""
        base, network = self.model.base, self.model.network
        coders = [network]
        if network.adapter is not None and network.condition_space == "latent":
            coders += [base.vae.encoder, base.vae.quant_conv]
        coders += [base.vae.decoder, base.vae.post_quant_conv] if base.decoder is None else [base.decoder]
        coders += [] if self.context is not None else [base.text_encoder]
        return tuple(variable for part in coders for variable in part.variables)

    def inputs(self) -> dict[str, tf.TensorSpec]:
        """What the program takes, by name."""
        condition = (1, self.height, self.width, self.model.task.condition_channels)
        specs = {
            "condition": tf.TensorSpec(condition, tf.float32, name="condition"),
            "noise": tf.TensorSpec(self.latent_shape, tf.float32, name="noise"),
        }
        if self.context is None:
            specs["ids"] = tf.TensorSpec(self.context_shape[:1], tf.int32, name="ids")
        return specs

    def image(self, condition: tf.Tensor, noise: tf.Tensor, ids: tf.Tensor | None = None) -> tf.Tensor:
        """The program itself; arguments and result as above."""
        with plain_convolutions():
            model, task = self.model, self.model.task
            condition = task.condition_from_image(2.0 * condition - 1.0)
            context = self.context[None] if ids is None else model.base.text_encoder(ids[None])
            latents = model.sample_latents(model.encode_condition(condition), noise, steps=self.steps, context=context)
            image = task.finish(tf.clip_by_value(model.base.decode(latents), -1.0, 1.0), condition)
            return (image + 1.0) / 2.0

    def trace(self):
        """A ConcreteFunction (condition, noise[, ids]) -> {"image"} that refers to `weights`."""

        def named(condition, noise, ids=None):
            return {"image": self.image(condition, noise, ids)}

        signature = list(self.inputs().values())
        return tf.function(named, input_signature=signature, autograph=False).get_concrete_function()

    def at(self, height: int, width: int) -> SamplerProgram:
        """The same program of another size. Raises UserError for a side out of its bounds."""
        return SamplerProgram(self.model, steps=self.steps, height=height, width=width, prompt=self.prompt)


def signatures(programs: Sequence[SamplerProgram]) -> list[str]:
    """What programs of several sizes are called in a file that holds them all; the first is the default."""
    return [SIGNATURE, *(f"serving_{program.height}x{program.width}" for program in programs[1:])]
