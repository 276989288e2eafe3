"""What Keras says the parts of a sampler do: for each its inputs and outputs, on the sampler's own trajectory."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import tensorflow as tf
from keras import ops

from codi_tf.diffusion.sampling import few_step_grid, trajectory
from codi_tf.models.adapter import MuAdapter
from codi_tf.models.convolution import plain_convolutions
from export.emit import sampler
from export.emit.program import SamplerProgram


class Example(NamedTuple):
    """A call of a part: the tensors that it takes and gives, by name, and what there is beside."""

    part: str
    inputs: dict[str, np.ndarray]
    outputs: dict[str, np.ndarray]


def examples(
    program: SamplerProgram, condition: np.ndarray, noise: np.ndarray, ids: np.ndarray | None
) -> list[Example]:
    """A call of every part, of the step as many as there are, in their order.

    A part's inputs are what Keras gave it, so that the errors of the parts before it are not in them.
    """
    model, network = program.model, program.model.network
    pool, made = {"condition": condition}, []
    with plain_convolutions():
        if ids is not None:
            pool["ids"] = ids
            context = model.base.text_encoder(ids[None])
            made.append(Example("text", {"ids": ids}, {"context": ops.convert_to_numpy(context)}))
            pool["context"] = made[-1].outputs["context"]
        else:
            context = program.context[None]
        condition = model.task.condition_from_image(tf.constant(2.0 * condition - 1.0))
        c = model.encode_condition(condition)
        if network.adapter is not None:
            condition_features = _condition_features(network.adapter, network.condition(c, context))
            made.append(
                Example(
                    "encoder",
                    dict(pool),
                    {f"condition_features_{i}": value for i, value in enumerate(condition_features)},
                )
            )
            pool.update(made[-1].outputs)
        z, denoise = noise, model.denoiser(c, context)
        steps = trajectory(denoise, tf.constant(noise), few_step_grid(model.base.schedule, program.steps))
        for time, scales, (_, z_next) in zip(*sampler.tables(program), steps, strict=True):
            z_next = ops.convert_to_numpy(z_next)
            made.append(Example("step", {**pool, "z": z, "time": time, "scales": scales}, {"z_next": z_next}))
            z = z_next
        picture = tf.clip_by_value(model.base.decode(tf.constant(z)), -1.0, 1.0)
        image = (model.task.finish(picture, condition) + 1.0) / 2.0
    return [*made, Example("decoder", {**pool, "z": z}, {"image": ops.convert_to_numpy(image)})]


def _condition_features(adapter, features) -> list[np.ndarray]:
    """What `networks.condition` gives, of the features that Keras' adapter computes."""
    features = [ops.convert_to_numpy(h) for h in features]
    if isinstance(adapter, MuAdapter):
        mu = ops.convert_to_numpy(adapter.mu)
        features = [*(m * h for m, h in zip(mu, features, strict=True)), 1.0 - mu]
    return features
