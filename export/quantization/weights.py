"""Number formats of weights: the format of each weight, quantized and dequantized values, and sizes in bytes.

Kernels are Keras', [..., C, D]; D are output channels. Biases, norms and small kernels stay float32.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np

WEIGHT_FORMATS = ("float32", "float16", "int8", "int8_weight_only", "int4", "int4_channel")
FOUR_BITS = ("int4", "int4_channel")
MIN_SIZE = 1024  # numbers in the smallest kernel that is quantized
MIN_SIZE_INT4 = 4096  # numbers in the smallest kernel that four bits apply to; smaller ones are float16
BLOCK = 64  # weights of a row that share a scale in int4
# Of an int4 scale: clipping the largest weight may reduce the error.
SCALE_FACTORS = np.array([1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7], "float32")
CHANNEL_FACTORS = np.append(SCALE_FACTORS, np.array([0.65, 0.6, 0.55, 0.5, 0.45, 0.4], "float32"))  # of longer rows


def is_quantized(variable) -> bool:
    """Whether a weight can have another format than float32: whether it is a large kernel."""
    return variable.name == "kernel" and math.prod(variable.shape) >= MIN_SIZE


class WeightFormats:
    """The format of each weight: `weight_formats(variable)` is one of WEIGHT_FORMATS, or of `activations.CALIBRATED`.

    Args:
        default: the format of all kernels that are quantized.
        exceptions: other formats, by the path of the variable.
    """

    def __init__(self, default: str = "float32", exceptions: Mapping[str, str] | None = None):
        self.default, self.exceptions = default, dict(exceptions or {})

    def __call__(self, variable) -> str:
        wanted = self.exceptions.get(variable.path, self.default) if is_quantized(variable) else "float32"
        small = math.prod(variable.shape) < MIN_SIZE_INT4  # the first and the last layer, whose errors are visible
        return "float16" if wanted in FOUR_BITS and small else wanted

    @property
    def bounds(self) -> str:
        """The name of the gate's bounds."""
        return "mixed" if self.exceptions else self.default

    def bytes(self, variables: Iterable) -> int:
        """The bytes of weights, scales included."""
        return sum(stored_bytes(variable.shape, self(variable)) for variable in variables)


def stored_bytes(shape: tuple[int, ...], weight_format: str) -> int:
    """The bytes of a weight in a file, its scales included."""
    count, rows = math.prod(shape), shape[-1]
    if weight_format == "int4":
        block = block_size(count // rows)
        return rows * -(-(count // rows) // block) * (block // 2 + 4)
    if weight_format == "int4_channel":
        return -(-count // 2) + 4 * rows
    return {"float32": 4 * count, "float16": 2 * count}.get(weight_format, count + 4 * rows)


def block_size(width: int) -> int:
    """The number of weights that share an int4 scale, in rows of this width: BLOCK or a smaller power of 2, >= 16."""
    return min(BLOCK, max(16, 1 << (width - 1).bit_length()))


def int8_scales(kernel: np.ndarray) -> np.ndarray:
    """The scales of int8, float32 [D]: one for each output channel, symmetric."""
    return np.maximum(np.abs(kernel).max(axis=tuple(range(kernel.ndim - 1))) / np.float32(127), np.float32(1e-12))


def quantize_int8(kernel: np.ndarray) -> np.ndarray:
    """kernel / scales, rounded: int8 [..., C, D]."""
    return np.rint(kernel / int8_scales(kernel)).astype("int8")


def quantize_int4(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows [D, K] of a kernel (`kernel_rows`) as integers from -8 to 7, int8 [D, B, block], and float32 scales [D, B].

    Scales are symmetric, one for each block. The scale is that of a few candidates with the least squared error; the
    largest candidate clips nothing. A short last block is filled with zeros.
    """
    block = block_size(rows.shape[1])
    filled = np.pad(rows, [(0, 0), (0, -rows.shape[1] % block)]).reshape(len(rows), -1, block)
    return _quantized(filled, SCALE_FACTORS)


def int4_channel_scales(kernel: np.ndarray) -> np.ndarray:
    """The scales of int4_channel, float32 [D]: one for each output channel, chosen as in `quantize_int4`."""
    return _quantized(kernel.reshape(-1, 1, kernel.shape[-1]).T, CHANNEL_FACTORS)[1][:, 0]


def quantize_int4_channel(kernel: np.ndarray) -> np.ndarray:
    """kernel / scales, rounded and clipped to -8 to 7: int8 [..., C, D]."""
    return np.clip(np.rint(kernel / int4_channel_scales(kernel)), -8, 7).astype("int8")


def packed_int4(numbers: np.ndarray) -> np.ndarray:
    """Integers from -8 to 7, two in a byte, the first in its lower half: uint8 [half as many, rounded up]."""
    flat = numbers.reshape(-1).astype("uint8") & 15
    flat = np.pad(flat, (0, len(flat) % 2))
    return flat[::2] | flat[1::2] << 4


def _quantized(blocks: np.ndarray, factors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Blocks [D, B, block] as integers and scales [D, B], by the scale that is best of these factors of the largest."""
    largest = np.maximum(np.abs(blocks).max(axis=2) / np.float32(7), np.float32(1e-12))
    candidates = [factor * largest for factor in factors]
    errors = [np.square(_rounded(blocks, scales) * scales[..., None] - blocks).sum(axis=2) for scales in candidates]
    scales = np.choose(np.argmin(errors, axis=0), candidates)
    return _rounded(blocks, scales).astype("int8"), scales


def _rounded(blocks: np.ndarray, scales: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(blocks / scales[..., None]), -8, 7)


def kernel_rows(kernel: np.ndarray) -> np.ndarray:
    """A kernel [..., C, D] as [D, C ...]: one row for each output channel, input channel by input channel."""
    *window, c, d = kernel.shape
    return np.ascontiguousarray(np.moveaxis(kernel.reshape(math.prod(window), c, d), 0, 1).reshape(-1, d).T)


def dequantized(kernel: np.ndarray, weight_format: str) -> np.ndarray:
    """A kernel [..., C, D] quantized and dequantized, float32, as a runtime reads it. Activations are not rounded."""
    if weight_format == "float32":
        return kernel
    if weight_format == "float16":
        return kernel.astype("float16").astype("float32")
    if weight_format == "int4_channel":
        return quantize_int4_channel(kernel) * int4_channel_scales(kernel)
    if weight_format != "int4":
        return quantize_int8(kernel) * int8_scales(kernel)
    numbers, scales = quantize_int4(kernel_rows(kernel))
    *window, c, d = kernel.shape
    rows = (numbers * scales[..., None]).reshape(d, -1)[:, : math.prod(window) * c]
    return np.moveaxis(rows.T.reshape(c, math.prod(window), d), 1, 0).reshape(kernel.shape)
