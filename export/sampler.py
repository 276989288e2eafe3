"""The sampler of CoDi, Eq. 7, as a graph: condition and noise in, picture out; and its parts, each by itself.

A step of Eq. 7 is linear in z_t and in what the network says: z_s = a z_t + b w_theta(z_t, c, t), whatever the network
predicts. A step's numbers are (t, a, b), and the last step is one like the others.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from keras import ops

from codi_tf.diffusion import bounded, coefficients, predict
from codi_tf.errors import UserError
from codi_tf.model import CoDi
from codi_tf.models.layers import guidance_features
from codi_tf.sampling import few_step_grid
from codi_tf.tasks import Depth, Inpainting
from export import networks
from export.graph import Graph, Value


@dataclass(frozen=True)
class StepNumbers:
    """One step: z <- a z + b w_theta(z, c, t)."""

    t: int
    a: float
    b: float


def step_numbers(model: CoDi, steps: int) -> list[StepNumbers]:
    """The steps of a model's sampler, in their order: Eq. 7, read off its own functions, which are linear."""
    schedule, numbers = model.base.schedule, []
    for step in few_step_grid(schedule, steps).steps:

        def after(z: float, output: float, step=step) -> float:
            def denoise(z_t, t):
                alpha_t, sigma_t = coefficients(schedule, t, 1)
                return predict(np.float32([output]), z_t, alpha_t, sigma_t, model.base.prediction_type)

            denoise = bounded(denoise, schedule) if model.boundary else denoise
            said = denoise(ops.convert_to_tensor([z], "float32"), ops.convert_to_tensor(step.t, "int32"))
            return float(step.alpha_s * said.x_hat[0] + step.sigma_s * said.eps_hat[0])

        numbers.append(StepNumbers(step.t, after(1.0, 0.0), after(0.0, 1.0)))
    return numbers


@dataclass(frozen=True)
class Sampler:
    """A model at a fixed size, and what its graphs are made of.

    Attributes:
        model: what generates.
        steps: network evaluations.
        height, width: of pictures.
        context: the prompt that it is made for, embedded, [77, D]; None: the prompt's embedding is an input.
    """

    model: CoDi
    steps: int
    height: int
    width: int
    context: np.ndarray | None

    @property
    def latent_size(self) -> tuple[int, int, int]:
        return self.model.latent_shape(1, self.height, self.width)[1:]

    # The parts

    def encode(self, g: Graph, condition: Value, context: Value) -> list[Value]:
        """The condition (H, W, 3 or 4) in [-1, 1] -> what all steps are told of it."""
        model, network = self.model, self.model.network
        if network.adapter is None:
            return []
        return networks.condition(g, network.adapter, self._seen(g, condition), context)

    def step(self, g: Graph, z: Value, t: Value, a: Value, b: Value, told: list[Value], context: Value) -> Value:
        """z_t and a step's numbers, (1,) each -> z_s; t may be the time's waves."""
        network, guidance = self.model.network, None
        if network.takes_guidance:
            weight = np.float32([self.model.lowest_guidance - 1.0])
            features = guidance_features(weight, network.unet.time_cond_proj_dim)
            guidance = g.constant(ops.convert_to_numpy(features)[0])
        said = networks.adapted_unet(g, network, z, t, told, context, guidance)
        return g.add(g.multiply(z, a), g.multiply(said, b))

    def decode(self, g: Graph, z: Value) -> Value:
        """Latents -> the picture (H, W, 3) in [-1, 1]."""
        vae = self.model.base.vae
        h = g.conv(g.affine(z, 1.0 / vae.scaling_factor, 0.0), vae.post_quant_conv)
        return g.clip(networks.coder(g, vae.decoder, h), -1.0, 1.0)

    def _seen(self, g: Graph, condition: Value) -> Value:
        """`CoDi.see`."""
        vae = self.model.base.vae
        if self.model.network.sees == "image":
            return condition
        photo = condition if condition.shape[2] == 3 else g.channels(condition, 0, 3)
        moments = g.conv(networks.coder(g, vae.encoder, photo), vae.quant_conv)
        latents = g.affine(g.channels(moments, 0, vae.latent_channels), vae.scaling_factor, 0.0)
        if condition.shape[2] == 3:
            return latents
        return g.concatenate(latents, g.pooled(g.channels(condition, 3, 4), vae.factor))

    # The whole

    def condition(self, g: Graph, image: Value) -> Value:
        """What a user brings, (H, W, C) in [0, 1] -> the condition in [-1, 1], as the task makes it."""
        task, x = self.model.task, g.affine(image, 2.0, -1.0)
        if isinstance(task, Inpainting):
            mask = g.above(g.channels(x, 3, 4), 0.0)
            known = g.affine(mask, -1.0, 1.0)
            return g.concatenate(g.multiply(g.channels(x, 0, 3), g.repeated(known, 3)), mask)
        if isinstance(task, Depth):
            return self._nearness(g, task, x)
        return x

    @staticmethod
    def _nearness(g: Graph, task: Depth, x: Value) -> Value:
        if tuple(task.percentiles) != (0, 100):
            raise UserError(f"percentiles is {task.percentiles}: an exported model normalises by 0 and 100 alone")
        near = g.largest_channel(x)
        low, high = g.bounds(near)
        balance = g.subtract(g.subtract(near, low), g.subtract(high, near))
        return g.repeated(g.clip(g.divide_no_nan(balance, g.subtract(high, low)), -1.0, 1.0), 3)

    def finish(self, g: Graph, picture: Value, condition: Value) -> Value:
        """The picture in [-1, 1] -> what is shown, in [0, 1]."""
        if isinstance(self.model.task, Inpainting):
            mask = g.repeated(g.channels(condition, 3, 4), 3)
            known = g.multiply(g.channels(condition, 0, 3), g.affine(mask, -1.0, 1.0))
            picture = g.add(g.multiply(picture, mask), known)
        return g.affine(picture, 0.5, 0.5)

    def prompt(self, g: Graph) -> Value:
        """The prompt's embedding, (77, D)."""
        if self.context is not None:
            return g.constant(self.context)
        return g.input("context", (77, self.model.network.unet.cross_attention_dim))

    def whole(self, g: Graph) -> None:
        """Condition, noise and, where none is given, prompt -> image."""
        image = g.input("condition", (self.height, self.width, self.model.task.condition_channels))
        z, context = g.input("noise", self.latent_size), self.prompt(g)
        condition = self.condition(g, image)
        told = self.encode(g, condition, context)
        channels = self.model.network.unet.time_embedding.channels
        for step in step_numbers(self.model, self.steps):
            waves = g.constant(networks.time_waves(step.t, channels))
            a, b = (g.constant(np.float32([number])) for number in (step.a, step.b))
            z = self.step(g, z, waves, a, b, told, context)
        g.output("image", self.finish(g, self.decode(g, z), condition))
