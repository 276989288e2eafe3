"""The inputs and outputs of a sampler's parts, computed with Keras on the sampler's own trajectory."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import tensorflow as tf
from keras import ops

from codi_tf.adapters.adapted import Adapter
from codi_tf.diffusion.sampling import trajectory
from codi_tf.models.convolution import plain_convolutions
from export.emit import sampler
from export.emit.program import SamplerProgram


class Example(NamedTuple):
    """A call of a part: inputs and outputs by name. The inputs may include tensors that the part does not take."""

    part: str
    inputs: dict[str, np.ndarray]
    outputs: dict[str, np.ndarray]


def examples(
    program: SamplerProgram, condition: np.ndarray | None, noise: np.ndarray, ids: np.ndarray | None
) -> list[Example]:
    """Calls of all parts in their order, with one call of "step" for each step.

    The inputs of a part are computed with Keras, so they do not contain the errors of earlier parts. `condition`,
    `noise` and `ids` are inputs of the program, as NumPy arrays; None for an input that it does not take.
    """
    model, network = program.model, program.model.network
    pool, made = {} if condition is None else {"condition": condition}, []
    with plain_convolutions():
        conditioning = program.conditioning(ids)
        if ids is not None:
            pool["ids"] = ids
            made.append(Example("text", {"ids": ids}, {"context": ops.convert_to_numpy(conditioning.context)}))
            pool["context"] = made[-1].outputs["context"]
        encoded, c = program.encoded(None if condition is None else tf.constant(condition))
        if network.adapter is not None:
            condition_features = []
            for seen in program.features(c, conditioning):
                features = [ops.convert_to_numpy(h) for h in seen or ()]
                condition_features += _scaled(network.adapter, features, program.condition_scale)
            made.append(
                Example(
                    "encoder",
                    dict(pool),
                    {f"condition_features_{i}": value for i, value in enumerate(condition_features)},
                )
            )
            pool.update(made[-1].outputs)
        z, denoise = noise, program.denoiser(c, conditioning)
        steps = trajectory(denoise, tf.constant(noise), program.grid)
        for time, scales, (_, z_next) in zip(*sampler.tables(program), steps, strict=True):
            z_next = ops.convert_to_numpy(z_next)
            made.append(Example("step", {**pool, "z": z, "time": time, "scales": scales}, {"z_next": z_next}))
            z = z_next
        decoded = tf.clip_by_value(model.base.decode(tf.constant(z)), -1.0, 1.0)
        image = program.finished(decoded, encoded)
    return [*made, Example("decoder", {**pool, "z": z}, {"image": ops.convert_to_numpy(image)})]


def _scaled(adapter: Adapter, features: list, scale: float) -> list:
    """Features of `condition` as they are emitted, see `emit.adapted.condition_features`."""
    emitted = adapter.emitted_features(features)
    neutral = adapter.neutral_features(len(emitted))
    if scale == 1.0 or neutral is None:
        return emitted
    return [scale * h + (1.0 - scale) * n for h, n in zip(emitted, neutral, strict=True)]
