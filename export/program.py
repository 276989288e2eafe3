"""The whole way from condition and noise to image as one graph of fixed shapes."""

from __future__ import annotations

import keras
import tensorflow as tf

from codi_tf.errors import UserError
from codi_tf.model import CoDi
from codi_tf.models.convolution import plain_convolutions
from export.package import check_steps

MAX_CONSTANTS = 2**31 - 2**24  # bytes of weights that one protocol buffer holds, with room for the graph


class SamplerProgram(tf.Module):
    """image = decode(x_hat), x_hat by `steps` unrolled network evaluations from the noise on (CoDi, Eq. 7).

    The condition is encoded and its features are computed once; all steps refer to the same weights.

    Inputs, of fixed shapes: condition float32 [1, H, W, 3] in [0, 1] and noise float32 [1, h, w, 4], standard normal.
    Output: image float32 [1, H, W, 3] in [0, 1].

    Args:
        model: the model that generates.
        steps: network evaluations, 1 to `package.MAX_STEPS`.
        height, width: H and W, positive multiples of `model.base.multiple`.

    Raises:
        UserError: steps or a side out of these bounds; a model that takes a mask.
    """

    def __init__(self, model: CoDi, *, steps: int, height: int, width: int):
        super().__init__(name="sampler")
        check_steps(steps)
        if model.task.condition_channels != 3:
            raise UserError("models that take a mask cannot be exported yet: use python -m codi_tf.sample")
        multiple = model.base.multiple
        if min(height, width) < multiple or height % multiple or width % multiple:
            raise UserError(f"size is {height}x{width}: both sides must be positive multiples of {multiple}")
        self.steps, self.height, self.width = steps, height, width
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
            latents = self.model.sample_latents(self.model.see(2.0 * condition - 1.0), noise, steps=self.steps)
            return tf.clip_by_value((self.model.base.decode(latents) + 1.0) / 2.0, 0.0, 1.0)

    def trace(self):
        """A ConcreteFunction (condition, noise) -> {"image"} that refers to `weights`."""
        return self._concrete(self.image)

    def trace_frozen(self):
        """A ConcreteFunction (condition, noise) -> {"image"} whose graph holds the weights as constants.

        Raises:
            UserError: the weights are too large for it.
        """
        values = [(variable, variable.numpy()) for variable in self.variables_in_use()]
        size = sum(value.nbytes for _, value in values)
        if size > MAX_CONSTANTS:
            raise UserError(f"the weights take {size / 2**30:.1f} GiB, this format holds 2: use --format saved_model")

        def frozen_image(condition, noise):
            constants = [(variable, tf.constant(value, name=variable.path)) for variable, value in values]
            with keras.StatelessScope(state_mapping=constants):
                return self.image(condition, noise)

        return self._concrete(frozen_image)

    def _concrete(self, function):
        signature = [
            tf.TensorSpec((1, self.height, self.width, 3), tf.float32, name="condition"),
            tf.TensorSpec(self.latent_shape, tf.float32, name="noise"),
        ]

        def named(condition, noise):
            return {"image": function(condition, noise)}

        return tf.function(named, input_signature=signature, autograph=False).get_concrete_function()
