"""Products and convolutions in ONNX graphs, in the forms that are fast in ONNX Runtime.

By the weight format of the kernel:
- float32, float16: Gemm, MatMul and Conv; float16 is cast when a file is loaded.
- int8: activations are rounded to 8 bits at run time, by one scale per tensor, and multiplied with MatMulInteger. Both
  operands are uint8, the weights around ZERO: of a uint8 and an int8 operand, processors without VNNI add products in
  pairs of 16 bits, which overflow. A convolution gathers its windows first, because ONNX Runtime has no fast
  ConvInteger; where that would take more than COLUMNS bytes, its kernel is dequantized as below.
- int8_weight_only: the kernel is dequantized where it is used, in every step.
- w8a8, w8a16: as int8_weight_only, and inputs and outputs are rounded (`calibrated`), which readers fuse into products
  of whole numbers.
- int4: MatMulNBits for products; kernels of convolutions, and all those of portable graphs, are dequantized where they
  are used.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from export.emit.graph import Value
from export.formats.onnx.nodes import OnnxNodes
from export.quantization.activations import CALIBRATED
from export.quantization.weights import (
    block_size,
    int8_scales,
    kernel_rows,
    packed_int4,
    quantize_int4,
    quantize_int8,
)

COLUMNS = 2**27  # bytes that the gathered windows of a convolution may take
ZERO = 128  # of weights that are stored as uint8


def dense(g: OnnxNodes, x: Value, layer) -> Value:
    """`Graph.dense`."""
    kind, d = g.weight_formats(layer.kernel), layer.kernel.shape[-1]
    shape, bias = (*x.shape[:-1], d), _bias(g, layer, "", (d,))
    if kind == "int8":
        return _plus(g, _integer_product(g, *_rounded(g, x), layer, shape), bias)
    if kind == "int4" and not g.form.portable:
        return _plus(g, _four_bit_product(g, x, layer, shape), bias)
    if kind in CALIBRATED:  # rounded before the bias: ONNX Runtime knows no Gemm of whole numbers with a float bias
        made = g.node("MatMul", [g.at_product(x, layer, "in"), _matrix(g, layer)], shape)
        return _plus(g, g.at_product(made, layer, "out"), bias)
    if bias is None:
        return g.node("MatMul", [x, _matrix(g, layer)], shape)
    return g.node("Gemm", [x, _matrix(g, layer), bias], shape)


def project_in(g: OnnxNodes, x: Value, layer) -> Value:
    """`Graph.project_in`."""
    height, width, channels = x.shape
    flat = g.reshaped(x, (channels, height * width), (channels, height * width))
    if _takes_rows(g, layer):
        return dense(g, g.node("Transpose", [flat], flat.shape[::-1], perm=[1, 0]), layer)
    shape = (height * width, layer.kernel.shape[-1])
    return g.node("Gemm", [flat, _matrix(g, layer), _bias(g, layer, "", shape[1:])], shape, transA=1)


def project_out(g: OnnxNodes, x: Value, layer, size: tuple[int, int]) -> Value:
    """`Graph.project_out`."""
    d = layer.kernel.shape[-1]
    if _takes_rows(g, layer):
        flat = g.node("Transpose", [dense(g, x, layer)], (d, x.shape[0]), perm=[1, 0])
    else:
        bias = _bias(g, layer, "column", (d, 1))
        flat = g.node("Gemm", [_matrix(g, layer), x, bias], (d, x.shape[0]), transA=1, transB=1)
    return g.reshaped(flat, (1, d, *size), (*size, d))


def _takes_rows(g: OnnxNodes, layer) -> bool:
    """Whether a kernel's product takes rows alone, and neither transposes them nor gives them transposed."""
    kind = g.weight_formats(layer.kernel)
    return kind in ("int8", *CALIBRATED) or (kind == "int4" and not g.form.portable)


class _Window(NamedTuple):
    """The windows of a convolution on a map: kernel size, strides, padding and output size."""

    side: int
    stride: int
    before: int
    after: int
    size: tuple[int, int]  # of the output


def conv(g: OnnxNodes, x: Value, layer) -> Value:
    """`Graph.conv`."""
    k, stride, filters = layer.kernel_size[0], layer.strides[0], layer.filters
    before = k // 2 if stride == 1 or layer.symmetric_padding else 0
    after = k // 2 if stride == 1 else 1
    size = tuple((side + before + after - k) // stride + 1 for side in x.shape[:2])
    window = _Window(k, stride, before, after, size)
    if g.weight_formats(layer.kernel) == "int8" and k * k * x.shape[2] * math.prod(size) <= COLUMNS:
        return _integer_conv(g, x, layer, window)
    bias = [_bias(g, layer, "", (filters,))] if layer.use_bias else []
    made = g.node(
        "Conv",
        [g.at_product(x, layer, "in"), _filters(g, layer), *bias],
        (*size, filters),
        kernel_shape=[k, k],
        pads=[before, before, after, after],
        strides=[stride, stride],
    )
    return g.at_product(made, layer, "out")


# Kernels as runtimes take them


def _bias(g: OnnxNodes, layer, view: str, shape: tuple[int, ...]) -> str | None:
    return g.real(layer.bias, view, shape, lambda a: a.reshape(shape)) if layer.use_bias else None


def _matrix(g: OnnxNodes, layer) -> str:
    """A layer's kernel as float32 [C, D]."""
    c, d = layer.kernel.shape[-2:]
    if g.weight_formats(layer.kernel) == "int4":
        return g.node("Transpose", [_rows_of_four_bits(g, layer.kernel)], (c, d), perm=[1, 0], again=True).name

    def real() -> str:
        return g.real(layer.kernel, "", (c, d), lambda a: a.reshape(c, d))

    def whole() -> str:
        return _widened(g, layer, "", (c, d), lambda a: a.reshape(c, d), axis=1)

    return _kernel(g, layer, real, whole)


def _kernel(g: OnnxNodes, layer, real: Callable[[], str], whole: Callable[[], str]) -> str:
    """The name of a kernel in its weight format, one of floats or of int8 that is dequantized where it is used."""
    kind = g.weight_formats(layer.kernel)
    if kind in CALIBRATED and g.calibrating is not None:
        return g.calibrating.kernel(g, layer, real, whole)
    return whole() if kind.startswith("int8") else real()


def _filters(g: OnnxNodes, layer) -> str:
    """A convolution's kernel as float32 [O, I, k, k]."""
    kernel, kind = layer.kernel, g.weight_formats(layer.kernel)
    k, _, c, d = kernel.shape
    tensor_shape = (d, c, k, k)
    if kind == "int4":
        return g.reshaped(_rows_of_four_bits(g, kernel), tensor_shape, tensor_shape).name

    def real() -> str:
        return g.real(kernel, "oihw", tensor_shape, lambda a: a.transpose(3, 2, 0, 1))

    def whole() -> str:
        return _widened(g, layer, " oihw", tensor_shape, lambda a: a.transpose(3, 2, 0, 1), axis=0)

    return _kernel(g, layer, real, whole)


def _widened(g: OnnxNodes, layer, view: str, shape: tuple[int, ...], arrange: Callable, *, axis: int) -> str:
    """A kernel in 8 bits that is dequantized where it is used; `axis` is that of the output channels."""
    unsigned = g.calibrating is not None and not g.calibrating.signed
    kind = "uint8" if unsigned else "int8"

    def read(kernel: np.ndarray) -> np.ndarray:
        numbers = quantize_int8(kernel)
        return arrange(_unsigned(numbers) if unsigned else numbers)

    inputs = [g.stored(layer.kernel, f"{kind}{view}", shape, read, kind), _scales(g, layer)]
    if unsigned:
        inputs.append(g.small_constant(np.full(shape[axis], ZERO, "uint8")))
    return g.node("DequantizeLinear", inputs, shape, axis=axis, again=True).name


def _rows_of_four_bits(g: OnnxNodes, kernel) -> Value:
    """A kernel of four bits as float32 [D, K]."""
    numbers, scales, width = _four_bits(g, kernel, view="rows")
    length = math.prod(kernel.shape[:-1])
    options = {"axis": 1, "block_size": block_size(length), "again": True}
    rows = g.node("DequantizeLinear", [numbers, scales], (kernel.shape[-1], width), **options)
    return rows if width == length else g.channels(rows, 0, length)


def _scales(g: OnnxNodes, layer) -> str:
    return g.stored(layer.kernel, "scales", layer.kernel.shape[-1:], int8_scales)


def _four_bits(g: OnnxNodes, kernel, *, view: str) -> tuple[str, str, int]:
    """A kernel in four bits, its scales, and the length of its rows with the padding of the last block.

    As "rows", int4 [D, K], for DequantizeLinear, or as "blocks", uint8 [D, B, block / 2], for MatMulNBits, which counts
    from -8.
    """
    d, width = kernel.shape[-1], math.prod(kernel.shape[:-1])
    block = block_size(width)
    blocks = -(-width // block)
    source = _Source(kernel)
    if view == "rows":
        numbers = g.stored(kernel, view, (d, blocks * block), lambda a: packed_int4(_in_four_bits(source)[0]), "int4")
    else:
        shape = (d, blocks, block // 2)
        numbers = g.stored(kernel, view, shape, lambda a: packed_int4(_in_four_bits(source)[0] + 8), "uint8")
    return numbers, g.stored(kernel, "scales", (d, blocks), lambda a: _in_four_bits(source)[1]), blocks * block


@dataclass(frozen=True, eq=False)
class _Source:
    """A hashable wrapper of a Keras variable, the key of a cache."""

    variable: Any


@functools.lru_cache(maxsize=1)  # numbers and scales are written one after the other
def _in_four_bits(source: _Source) -> tuple[np.ndarray, np.ndarray]:
    return quantize_int4(kernel_rows(np.asarray(source.variable.numpy(), "float32")))


# Products of whole numbers


def _plus(g: OnnxNodes, x: Value, bias: str | None) -> Value:
    return x if bias is None else g.node("Add", [x, bias], x.shape)


def _rounded(g: OnnxNodes, x: Value) -> tuple[Value, str, str]:
    """x in 8 bits, its scale and its zero point."""
    numbers = g.node("DynamicQuantizeLinear", [x], x.shape, 3)
    return numbers, f"{numbers.name}_1", f"{numbers.name}_2"


def _integer_product(g: OnnxNodes, x: Value, scale: str, zero: str, layer, shape: tuple[int, ...]) -> Value:
    """Rows of 8 bits [N, K] times a kernel's [K, D], as float32."""
    d, width = layer.kernel.shape[-1], math.prod(layer.kernel.shape[:-1])
    matrix = g.stored(
        layer.kernel, "uint8", (width, d), lambda a: _unsigned(quantize_int8(a)).reshape(width, d), "uint8"
    )
    middle = g.small_constant(np.array(ZERO, "uint8"))
    product = g.node("Cast", [g.node("MatMulInteger", [x, matrix, zero, middle], shape)], shape, to=1)
    return g.node("Mul", [product, g.node("Mul", [scale, _scales(g, layer)], (d,))], shape)


def _unsigned(numbers: np.ndarray) -> np.ndarray:
    """int8 as uint8, ZERO higher."""
    return (numbers.astype("int16") + ZERO).astype("uint8")


def _integer_conv(g: OnnxNodes, x: Value, layer, window: _Window) -> Value:
    """A convolution as a product: of the windows of a map, one after the other, with the kernel.

    The map gets its border of zeros before it is rounded, which changes no number: the rounded zero is exact. Not every
    reader pads with a zero point that is computed.
    """
    if window.side > 1:
        pads = np.array([0, 0, window.before, window.before, 0, 0, window.after, window.after], "int64")
        x = g.node("Pad", [x, g.small_constant(pads)], x.shape)
    numbers, scale, zero = _rounded(g, x)
    last = g.node("Transpose", [numbers], x.shape, perm=[0, 2, 3, 1])
    if window.side > 1:
        height, width = (window.stride * (side - 1) + 1 for side in window.size)
        axes, strides = (
            g.small_constant(np.array([1, 2], "int64")),
            g.small_constant(np.array([window.stride] * 2, "int64")),
        )
        places = [
            g.node(
                "Slice",
                [
                    last,
                    *(g.small_constant(np.array(at, "int64")) for at in ([i, j], [i + height, j + width])),
                    axes,
                    strides,
                ],
                x.shape,
            )
            for i in range(window.side)
            for j in range(window.side)
        ]
        last = g.node("Concat", places, x.shape, axis=3)
    count, filters = math.prod(window.size), layer.filters
    rows = g.reshaped(last, (count, window.side**2 * x.shape[2]), ())
    product = _plus(g, _integer_product(g, rows, scale, zero, layer, (count, filters)), _bias(g, layer, "", (filters,)))
    flat = g.node("Transpose", [product], (filters, count), perm=[1, 0])
    return g.reshaped(flat, (1, filters, *window.size), (*window.size, filters))


def _four_bit_product(g: OnnxNodes, x: Value, layer, shape: tuple[int, ...]) -> Value:
    """Rows [N, K] times a kernel's [K, D] of four bits."""
    numbers, scales, _ = _four_bits(g, layer.kernel, view="blocks")
    width = math.prod(layer.kernel.shape[:-1])
    options = {"K": width, "N": shape[-1], "bits": 4, "block_size": block_size(width), "domain": "com.microsoft"}
    return g.node("MatMulNBits", [x, numbers, scales], shape, **options)
