"""The gate: the check that a package, run in its own runtime, gives the images of the Keras model."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from codi_tf.core.errors import UserError, first_line
from codi_tf.core.noise import gaussian_noise
from export.emit.conditions import conditions_for
from export.emit.program import SamplerProgram
from export.emit.text_model import TextModel
from export.formats import FORMATS
from export.package.manifest import Package
from export.parity import half
from export.parity.reference import Example, examples
from export.quantization.sensitivity import decibels
from export.quantization.weights import WeightFormats, stored_bytes
from export.runtime.choice import Choice, resolve_runtime
from export.runtime.sampler import RunError, Sampler, load_any

PROMPTS = ("make it a drawing", "put it in the snow", "as if at night", "in black and white")


class Bounds(NamedTuple):
    """Limits of the difference between an export and the Keras model, for images in [0, 1].

    Attributes:
        error: largest absolute error.
        psnr: lowest PSNR, dB.
        part: largest relative RMS error of a part's tensor.
        color: largest error of the mean of a channel of an image.
        saturated: largest difference in the share of numbers that are 0 or 1.
        sensitivity: largest relative difference in how far another condition or prompt moves the image.
    """

    error: float
    psnr: float
    part: float
    color: float
    saturated: float
    sensitivity: float


BOUNDS = {
    "float32": Bounds(1e-3, 60.0, 1e-4, 1e-4, 1e-3, 0.02),
    "float16": Bounds(0.02, 50.0, 5e-3, 1e-3, 5e-3, 0.02),
    "int8_weight_only": Bounds(0.3, 40.0, 0.1, 0.01, 0.02, 0.05),
    "int8": Bounds(0.3, 35.0, 0.15, 0.02, 0.02, 0.05),
    "w8a8": Bounds(0.3, 35.0, 0.15, 0.02, 0.02, 0.05),  # parts of a trained model: 0.075 at most
    "w8a16": Bounds(0.3, 42.0, 0.1, 0.01, 0.02, 0.05),
    "int4": Bounds(0.6, 25.0, 0.4, 0.05, 0.05, 0.2),
}
BOUNDS["mixed"] = BOUNDS["int4_channel"] = BOUNDS["int4"]
COMPUTE_BOUNDS = {  # of activations computed so, by the graph or by the runtime
    "float16": Bounds(0.1, 45.0, 0.02, 2e-3, 0.01, 0.05),
    "bfloat16": BOUNDS["int8"],
}
MIN_SENSITIVITY = 1e-6  # below it the model itself ignores its condition
MIN_STORED, MAX_STORED = 0.95, 1.02  # bytes of constants per byte of weights
CONSTANTS = 2**18  # bytes of other constants, such as shapes and tables, without the prompt's embedding


class ParityError(UserError):
    """The package differs from the Keras model; the message gives the figures."""


class Case(NamedTuple):
    """An input of a sampler: condition [1, H, W, C] in [0, 1] or None, noise [1, h, w, 4], ids [77] or None."""

    condition: np.ndarray | None
    noise: np.ndarray
    ids: np.ndarray | None = None


class Reference(NamedTuple):
    """What the Keras model makes of the gate's inputs.

    Attributes:
        source: where the conditions come from, see `conditions_for`.
        count: N, of conditions.
        cases: N inputs, and the same N with each of `swapped` swapped.
        swapped: the names of the inputs that are swapped.
        images: of all cases, [len(cases), H, W, 3] in [0, 1].
        calls: of the parts, for packages of parts.
    """

    source: str
    count: int
    cases: list[Case]
    swapped: list[str]
    images: np.ndarray
    calls: list[Example]


def check(
    program: SamplerProgram,
    package: Package,
    weight_formats: WeightFormats,
    *,
    psnr: float | None = None,
    sizes: int = 1,
    runtimes: Sequence[str] = (),
) -> dict:
    """Run a package and the Keras model on the same inputs, count its bytes, and return the figures.

    The inputs are held-out photos as the task degrades them (random images where a photo is too small), each once with
    its own condition, once with another's and, where prompts are inputs, once with another's prompt. Without a task
    they are noise and prompts.

    Args:
        program: what was exported.
        package: the package of that program.
        weight_formats: the format of each kernel.
        psnr: lowest PSNR, dB, in place of the one in BOUNDS.
        sizes: the number of sizes in the package's files; each adds constants.
        runtimes: further ones that the package is run in, as `choice.Choice` names them; their figures are in
            "runtimes", by these names.

    Raises:
        ParityError: a figure is out of its bounds, or the runtime refuses a file.
    """
    reference = reference_of(program, parts="sampler" not in package.graphs)
    bounds = bounds_of(package, weight_formats.bounds, psnr)
    figures = {
        "size": [program.height, program.width],
        "conditions": reference.source,
        **figures_in(reference, package),
        **weigh(program, constants_of(package), weight_formats, sizes * len(package.graphs)),
        "bounds": bounds._asdict(),
    }
    refuse(package.format, figures)
    others = {}
    for name in runtimes:
        others[name] = {**figures_in(reference, package, name), "bounds": bounds_in(package, bounds, name)._asdict()}
        refuse(f"{package.format} in {name}", {**figures, **others[name]})
    return {**figures, "runtimes": others} if others else figures


def reference_of(program: SamplerProgram, *, parts: bool) -> Reference:
    """Run the Keras model on the gate's inputs and, with `parts`, each of its parts on those of the first."""
    conditions, source = conditions_for(program.model, program.height, program.width)
    cases, swapped = _cases(program, conditions)
    with _plain_tensorflow():
        images = np.concatenate([_keras_output(program, case) for case in cases])
        calls = examples(program, *cases[0]) if parts else []
    return Reference(source, len(conditions), cases, swapped, images, calls)


def bounds_of(package: Package, weights: str, psnr: float | None = None) -> Bounds:
    """The bounds of a package whose kernels have at best the format `weights`; `psnr` as in `check`."""
    bounds = COMPUTE_BOUNDS["float16"] if package.form.in_half else BOUNDS[weights]
    return bounds if psnr is None else bounds._replace(psnr=psnr)


def bounds_in(package: Package, bounds: Bounds, runtime: str) -> Bounds:
    """The bounds of a package in a further runtime, which may compute in fewer bits."""
    return looser(bounds, COMPUTE_BOUNDS.get(resolve_runtime(runtime, package.format)[1], bounds))


def figures_in(reference: Reference, package: Package, runtime: str | None = None) -> dict:
    """The figures of a package's images and parts in a runtime. None: in its format's, rounded if it is of float16.

    It needs no Keras model, so a model and a runtime that do not fit into memory together can be compared.

    Raises:
        ParityError: the runtime refuses a file.
    """
    with _refusals(package.format if runtime is None else f"{package.format} in {runtime}"):
        if runtime is not None or not package.form.in_half:
            return _compared(reference, load_any(package, Choice(runtime=runtime)))
        here = {"psnr_here_db": _psnr(load_any(package)(*reference.cases[0]) - reference.images[:1])}  # not rounded
        sampler, largest = half.load_rounded(package)
        return {**_compared(reference, sampler), **here, **half.figures(largest)}


@contextlib.contextmanager
def _refusals(what: str) -> Iterator[None]:
    """Turn what a runtime raises into a ParityError. Every runtime raises its own exceptions."""
    try:
        yield
    except RunError as error:
        raise ParityError(f"{what}: the runtime refuses the package: {error}") from error
    except UserError:
        raise
    except Exception as error:
        raise ParityError(f"{what}: the runtime refuses the package: {first_line(error)}") from error


def _compared(reference: Reference, sampler: Sampler) -> dict:
    """The figures of a sampler's images and parts, from `compare` and "part_errors"."""
    outputs = np.concatenate([sampler(*case) for case in reference.cases])
    figures = compare(reference.images, outputs, reference.count, reference.swapped)
    return {**figures, "part_errors": _errors_of_parts(sampler, reference.calls)}


def looser(one: Bounds, other: Bounds) -> Bounds:
    """The looser of both bounds, figure by figure."""
    return Bounds(*map(max, one, other))._replace(psnr=min(one.psnr, other.psnr))


def compare(
    expected: np.ndarray, outputs: np.ndarray, count: int, swapped: Sequence[str] = ("condition", "prompt")
) -> dict:
    """Compare outputs with expected images: errors, and the change of both when conditions or prompts are swapped.

    Args:
        expected, outputs: [N, 2 N or 3 N, H, W, 3] in [0, 1]; image i + N differs from image i in the first of
            `swapped` alone, and image i + 2 N in the second.
        count: N.
        swapped: the names of the inputs that are swapped.
    """
    error = np.abs(outputs - expected)
    figures = {
        "cases": len(outputs),
        "finite": bool(np.isfinite(outputs).all()),
        "max_error": float(error.max()),
        "psnr_db": _psnr(error),
        "color_shift": float(np.abs((outputs - expected).mean(axis=(1, 2))).max()),
        "saturated": {name: _saturated(images) for name, images in (("keras", expected), ("export", outputs))},
    }
    for place, name in enumerate(swapped[: len(outputs) // count - 1], start=1):
        figures[f"{name}_sensitivity"] = {
            who: float(np.mean(np.abs(images[place * count : (place + 1) * count] - images[:count])))
            for who, images in (("keras", expected), ("export", outputs))
        }
    return figures


def constants_of(package: Package) -> int:
    """The bytes of constants in a package's graphs. Raises ParityError for a file that cannot be read."""
    with _refusals(package.format):
        return sum(FORMATS[package.format].stored_bytes(graph.path) for graph in package.graphs.values())


def weigh(program: SamplerProgram, constants: int, weight_formats: WeightFormats, graphs: int = 1) -> dict:
    """The bytes of constants in a package, and their bounds if every weight is stored exactly once."""
    used = program.variables_in_use()
    wanted = weight_formats.bytes(used)
    embedded = 0 if program.context is None else program.context.nbytes
    if not all(term.view.prompted for term in program.terms):
        embedded += program.empty_context.nbytes
    return {
        "weight_bytes": sum(stored_bytes(v.shape, "float32") for v in used),
        "stored_bytes": constants,
        "stored_bytes_allowed": [
            round(MIN_STORED * wanted),
            round(MAX_STORED * wanted) + graphs * (embedded + CONSTANTS),
        ],
    }


def refuse(format: str, figures: dict) -> None:
    """Raise ParityError for figures out of their bounds."""
    bounds = Bounds(**figures["bounds"])
    moved = {
        name: figures[f"{name}_sensitivity"] for name in ("condition", "prompt") if f"{name}_sensitivity" in figures
    }
    for name, by in moved.items():
        if by["keras"] < MIN_SENSITIVITY:
            raise ParityError(f"the model ignores its {name} (it is untrained): train it before exporting it")
    faults = []
    if not figures["finite"]:
        faults.append("its output is not finite")
    elif figures["max_error"] > bounds.error or figures["psnr_db"] < bounds.psnr:
        faults.append(
            f"max error {figures['max_error']:.2g} (allowed {bounds.error:g}), "
            f"PSNR {figures['psnr_db']:.1f} dB (at least {bounds.psnr:g})"
        )
    for name, by in moved.items():
        if not abs(by["export"] - by["keras"]) <= bounds.sensitivity * by["keras"]:
            faults.append(f"swapped {name}s move its output by {by['export']:.2g}, the model's by {by['keras']:.2g}")
    for part, error in figures["part_errors"].items():
        if not error <= bounds.part:
            faults.append(f"its {part} has a relative error of {error:.2g} (allowed {bounds.part:g})")
    if not figures["color_shift"] <= bounds.color:
        faults.append(f"colors shift by {figures['color_shift']:.2g} (allowed {bounds.color:g})")
    if not abs(np.subtract(*figures["saturated"].values())) <= bounds.saturated:
        faults.append(
            "{export:.1%} of its numbers are 0 or 1, of the model's {keras:.1%}".format(**figures["saturated"])
        )
    if not figures.get("psnr_here_db", math.inf) >= bounds.psnr:
        faults.append(f"in this machine's runtime its PSNR is {figures['psnr_here_db']:.1f} dB")
    if (largest := figures.get("largest_activation")) and not largest["value"] <= half.LIMIT:
        faults.append(
            f"activations reach {largest['value']:.3g} in {largest['node']}, too near to float16's limit of 65504: "
            "use --compute float32"
        )
    low, high = figures["stored_bytes_allowed"]
    if not low <= figures["stored_bytes"] <= high:
        faults.append(f"it stores {figures['stored_bytes']:,} bytes of weights, not {low:,} to {high:,}")
    if faults:
        raise ParityError(f"{format}: differs from the Keras model, nothing was written: {'; '.join(faults)}")


def _psnr(error: np.ndarray) -> float:
    """The PSNR of images in [0, 1] with this error, dB."""
    return decibels(float(np.mean(error.astype("float64") ** 2)))


def _saturated(images: np.ndarray) -> float:
    return float(np.mean((images <= 0.0) | (images >= 1.0)))


def _errors_of_parts(sampler: Sampler, calls: list) -> dict[str, float]:
    """The largest relative RMS error of each part's tensors, over its calls."""
    errors = {}
    for call in calls:
        made = sampler.run(call.part, call.inputs)
        for name, expected in call.outputs.items():
            scale = math.sqrt(float(np.mean(np.square(expected, dtype="float64")))) or 1.0
            off = math.sqrt(float(np.mean(np.square(made[name] - expected, dtype="float64")))) / scale
            errors[call.part] = max(errors.get(call.part, 0.0), off)
    return errors


def _cases(program: SamplerProgram, conditions: list) -> tuple[list[Case], list[str]]:
    """The inputs, and the names of those that are swapped.

    They are every condition; the same with another condition; and, if prompts are inputs, with another prompt.
    """
    count, swapped = len(conditions), []
    noise = [gaussian_noise(i, program.latent_shape) for i in range(count)]
    ids = [None] * count
    if program.context is None:
        ids = list(program.model.base.tokenizer(PROMPTS[:count]))
    places = range(count)
    cases = [Case(conditions[i], noise[i], ids[i]) for i in places]
    if program.model.task is not None:
        swapped.append("condition")
        cases += [Case(conditions[(i + 1) % count], noise[i], ids[i]) for i in places]
    if program.context is None:
        swapped.append("prompt")
        cases += [Case(conditions[i], noise[i], ids[(i + 1) % count]) for i in places]
    return cases, swapped


def _keras_output(program: SamplerProgram, case: Case) -> np.ndarray:
    model, noise, conditioning = program.model, tf.constant(case.noise), program.conditioning(case.ids)
    if isinstance(model, TextModel):
        runs = model.text_to_image
        latents = runs.latents(noise, conditioning, program.grid, guidance=program.guidance)
        return np.asarray(program.finished(runs.decode(latents), None))
    assert case.condition is not None  # there is a task
    condition = model.task.condition_from_image(tf.constant(2.0 * case.condition - 1.0))
    names = ("steps", "sampler", "guidance", "text_guidance", "condition_scale", "fidelity")
    options = {name: getattr(program, name) for name in names}
    latents = model.generator.latents(condition, noise, conditioning, **options)
    return np.asarray(program.finished(model.generator.decode(latents), condition))


@contextlib.contextmanager
def _plain_tensorflow() -> Iterator[None]:
    """TensorFlow in full float32 (GPUs round products to 10 bits otherwise), without graph optimization.

    Optimizing a function that runs a few times takes longer than running it.
    """
    tf32 = tf.config.experimental.tensor_float_32_execution_enabled()
    unoptimized = tf.config.optimizer.get_experimental_options().get("disable_meta_optimizer", False)
    try:
        tf.config.experimental.enable_tensor_float_32_execution(False)
        tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
        yield
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(tf32)
        tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": unoptimized})
