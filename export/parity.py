"""The gate: an artefact is run in its own runtime and must do what the Keras model does."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tensorflow as tf

from codi_tf import data
from codi_tf.errors import UserError
from codi_tf.model import CoDi
from codi_tf.noise import gaussian_noise
from export.graph import shrinks
from export.package import format_module
from export.program import SamplerProgram

CASES = 4
# Of images in [0, 1], by how weights are kept.
MAX_ERROR = {"float32": 1e-3, "float16": 0.02, "int8": 0.3}
MIN_PSNR = {"float32": 60.0, "float16": 50.0, "int8": 35.0}  # dB
BYTES = {"float32": 4, "float16": 2, "int8": 1}  # of a kernel's number
MAX_DEVIATION = 0.05  # of the sensitivity to the condition, relative to the model's
MIN_SENSITIVITY = 1e-6  # below it the model itself ignores its condition
MIN_STORED, MAX_STORED = 0.99, 1.02  # bytes of constants per byte of weights
CONSTANTS = 2**18  # bytes of constants that are no weights: shapes, tables; the embedding of the prompt comes on top


class ParityError(UserError):
    """The artefact does not do what the model does; the message gives the figures."""


def check(program: SamplerProgram, artefact: Path, format: str, weights: str = "float32") -> dict:
    """Run the artefact and the Keras model on the same inputs, weigh the artefact, and return the figures.

    The inputs are CASES held-out photos as the task degrades them (random images where a photo is too small), each once
    with its own condition and once with another's.

    Raises:
        ParityError: a figure is out of its bounds, or the runtime refuses the artefact.
    """
    module, model = format_module(format), program.model
    conditions, source = _conditions(model, program.height, program.width)
    pairs = [
        (conditions[(i + swapped) % CASES][None], gaussian_noise(i, program.latent_shape))
        for swapped in (0, 1)
        for i in range(CASES)
    ]
    with _plain_tensorflow():
        expected = _keras_outputs(program, pairs)
        try:
            sampler = module.load(artefact)
            outputs = np.concatenate([sampler(*pair) for pair in pairs])
            stored = module.stored_bytes(artefact)
        except UserError:
            raise
        except Exception as error:  # every runtime has its own
            raise ParityError(f"{format}: the runtime refuses the artefact: {str(error).splitlines()[0]}") from error
    figures = {
        "conditions": source,
        **compare(expected, outputs, weights),
        **weigh(program, stored, weights),
        "file_bytes": sum(f.stat().st_size for f in (artefact, *artefact.rglob("*")) if f.is_file()),
    }
    refuse(format, figures)
    return figures


def compare(expected: np.ndarray, outputs: np.ndarray, weights: str = "float32") -> dict:
    """Errors of outputs against expected images, and how far both move when conditions are swapped.

    Args:
        expected, outputs: [2 N, H, W, 3] in [0, 1]; image i + N differs from image i in its condition alone.
    """
    error = np.abs(outputs - expected)
    sensitivity = [float(np.mean(np.abs(np.subtract(*np.split(images, 2))))) for images in (expected, outputs)]
    return {
        "cases": len(outputs),
        "finite": bool(np.isfinite(outputs).all()),
        "max_error": float(error.max()),
        "max_error_allowed": MAX_ERROR[weights],
        "psnr_db_allowed": MIN_PSNR[weights],
        "psnr_db": -10.0 * math.log10(max(float(np.mean(error.astype("float64") ** 2)), 1e-20)),
        "condition_sensitivity": {"keras": sensitivity[0], "artefact": sensitivity[1]},
    }


def weigh(program: SamplerProgram, stored: int, weights: str = "float32") -> dict:
    """The bytes of constants in an artefact and the bounds that they must keep for all weights to be there, once."""
    used = program.variables_in_use()
    kept = sum(math.prod(v.shape) * (BYTES[weights] if shrinks(v) else 4) for v in used)
    return {
        "weight_bytes": sum(4 * math.prod(v.shape) for v in used),
        "stored_bytes": stored,
        "stored_bytes_allowed": [
            round(MIN_STORED * kept),
            round(MAX_STORED * kept) + program.context.nbytes + CONSTANTS,
        ],
    }


def refuse(format: str, figures: dict) -> None:
    """Raises ParityError for figures out of their bounds."""
    keras, artefact = figures["condition_sensitivity"].values()
    low, high = figures["stored_bytes_allowed"]
    if keras < MIN_SENSITIVITY:
        raise ParityError("the model ignores its condition (its adapter is untrained): train it before exporting it")
    faults = []
    if not figures["finite"]:
        faults.append("its output is not finite")
    elif figures["max_error"] > figures["max_error_allowed"] or figures["psnr_db"] < figures["psnr_db_allowed"]:
        faults.append(
            f"max error {figures['max_error']:.2g} (allowed {figures['max_error_allowed']:g}), "
            f"PSNR {figures['psnr_db']:.1f} dB (at least {figures['psnr_db_allowed']:g})"
        )
    if not abs(artefact - keras) <= MAX_DEVIATION * keras:
        faults.append(f"swapped conditions move its output by {artefact:.2g}, the model's by {keras:.2g}")
    if not low <= figures["stored_bytes"] <= high:
        faults.append(f"it stores {figures['stored_bytes']:,} bytes of weights, not {low:,} to {high:,}")
    if faults:
        raise ParityError(f"{format}: differs from the Keras model, nothing was written: {'; '.join(faults)}")


def _conditions(model: CoDi, height: int, width: int) -> tuple[np.ndarray, str]:
    """CASES condition images [CASES, H, W, C] in [0, 1] and what they are."""
    try:
        batch = data.evaluation_set(
            data.load_source("photos", "heldout", model.task),
            model.task,
            image_size=max(height, width),
            count=CASES,
            seed=0,
        )
    except UserError:  # no photos, or none that large
        channels = model.task.condition_channels
        return np.random.default_rng(0).random((CASES, height, width, channels), dtype=np.float32), "random"
    conditions = (batch["condition"][:, :height, :width] + 1.0) / 2.0
    conditions[..., 3:] = conditions[..., 3:] > 0.5  # a mask is 0 and 1 in either range
    return conditions, "held-out photos"


def _keras_outputs(program: SamplerProgram, pairs: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    def output(condition: np.ndarray, noise: np.ndarray) -> tf.Tensor:
        seen = program.model.task.condition_from_image(tf.constant(2.0 * condition - 1.0))
        return program.model.generate_step(seen, tf.constant(noise), program.steps, program.context)

    return (np.concatenate([output(*pair) for pair in pairs]) + 1.0) / 2.0


@contextlib.contextmanager
def _plain_tensorflow() -> Iterator[None]:
    """TensorFlow in full float32 (GPUs round products to 10 bits otherwise), functions run as they were traced.

    Optimising a function that runs a few times takes longer than running it.
    """
    tf32 = tf.config.experimental.tensor_float_32_execution_enabled()
    unoptimised = tf.config.optimizer.get_experimental_options().get("disable_meta_optimizer", False)
    try:
        tf.config.experimental.enable_tensor_float_32_execution(False)
        tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
        yield
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(tf32)
        tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": unoptimised})
