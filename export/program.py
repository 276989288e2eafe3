"""The whole way from condition and noise to image as one graph of fixed shapes."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf

from codi_tf.errors import UserError
from codi_tf.model import CoDi
from codi_tf.models.convolution import plain_convolutions
from export import sampler
from export.graph import Graph
from export.package import check_steps


class SamplerProgram(tf.Module):
    """image = decode(x_hat), x_hat by `steps` unrolled network evaluations from the noise on (CoDi, Eq. 7).

    The condition is encoded and its features are computed once; all steps refer to the same weights. What the task does
    to conditions and pictures is part of the graph.

    Inputs, of fixed shapes: condition float32 [1, H, W, C] in [0, 1], C 3, or 4 with a mask (1 is unknown, 0 known);
    and noise float32 [1, h, w, 4], standard normal. Output: image float32 [1, H, W, 3] in [0, 1].

    Args:
        model: the model that generates.
        steps: network evaluations, 1 to `package.MAX_STEPS`.
        height, width: H and W, positive multiples of `model.base.multiple`.
        prompt: the one that the graph is made for; None: the empty one.

    Raises:
        UserError: steps or a side out of these bounds; a prompt that the model has no use for, or none for a model that
            does what it is told.
    """

    def __init__(self, model: CoDi, *, steps: int, height: int, width: int, prompt: str | None = None):
        super().__init__(name="sampler")
        check_steps(steps)
        if model.task.prompted and prompt is None:
            raise UserError("this model does what a prompt says, and a file is made for one of them: give --prompt")
        multiple = model.base.multiple
        if min(height, width) < multiple or height % multiple or width % multiple:
            raise UserError(f"size is {height}x{width}: both sides must be positive multiples of {multiple}")
        self.steps, self.height, self.width = steps, height, width
        self.prompt, self.context = prompt, model.base.context if prompt is None else model.base.embed(prompt)
        self.latent_shape = model.latent_shape(1, height, width)
        object.__setattr__(self, "model", model)  # past tf.Module, which would save the trainer with all it has
        # TensorFlow's variables: Keras' are not tracked by a module, and converters then lose them without an error.
        self.weights = [variable.value for variable in self.variables_in_use()]

    def variables_in_use(self) -> tuple[keras.Variable, ...]:
        """All weights that the image depends on, each once."""
        return (*self.model.network.variables, *self.model.base.vae.variables)

    def image(self, condition: tf.Tensor, noise: tf.Tensor) -> tf.Tensor:
        """The program itself; condition, noise and result as above."""
        with plain_convolutions():
            model, task = self.model, self.model.task
            condition = task.condition_from_image(2.0 * condition - 1.0)
            latents = model.sample_latents(model.see(condition), noise, steps=self.steps, context=self.context)
            image = task.finish(tf.clip_by_value(model.base.decode(latents), -1.0, 1.0), condition)
            return (image + 1.0) / 2.0

    def trace(self):
        """A ConcreteFunction (condition, noise) -> {"image"} that refers to `weights`."""
        return self._concrete(self.image)

    def emit(self, graph: Graph) -> None:
        """Write the program into an empty graph of a format: see `sampler.whole`."""
        options = {"steps": self.steps, "height": self.height, "width": self.width}
        sampler.whole(graph, self.model, context=np.asarray(self.context)[0], **options)

    def _concrete(self, function):
        signature = [
            tf.TensorSpec(
                (1, self.height, self.width, self.model.task.condition_channels), tf.float32, name="condition"
            ),
            tf.TensorSpec(self.latent_shape, tf.float32, name="noise"),
        ]

        def named(condition, noise):
            return {"image": function(condition, noise)}

        return tf.function(named, input_signature=signature, autograph=False).get_concrete_function()
