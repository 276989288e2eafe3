"""The whole way from condition and noise to image as one graph of fixed shapes."""

from __future__ import annotations

import keras
import tensorflow as tf

from codi_tf.errors import UserError
from codi_tf.model import CoDi

MAX_STEPS = 16  # every step is a copy of the network's nodes
MAX_CONSTANTS = 2**31 - 2**24  # bytes of weights that one flatbuffer or protocol buffer holds, with room for the graph


class SamplerProgram(tf.Module):
    """image = decode(x_hat), x_hat after `steps` unrolled network evaluations from the noise on (CoDi, Eq. 7).

    The condition is encoded and its features are computed once; all steps refer to the same weights.

    Inputs, of fixed shapes: condition float32 [1, H, W, 3] in [0, 1]; noise float32 [1, h, w, 4], standard normal.
    Output: image float32 [1, H, W, 3] in [0, 1].

    Args:
        model: the model that generates.
        steps: network evaluations, 1 to MAX_STEPS.
        height, width: H and W, multiples of `model.base.multiple`.

    Raises:
        UserError: for steps or a size out of these bounds.
    """

    def __init__(self, model: CoDi, *, steps: int, height: int, width: int):
        super().__init__(name="sampler")
        check_steps(steps)
        multiple = model.base.multiple
        if min(height, width) < multiple or height % multiple or width % multiple:
            raise UserError(f"size is {height}x{width}: both sides must be positive multiples of {multiple}")
        self.steps, self.height, self.width = steps, height, width
        self.latent_shape = model.latent_shape(1, height, width)
        # A function, not an attribute that holds the model: a module takes what its attributes hold into a SavedModel.
        self._image = _image_function(model, steps)
        self._keras_variables = lambda: (*model.network.variables, *model.base.vae.variables)
        # TensorFlow's variables, not Keras': those are not tracked, and are lost in conversion without an error.
        self.weights = [variable.value for variable in self._keras_variables()]
