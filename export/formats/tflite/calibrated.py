"""Products of whole numbers in LiteRT graphs, for calibrated weight formats.

The input is rounded, the product of int8 kernels gives whole numbers again, and these are widened. Norms and what is
computed number by number stay float.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from export.emit.graph import Value
from export.formats.tflite.file import Weight
from export.formats.tflite.nodes import LiteRtNodes
from export.quantization.activations import Calibrated, Place, signed_parameters
from export.quantization.weights import int8_scales

MAX_BIAS = 2.0**30  # of the whole numbers that stand for a bias
BIASES = {"int8": "int32", "int16": "int64"}  # their types, by the type of the activations
Arrange = Callable[[np.ndarray], np.ndarray]


def product(
    g: LiteRtNodes,
    kind: str,
    x: Value,
    layer,
    arrange: Arrange,
    tensor_shape: tuple[int, ...],
    shape: tuple[int, ...],
    options: dict | None = None,
    *,
    bias: bool,
) -> Value:
    """The operator of this kind, of x in float32 with a layer's kernel, as float32.

    Args:
        g: the graph.
        kind: CONV_2D or FULLY_CONNECTED.
        arrange: puts the kernel in the order of the operator, output channels first.
        tensor_shape, shape: of the result, as in `LiteRtNodes.operator`.
        options: of the operator.
        bias: whether it adds the layer's bias.
    """
    formats, path = g.weight_formats, layer.kernel.path
    assert isinstance(formats, Calibrated)
    g.uses[path] += 1
    places = (Place(path, g.uses[path] - 1, side) for side in ("in", "out"))
    given, made = (signed_parameters(formats.range_of(place), formats) for place in places)
    whole = g.operator("QUANTIZE", [x], g.shape_of(x), x.shape, dtype=given.dtype, numbers=given)
    scales = _scales(layer, formats) if bias and layer.use_bias else int8_scales(layer.kernel.numpy())
    inputs = [whole, _kernel(g, layer, scales, arrange)]
    inputs.append(_bias(g, layer, scales * given.scale, BIASES[given.dtype]) if bias else "")
    result = g.operator(kind, inputs, tensor_shape, shape, options, dtype=made.dtype, numbers=made)
    return g.operator("DEQUANTIZE", [result], tensor_shape, shape)


def _scales(layer, formats: Calibrated) -> np.ndarray:
    """A kernel's scales, large enough for the layer's bias to be a whole number of 32 bits in every step."""
    smallest = min(signed_parameters(numbers, formats).scale for numbers in formats.ranges_of(layer.kernel.path, "in"))
    wanted = np.abs(layer.bias.numpy()) / (smallest * MAX_BIAS)
    return np.maximum(int8_scales(layer.kernel.numpy()), wanted).astype("float32")


def _kernel(g: LiteRtNodes, layer, scales: np.ndarray, arrange: Arrange) -> str:
    kernel = layer.kernel
    name = f"{kernel.path}:whole"
    if name not in g.tensors:

        def read() -> np.ndarray:
            return np.ascontiguousarray(arrange(np.rint(kernel.numpy() / scales).astype("int8")))

        buffer = g.file.buffer(name, Weight(int(np.prod(kernel.shape)), read))
        g.tensor(name, arrange(np.empty(kernel.shape, "int8")).shape, "int8", buffer, scales)
    return name


def _bias(g: LiteRtNodes, layer, scales: np.ndarray, dtype: str) -> str:
    """A bias (0 where the layer has none, because CONV_2D wants one) in the scales of the products."""
    bias = layer.bias.numpy() if layer.use_bias else np.zeros(len(scales), "float32")
    numbers = np.rint(bias / scales.astype("float64")).astype(dtype)
    name = f"{layer.kernel.path}:bias {scales.tobytes().hex()[:32]}"
    if name not in g.tensors:
        buffer = g.file.buffer((name, numbers.tobytes()), Weight(numbers.nbytes, lambda: numbers))
        g.tensor(name, numbers.shape, dtype, buffer, scales)
    return name
