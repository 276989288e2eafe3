"""A program as one graph, from condition and noise to the image, or as the graphs of its parts.

A deterministic step of first order, as Eq. 7, is linear in z_t and in the network's output, whatever it predicts:
z_s = a z_t + b w_theta(z_t, c, t). A step's numbers are t, a and b; the last, which returns x_hat, is no exception.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from keras import ops

from codi_tf.diffusion.grid import Grid
from codi_tf.diffusion.process import bounded, coefficients, predict
from codi_tf.model import CoDi
from codi_tf.models.embeddings import guidance_features
from codi_tf.tasks import Task
from export.emit import adapted, fidelity, networks
from export.emit.graph import Graph, Value
from export.emit.terms import Term, View
from export.emit.text_model import TextModel

if TYPE_CHECKING:
    from export.emit.program import SamplerProgram


class StepNumbers(NamedTuple):
    """One step: z <- a z + b w_theta(z, c, t)."""

    t: int
    a: float
    b: float


def step_numbers(model: CoDi | TextModel, grid: Grid) -> list[StepNumbers]:
    """The numbers of a sampler's steps, computed with the functions that the Keras model samples with."""
    schedule, numbers = model.base.schedule, []
    for step in grid.steps:

        def after(z: float, output: float, step=step) -> float:
            def unbounded(z_t, t):
                alpha_t, sigma_t = coefficients(schedule, t, 1)
                return predict(np.array([output], "float32"), z_t, alpha_t, sigma_t, model.base.prediction_type)

            denoise = bounded(unbounded, schedule, model.boundary)
            now = denoise(ops.convert_to_tensor([z], "float32"), ops.convert_to_tensor(step.t, "int32"))
            return float(step.alpha_s * now.x_hat[0] + step.sigma_s * now.eps_hat[0])

        numbers.append(StepNumbers(step.t, after(1.0, 0.0), after(0.0, 1.0)))
    return numbers


def estimate(program: SamplerProgram) -> StepNumbers:
    """The numbers with which the first step would end at the data: at x_hat."""
    first = program.grid.steps[0]._replace(alpha_s=1.0, sigma_s=0.0)
    return step_numbers(program.model, Grid((first,)))[0]


def whole(g: Graph, program: SamplerProgram) -> None:
    """The whole sampler: "condition" (H, W, 3 or 4) in [0, 1] and "noise" (h, w, 4) to "image" (H, W, 3) in [0, 1].

    If the prompt is an input, its tokens, int32 [77], are the input "ids". Without a task there is no condition.
    """
    model = program.model
    condition, z = _condition(g, program), g.input("noise", program.latent_shape[1:])
    prompt = _prompt(g, program) if program.context is not None else _embedded(g, program)
    condition_features = encode(g, program, condition, prompt)

    def next_z(z: Value, time: Value, scales: Value) -> Value:
        return step(g, program, z, time, scales, condition_features, prompt)

    rows = list(tables(program))
    if program.mixes:
        first, *_ = step_numbers(model, program.grid)
        table = fidelity.shares(program.fidelity, first[1:], estimate(program)[1:], len(program.grid.steps))
        z = fidelity.repeat(g, z, rows, table, next_z)
    else:
        z = g.repeat(z, rows, next_z)
    g.output("image", finish(g, model.task, decode(g, model, z), condition))


def text(g: Graph, program: SamplerProgram) -> None:
    """The part that embeds a prompt: "ids" int32 [77] -> "context" [77, D]."""
    g.output("context", _embedded(g, program))


def encoder(g: Graph, program: SamplerProgram) -> None:
    """The part that encodes a condition: "condition", "context" -> "condition_features_0", ..., for every step.

    If a guided step sees the condition in several ways, the features of each follow one another.
    """
    for i, value in enumerate(_condition_features(g, program)):
        g.output(f"condition_features_{i}", value)


def denoiser(g: Graph, program: SamplerProgram) -> None:
    """A step: "z", "time" (features of t), "scales" (a, b), "condition_features_0", ..., "context" -> "z_next"."""
    condition_features, prompt = _condition_feature_inputs(g, program), _prompt(g, program)
    z, time, scales = _z(g, program), g.input("time", (program.time_channels,)), g.input("scales", (2,))
    g.output("z_next", step(g, program, z, time, scales, condition_features, prompt))


def first_half(g: Graph, program: SamplerProgram) -> None:
    """The first half of a step too large for a file: z, time, condition_features_*, context -> feature_*, temb."""
    condition_features, prompt = _condition_feature_inputs(g, program), _prompt(g, program)
    z, time = _z(g, program), g.input("time", (program.time_channels,))
    for name, value in _features(g, program, z, time, condition_features, prompt).items():
        g.output(name, value)


def second_half(g: Graph, program: SamplerProgram) -> None:
    """The second half of such a step: "feature_0", ..., "temb", "z", "scales", "context" -> "z_next"."""
    blank = g.blank()
    condition_features, prompt = _condition_feature_inputs(blank, program), _prompt(blank, program)
    time = blank.input("time", (program.time_channels,))
    shapes = {
        n: v.shape for n, v in _features(blank, program, _z(blank, program), time, condition_features, prompt).items()
    }
    *features, temb = (g.input(name, shape) for name, shape in shapes.items())
    unet, prompt, count = program.model.network.unet, _prompt(g, program), len(features) // len(program.terms)
    outputs = []
    for i, term in enumerate(program.terms):
        *skips, h = features[i * count : (i + 1) * count]
        outputs.append(networks.decode(g, unet, h, skips, temb, _context(g, program, term.view, prompt)))
    g.output("z_next", _next(g, _z(g, program), _weighted(g, program, outputs), g.input("scales", (2,))))


def decoder(g: Graph, program: SamplerProgram) -> None:
    """The last part: "z" and, if the task's `finish` uses it, "condition" -> "image"."""
    task, z = program.model.task, _z(g, program)
    condition = _condition(g, program) if task is not None and task.uses_condition_at_end else z
    g.output("image", finish(g, task, decode(g, program.model, z), condition))


def parts(program: SamplerProgram, *, halves: bool = False) -> dict[str, Callable[[Graph, SamplerProgram], None]]:
    """The parts of a sampler, in the order in which they run. Inputs have the names of the outputs that they take.

    With `halves`, the step is "step_1" and "step_2".
    """
    steps = {"step_1": first_half, "step_2": second_half} if halves else {"step": denoiser}
    made = {"text": text, "encoder": encoder, **steps, "decoder": decoder}
    if program.context is not None:
        del made["text"]
    if program.model.network.adapter is None:
        del made["encoder"]
    return made


def tables(program: SamplerProgram) -> tuple[np.ndarray, np.ndarray]:
    """For every step the features of its time, float32 [N, C], and a and b, float32 [N, 2]."""
    numbers = step_numbers(program.model, program.grid)
    embedding = program.model.network.unet.time_embedding
    times = np.stack([networks.of_time(step.t, embedding) for step in numbers])
    return times, np.array([[step.a, step.b] for step in numbers], "float32")


# Within the parts


def _condition(g: Graph, program: SamplerProgram) -> Value | None:
    """The input "condition", converted to the model's condition in [-1, 1]; None without a task."""
    task = program.model.task
    if task is None:
        return None
    return condition_of(g, task, g.input("condition", (program.height, program.width, task.condition_channels)))


def _prompt(g: Graph, program: SamplerProgram) -> Value:
    """The embedded prompt: a constant, or an input of a part."""
    return g.input("context", program.context_shape) if program.context is None else g.constant(program.context)


def _embedded(g: Graph, program: SamplerProgram) -> Value:
    return networks.text_encoder(g, program.model.base.text_encoder, g.input("ids", program.context_shape[:1], "int32"))


def _condition_features(g: Graph, program: SamplerProgram) -> list[Value]:
    adapter = program.model.network.adapter
    prompt = _prompt(g, program) if adapter is not None and adapter.condition_takes_prompt else None
    return encode(g, program, _condition(g, program), prompt)


def _z(g: Graph, program: SamplerProgram) -> Value:
    return g.input("z", program.latent_shape[1:])


def _condition_feature_inputs(g: Graph, program: SamplerProgram) -> list[Value]:
    return [
        g.input(f"condition_features_{i}", value.shape)
        for i, value in enumerate(_condition_features(g.blank(), program))
    ]


def _features(
    g: Graph, program: SamplerProgram, z: Value, time: Value, condition_features: list[Value], prompt: Value
) -> dict:
    given, features, temb = _given(g, program), [], None
    for term in program.terms:
        own, context = _own(program, term, condition_features), _context(g, program, term.view, prompt)
        made, temb = adapted.first_half(g, program.model.network, z, time, own, context, **given)
        features += made
    return {**{f"feature_{i}": value for i, value in enumerate(features)}, "temb": temb}


def encode(g: Graph, program: SamplerProgram, condition: Value | None, prompt: Value | None) -> list[Value]:
    """The condition (H, W, 3 or 4) in [-1, 1] -> the condition features, which all steps take; [] without a task.

    They are those of all the program's views, one after the other.
    """
    model = program.model
    if model.network.adapter is None or condition is None:
        return []
    c, features = encode_condition(g, model, condition), []
    for view in program.views:
        context = None if prompt is None else _context(g, program, view, prompt)
        given = c if view.shown else g.affine(c, 0.0, 0.0)
        features += adapted.condition_features(g, model.network, given, context, program.condition_scale)
    return features


def _own(program: SamplerProgram, term: Term, condition_features: list[Value]) -> list[Value]:
    """The condition features that a term takes."""
    count, place = len(condition_features) // len(program.views), program.view_of(term)
    return condition_features[place * count : (place + 1) * count]


def _context(g: Graph, program: SamplerProgram, view: View, prompt: Value) -> Value:
    """The embedded prompt that a view has."""
    return prompt if view.prompted else g.constant(program.empty_context)


def _weighted(g: Graph, program: SamplerProgram, outputs: list[Value]) -> Value:
    """The network's outputs in all terms, added up with their weights."""
    if len(outputs) == 1:
        return outputs[0]
    first, *others = (g.affine(out, term.weight, 0.0) for out, term in zip(outputs, program.terms, strict=True))
    return functools.reduce(g.add, others, first)


def step(
    g: Graph,
    program: SamplerProgram,
    z: Value,
    time: Value,
    scales: Value,
    condition_features: list[Value],
    prompt: Value,
) -> Value:
    """z_t -> a z_t + b w_theta; with guidance, w_theta is the weighted sum of several evaluations."""
    given, network, outputs = _given(g, program), program.model.network, []
    for term in program.terms:
        own, context = _own(program, term, condition_features), _context(g, program, term.view, prompt)
        outputs.append(adapted.evaluation(g, network, z, time, own, context, **given))
    return _next(g, z, _weighted(g, program, outputs), scales)


def _next(g: Graph, z: Value, output: Value, scales: Value) -> Value:
    a, b = (g.channels(scales, i, i + 1) for i in (0, 1))
    return g.add(g.multiply(z, a), g.multiply(output, b))


def _guidance(g: Graph, program: SamplerProgram) -> Value | None:
    """The features of the guidance weight; None for networks that take no weight."""
    channels = program.model.network.unet.time_cond_proj_dim
    if channels is None:
        return None
    weight = np.array([program.guidance - 1.0], "float32")
    return g.constant(ops.convert_to_numpy(guidance_features(weight, channels))[0])


def _given(g: Graph, program: SamplerProgram) -> dict[str, Any]:
    """What a package is made for: the guidance, as features of its weight; the class, as its embedding; the scale."""
    table = program.model.network.unet.class_embedding
    row = None if table is None else g.constant(ops.convert_to_numpy(table.embeddings)[program.label])
    return {"guidance": _guidance(g, program), "label": row, "condition_scale": program.condition_scale}


def decode(g: Graph, model: CoDi | TextModel, z: Value) -> Value:
    """Scaled latents -> the image (H, W, 3) in [-1, 1]: `Base.decode`."""
    if model.base.decoder is not None:
        return g.clip(networks.tiny_decoder(g, model.base.decoder, z), -1.0, 1.0)
    vae = model.base.vae
    image = networks.autoencoder_decode(g, vae, g.affine(z, 1.0 / vae.scaling_factor, 0.0))
    return g.clip(image, -1.0, 1.0)


def encode_condition(g: Graph, model: CoDi | TextModel, condition: Value) -> Value:
    """`CoDi.encode_condition`."""
    vae, space, has_mask = model.base.vae, model.network.condition_space, model.network.has_mask
    if space == "image":
        return condition
    rgb = g.channels(condition, 0, 3) if has_mask else condition
    latents = g.affine(networks.autoencoder_encode(g, vae, rgb), vae.scaling_factor, 0.0)
    if not has_mask:
        return latents
    mask = g.channels(condition, 3, 4)
    if space == "latent_nearest":  # the first pixel of each block
        return g.concatenate(latents, g.channels(g.space_to_depth(mask, vae.factor), 0, 1))
    return g.concatenate(latents, g.average_pool(mask, vae.factor))


# The tasks


def condition_of(g: Graph, task: Task, image: Value) -> Value:
    """A user's image, (H, W, C) in [0, 1] -> the condition in [-1, 1]: the task's `condition_from_image`."""
    return task.emit_condition(g, g.affine(image, 2.0, -1.0))


def finish(g: Graph, task: Task | None, image: Value, condition: Value | None) -> Value:
    """The generated image in [-1, 1] -> the final one in [0, 1]: the task's `finish`, where there is a task."""
    if task is not None and condition is not None:
        image = task.emit_finish(g, image, condition)
    return g.affine(image, 0.5, 0.5)
