"""How the weights of kernels are kept in a file: in which numbers, and what is left of them.

Kernels are Keras', [..., C, D]; D are output channels. Biases, norms and small kernels stay float32.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

KINDS = ("float32", "float16", "int8", "int8_weight_only", "int4")
SMALLEST, SMALLEST_OF_FOUR_BITS = 1024, 4096  # numbers of a kernel that is worth it; below the second: float16
BLOCK = 64  # weights of a row that share a scale in int4
SHRINKING = np.float32([1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7])  # of an int4 scale: it may pay to clip the largest


def shrinks(variable) -> bool:
    """Whether a weight is kept in fewer bits where that is asked for."""
    return variable.name == "kernel" and math.prod(variable.shape) >= SMALLEST


class WeightFormats:
    """Which kind each weight is kept in.

    Args:
        kind: of all kernels that shrink, one of KINDS.
        exceptions: other kinds, by the path of the variable.
    """

    def __init__(self, kind: str = "float32", exceptions: Mapping[str, str] | None = None):
        self.kind, self.exceptions = kind, dict(exceptions or {})

    def __call__(self, variable) -> str:
        kind = self.exceptions.get(variable.path, self.kind) if shrinks(variable) else "float32"
        small = math.prod(variable.shape) < SMALLEST_OF_FOUR_BITS  # the first and the last, which pictures show
        return "float16" if kind == "int4" and small else kind

    def bytes(self, variables) -> int:
        """What weights take, scales included."""
        return sum(stored(variable.shape, self(variable)) for variable in variables)


def stored(shape: tuple[int, ...], kind: str) -> int:
    """The bytes of a weight in a file, its scales included."""
    count, rows = math.prod(shape), shape[-1]
    if kind == "int4":
        blocks = rows * -(-(count // rows) // block_of(count // rows))
        return blocks * (block_of(count // rows) // 2 + 4)
    return {"float32": 4 * count, "float16": 2 * count}.get(kind, count + 4 * rows)


def block_of(width: int) -> int:
    """The weights that share a scale in int4, in rows of so many: BLOCK, or fewer in short rows; a power of two."""
    return min(BLOCK, max(16, 1 << (width - 1).bit_length()))


def scales_of(kernel: np.ndarray) -> np.ndarray:
    """The scales of int8, float32 [D]: one for each output channel, symmetric."""
    return np.maximum(np.abs(kernel).max(axis=tuple(range(kernel.ndim - 1))) / np.float32(127), np.float32(1e-12))


def int8(kernel: np.ndarray) -> np.ndarray:
    """kernel / scales, rounded: int8 [..., C, D]."""
    return np.rint(kernel / scales_of(kernel)).astype("int8")


def int4(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows [D, K] of a kernel, see `rows_of`, as whole numbers from -8 to 7, int8 [D, B, block], and their scales.

    The scales are float32 [D, B]: symmetric, one for each block, and of a few, the largest of which clips nothing, the
    one of least squared error. Short last blocks are filled with zeros.
    """
    block = block_of(rows.shape[1])
    filled = np.pad(rows, [(0, 0), (0, -rows.shape[1] % block)]).reshape(len(rows), -1, block)
    largest = np.maximum(np.abs(filled).max(axis=2) / np.float32(7), np.float32(1e-12))
    tried = [factor * largest for factor in SHRINKING]
    errors = [np.square(_rounded(filled, scales) * scales[..., None] - filled).sum(axis=2) for scales in tried]
    scales = np.choose(np.argmin(errors, axis=0), tried)
    return _rounded(filled, scales).astype("int8"), scales


def _rounded(blocks: np.ndarray, scales: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(blocks / scales[..., None]), -8, 7)


def rows_of(kernel: np.ndarray) -> np.ndarray:
    """A kernel [..., C, D] as [D, C ...]: what an output channel is made of, input channel by input channel."""
    *window, c, d = kernel.shape
    return np.ascontiguousarray(np.moveaxis(kernel.reshape(math.prod(window), c, d), 0, 1).reshape(-1, d).T)


def left_of(kernel: np.ndarray, kind: str) -> np.ndarray:
    """What a runtime reads of a kernel [..., C, D], float32 of its shape: without the error of activations."""
    if kind == "float32":
        return kernel
    if kind == "float16":
        return kernel.astype("float16").astype("float32")
    if kind != "int4":
        return int8(kernel) * scales_of(kernel)
    numbers, scales = int4(rows_of(kernel))
    *window, c, d = kernel.shape
    rows = (numbers * scales[..., None]).reshape(d, -1)[:, : math.prod(window) * c]
    return np.moveaxis(rows.T.reshape(c, math.prod(window), d), 1, 0).reshape(kernel.shape)
