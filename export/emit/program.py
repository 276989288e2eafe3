"""`SamplerProgram`: what is exported, a model with a sampler, a number of steps and fixed shapes."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf

from codi_tf.core.errors import UserError
from codi_tf.diffusion.conditioning import Conditioning
from codi_tf.diffusion.grid import Grid
from codi_tf.diffusion.sampling import make_grid, sample
from codi_tf.model import CoDi
from codi_tf.models.convolution import plain_convolutions
from export.emit.limits import check_steps


class SamplerProgram(tf.Module):
    """image = decode(x_hat), with x_hat from the noise by `steps` network evaluations (CoDi, Eq. 7).

    The condition is encoded and its features are computed once; all steps share the same weights. The task's
    `condition_from_image` and `finish` are part of the program.

    Inputs, of fixed shapes: condition float32 [1, H, W, C] in [0, 1], C 3, or 4 with a mask (1 is unknown, 0 known);
    noise float32 [1, h, w, 4], standard normal; and ids int32 [77], the prompt's tokens, if the task has prompts and
    `prompt` is None. Output: image float32 [1, H, W, 3] in [0, 1].

    Args:
        model: the model that generates.
        steps: network evaluations, 1 to `limits.MAX_STEPS`.
        height, width: H and W, positive multiples of `model.base.multiple`.
        prompt: the prompt of every image. None: the empty one, or, for a task with prompts, an input.
        sampler: a registered sampler whose steps are deterministic and of first order; None: the one that the model is
            trained for.

    Attributes:
        grid: the sampler's steps.
        context: the embedded prompt, float32 [77, D]; None where it is an input.

    Raises:
        UserError: steps or a side out of these bounds; another sampler; a prompt that the model cannot take.
    """

    model: CoDi
    grid: Grid

    def __init__(
        self, model: CoDi, *, steps: int, height: int, width: int, prompt: str | None = None, sampler: str | None = None
    ):
        super().__init__(name="sampler")
        check_steps(steps)
        multiple = model.base.multiple
        if min(height, width) < multiple or height % multiple or width % multiple:
            raise UserError(f"size is {height}x{width}: both sides must be positive multiples of {multiple}")
        self.steps, self.height, self.width, self.prompt = steps, height, width, prompt
        self.sampler = model.sampler if sampler is None else sampler
        object.__setattr__(self, "grid", first_order_grid(model, self.sampler, steps))  # tf.Module would unpack it
        self.latent_shape = model.latent_shape(1, height, width)
        self.time_channels = model.network.unet.time_embedding.channels
        self.context_shape = model.base.context.shape[1:]
        if prompt is None:
            self.context = None if model.task.prompted else np.asarray(model.base.context)[0]
        else:
            self.context = np.asarray(model.base.embed(prompt))[0]
        object.__setattr__(self, "model", model)  # tf.Module would save the whole trainer
        # TensorFlow's variables: Keras' are not tracked by a module, and converters lose them without an error.
        self.weights = [variable.value for variable in self.variables_in_use()]

    def variables_in_use(self) -> tuple[keras.Variable, ...]:
        """All weights that the image depends on, each once."""
        base, network = self.model.base, self.model.network
        coders = [network]
        if network.adapter is not None and network.condition_space != "image":
            coders += [base.vae.encoder, base.vae.quant_conv]
        coders += [base.vae.decoder, base.vae.post_quant_conv] if base.decoder is None else [base.decoder]
        coders += [] if self.context is not None else [base.text_encoder]
        return tuple(variable for part in coders for variable in part.variables)

    def inputs(self) -> dict[str, tf.TensorSpec]:
        """The specifications of the inputs, by name."""
        condition = (1, self.height, self.width, self.model.task.condition_channels)
        specs = {
            "condition": tf.TensorSpec(condition, tf.float32, name="condition"),
            "noise": tf.TensorSpec(self.latent_shape, tf.float32, name="noise"),
        }
        if self.context is None:
            specs["ids"] = tf.TensorSpec(self.context_shape[:1], tf.int32, name="ids")
        return specs

    def conditioning(self, ids=None) -> Conditioning:
        """Of the prompt: the fixed one, or that of tokens `ids`, int32 [77], where the prompt is an input."""
        if self.context is not None:
            return Conditioning(self.context[None])
        assert ids is not None and self.model.base.text_encoder is not None
        return Conditioning(self.model.base.text_encoder(ids[None]))

    def image(self, condition: tf.Tensor, noise: tf.Tensor, ids: tf.Tensor | None = None) -> tf.Tensor:
        """Run the program; inputs and output as in the class docstring."""
        with plain_convolutions():
            model, task = self.model, self.model.task
            condition = task.condition_from_image(2.0 * condition - 1.0)
            c = model.encode_condition(condition)
            latents = sample(model.denoiser(c, self.conditioning(ids)), noise, self.grid)
            image = task.finish(tf.clip_by_value(model.base.decode(latents), -1.0, 1.0), condition)
            return (image + 1.0) / 2.0

    def trace(self):
        """A ConcreteFunction (condition, noise[, ids]) -> {"image"} whose variables are `weights`."""

        def named(condition, noise, ids=None):
            return {"image": self.image(condition, noise, ids)}

        signature = list(self.inputs().values())
        return tf.function(named, input_signature=signature, autograph=False).get_concrete_function()

    def at(self, height: int, width: int) -> SamplerProgram:
        """The same program at another size. Raises UserError for a side that is no positive multiple."""
        options = {"steps": self.steps, "prompt": self.prompt, "sampler": self.sampler}
        return SamplerProgram(self.model, height=height, width=width, **options)


def first_order_grid(model: CoDi, sampler: str, steps: int) -> Grid:
    """The steps of a sampler, z_s = alpha_s x_hat + sigma_s eps_hat. Raises UserError for other steps."""
    grid = make_grid(sampler, model.base.schedule, steps)
    if any(step.noise or step.ratio for step in grid.steps):
        trained = " (this model is trained for it: with 1 step it can be exported)" if sampler == model.sampler else ""
        raise UserError(
            f"sampler is {sampler!r}{trained}: exported steps are deterministic and of first order; use ddim"
        )
    return grid
