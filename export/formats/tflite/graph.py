"""The operations of LiteRT (TFLite) graphs, from built-in operators only."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from export.emit.graph import Value
from export.formats.format import SIGNATURE
from export.formats.tflite import loop
from export.formats.tflite.calibrated import product
from export.formats.tflite.nodes import LiteRtNodes
from export.quantization.activations import CALIBRATED, Calibrated

POINTWISE = {"padding": schema.Padding.SAME, "strideW": 1, "strideH": 1, "dilationWFactor": 1, "dilationHFactor": 1}


class LiteRtGraph(LiteRtNodes):
    """`export.emit.graph.Graph` for LiteRT.

    Attributes:
        unrolled: whether the steps follow one another. With calibrated weights they do, so that each has its ranges.
    """

    unrolled = False

    def blank(self) -> LiteRtGraph:
        return LiteRtGraph()

    def input(self, name: str, shape: tuple[int, ...], dtype: str = "float32") -> Value:
        tensor_shape = (1, *shape) if len(shape) > 1 else shape
        place = self.subgraph.add(name, self.tensor(name, tensor_shape, dtype))
        self.graph.inputs.append(place)
        self.subgraph.names["inputs"][name] = place
        self.signature["inputs"][name] = {"shape": list(tensor_shape), "dtype": dtype}
        if dtype != "float32" or len(shape) == 3:
            return Value(name, shape)
        return self.reshaped(name, self.tensor_shape(shape), shape)

    def output(self, name: str, value: Value) -> None:
        tensor_shape = (1, *value.shape) if len(value.shape) > 1 else value.shape
        made = self.operator(
            "RESHAPE", [value, self.small_constant(np.array(tensor_shape, "int32"))], tensor_shape, value.shape
        )
        self.graph.outputs.append(self.subgraph.index[made.name])
        self.subgraph.names["outputs"][name] = self.subgraph.index[made.name]
        self.signature["outputs"][name] = {"shape": list(tensor_shape), "dtype": "float32"}

    def repeat(self, z: Value, tables: list[np.ndarray], body: Callable[..., Value]) -> Value:
        if len(tables[0]) > 1 and not self.unrolled and not isinstance(self.weight_formats, Calibrated):
            return loop.repeat(self, z, tables, body)
        for rows in zip(*tables, strict=True):
            z = body(z, *(self.constant(row) for row in rows))
        return z

    def constant(self, array: np.ndarray) -> Value:
        array = np.asarray(array, "float32")
        return Value(self.small_constant(array.reshape(self.tensor_shape(array.shape))), array.shape)

    def weight(self, variable, rows: int | None = None) -> Value:
        shape = tuple(variable.shape) if rows is None else (rows, *variable.shape[1:])
        return Value(
            self.stored(
                variable, "rows", self.tensor_shape(shape), lambda a: a[:rows].reshape(self.tensor_shape(shape))
            ),
            shape,
        )

    def conv(self, x: Value, layer) -> Value:
        height, width, channels = x.shape
        k, stride, filters = layer.kernel_size[0], layer.strides[0], layer.filters
        padding = schema.Padding.SAME
        if stride > 1:
            before = k // 2 if layer.symmetric_padding else 0
            pads = self.small_constant(np.array([[0, 0], [before, 1], [before, 1], [0, 0]], "int32"))
            height, width = height + before + 1, width + before + 1
            x = self.operator("PAD", [x, pads], (1, height, width, channels), (height, width, channels))
            height, width, padding = (height - k) // stride + 1, (width - k) // stride + 1, schema.Padding.VALID
        options = {"padding": padding, "strideW": stride, "strideH": stride, "dilationWFactor": 1, "dilationHFactor": 1}
        shape = (height, width, filters)

        def arranged(kernel: np.ndarray) -> np.ndarray:
            return kernel.transpose(3, 0, 1, 2)

        if self.weight_formats(layer.kernel) in CALIBRATED:
            return product(self, "CONV_2D", x, layer, arranged, (1, *shape), shape, options, bias=True)
        kernel = self.stored(layer.kernel, "ohwi", (filters, k, k, channels), arranged)
        return self.convolution(x, layer, kernel, shape, options)

    def convolution(self, x: Value, layer, kernel: str, shape, options: dict | None = None) -> Value:
        """CONV_2D with a kernel and the layer's bias; `options` are those of 1x1 by default."""
        if layer.use_bias:
            bias = self.stored(layer.bias, "", (shape[-1],), lambda a: a)
        else:  # the operator wants one
            bias = self.small_constant(np.zeros(shape[-1], "float32"))
        options = options or POINTWISE
        return self.operator("CONV_2D", [x, kernel, bias], self.tensor_shape(shape), shape, options)

    def dense(self, x: Value, layer) -> Value:
        c, d = layer.kernel.shape[-2:]
        shape = (*x.shape[:-1], d)

        def arranged(kernel: np.ndarray) -> np.ndarray:
            return kernel.reshape(c, d).T

        bias = self.stored(layer.bias, "", (d,), lambda a: a) if layer.use_bias else None
        if self.weight_formats(layer.kernel) in CALIBRATED:  # ranges are those before the bias
            tensor_shape = self.tensor_shape(shape)
            made = product(self, "FULLY_CONNECTED", x, layer, arranged, tensor_shape, shape, bias=False)
            return made if bias is None else self._binary("ADD", made, bias, tensor_shape, shape)
        matrix = self.stored(layer.kernel, "oi", (d, c), arranged)
        return self.operator("FULLY_CONNECTED", [x, matrix, bias], self.tensor_shape(shape), shape)

    def project_in(self, x: Value, layer) -> Value:
        rows = (x.shape[0] * x.shape[1], x.shape[2])
        return self.dense(self.reshaped(x, rows, rows), layer)

    def project_out(self, x: Value, layer, size: tuple[int, int]) -> Value:
        rows = self.dense(x, layer)
        return self.reshaped(rows, (1, *size, rows.shape[1]), (*size, rows.shape[1]))

    def _mean(self, x: Value | str, axes: list[int], tensor_shape, keep: bool) -> Value:
        return self.operator(
            "MEAN", [x, self.small_constant(np.array(axes, "int32"))], tensor_shape, tensor_shape, {"keepDims": keep}
        )

    def _group_mean(self, x: Value, groups: int) -> Value:
        """[1, H, W, C] -> [1, 1, 1, C], the mean of each channel's group."""
        channels = x.shape[2]
        each = self._mean(self._mean(x, [2], (1, x.shape[0], channels), False), [1], (1, channels), False)
        grouped = self._mean(self.reshaped(each, (groups, channels // groups), ()), [1], (groups, 1), True)
        spread = self.small_constant(np.zeros((groups, channels // groups), "float32"))
        return self.reshaped(
            self._binary("ADD", grouped, spread, (groups, channels // groups), ()), (1, 1, 1, channels), ()
        )

    def _binary(self, kind: str, x, y, tensor_shape, shape) -> Value:
        return self.operator(kind, [x, y], tensor_shape, shape)

    def group_norm(self, x: Value, layer) -> Value:
        tensor_shape, each = (1, *x.shape), (1, 1, 1, x.shape[2])
        x = self._binary("SUB", x, self._group_mean(x, layer.groups), tensor_shape, x.shape)
        spread = self._group_mean(self._binary("MUL", x, x, tensor_shape, x.shape), layer.groups)
        steady = self._binary("ADD", spread, self.small_constant(np.array(layer.epsilon, "float32")), each, ())
        gamma, beta = (self.stored(v, "", each, lambda a: a.reshape(each)) for v in (layer.gamma, layer.beta))
        scale = self._binary("MUL", self.operator("RSQRT", [steady], each, ()), gamma, each, ())
        return self._binary("ADD", self._binary("MUL", x, scale, tensor_shape, x.shape), beta, tensor_shape, x.shape)

    def layer_norm(self, x: Value, layer) -> Value:
        channels, whole, each = x.shape[1], self.tensor_shape(x.shape), self.tensor_shape((x.shape[0], 1))

        def mean(value: Value) -> Value:
            return self._mean(value, [len(whole) - 1], each, True)

        x = self._binary("SUB", x, mean(x), whole, x.shape)
        square = self._binary("MUL", x, x, whole, x.shape)
        steady = self._binary("ADD", mean(square), self.small_constant(np.array(layer.epsilon, "float32")), each, ())
        normal = self._binary("MUL", x, self.operator("RSQRT", [steady], each, ()), whole, x.shape)
        gamma, beta = (self.stored(v, "", (channels,), lambda a: a) for v in (layer.gamma, layer.beta))
        return self._binary("ADD", self._binary("MUL", normal, gamma, whole, x.shape), beta, whole, x.shape)

    def silu(self, x: Value) -> Value:
        return self._binary(
            "MUL",
            x,
            self.operator("LOGISTIC", [x], self.tensor_shape(x.shape), x.shape),
            self.tensor_shape(x.shape),
            x.shape,
        )

    def gelu(self, x: Value, form: str) -> Value:
        if form == "quick_gelu":
            gate = self.operator("LOGISTIC", [self.affine(x, 1.702, 0.0)], self.tensor_shape(x.shape), x.shape)
            return self._binary("MUL", x, gate, self.tensor_shape(x.shape), x.shape)
        return self.operator(
            "GELU", [x], self.tensor_shape(x.shape), x.shape, {"approximate": form == "gelu_pytorch_tanh"}
        )

    def relu(self, x: Value) -> Value:
        return self.operator("RELU", [x], self.tensor_shape(x.shape), x.shape)

    def tanh(self, x: Value) -> Value:
        return self.operator("TANH", [x], self.tensor_shape(x.shape), x.shape)

    def add(self, x: Value, y: Value) -> Value:
        return self._binary("ADD", x, self._spread(x, y), self.tensor_shape(x.shape), x.shape)

    def subtract(self, x: Value, y: Value) -> Value:
        shape = max(x.shape, y.shape, key=len)
        return self._binary("SUB", x, y, self.tensor_shape(shape), shape)

    def divide(self, x: Value, y: Value) -> Value:
        return self._binary("DIV", x, y, self.tensor_shape(x.shape), x.shape)

    def multiply(self, x: Value, y: Value) -> Value:
        return self._binary("MUL", x, self._spread(x, y), self.tensor_shape(x.shape), x.shape)

    def _spread(self, x: Value, y: Value) -> Value:
        if len(x.shape) == 3 and len(y.shape) == 1:
            return self.reshaped(y, (1, 1, 1, *y.shape), y.shape)
        return y

    def concatenate(self, x: Value, y: Value) -> Value:
        shape = (*x.shape[:-1], x.shape[-1] + y.shape[-1])
        return self.operator(
            "CONCATENATION", [x, y], self.tensor_shape(shape), shape, {"axis": len(self.tensor_shape(shape)) - 1}
        )

    def channels(self, x: Value, start: int, stop: int) -> Value:
        shape = (*x.shape[:-1], stop - start)
        tensor_shape = self.tensor_shape(shape)
        begin, size = (
            self.small_constant(np.array(v, "int32")) for v in ([*[0] * (len(tensor_shape) - 1), start], tensor_shape)
        )
        return self.operator("SLICE", [x, begin, size], tensor_shape, shape)

    def upsample_nearest(self, x: Value) -> Value:
        shape = (2 * x.shape[0], 2 * x.shape[1], x.shape[2])
        size = self.small_constant(np.array(shape[:2], "int32"))
        return self.operator("RESIZE_NEAREST_NEIGHBOR", [x, size], (1, *shape), shape)

    def downsample_mean(self, x: Value) -> Value:
        shape = ((x.shape[0] + 1) // 2, (x.shape[1] + 1) // 2, x.shape[2])
        return self._pool(x, 2, shape)

    def space_to_depth(self, x: Value, factor: int) -> Value:
        shape = (x.shape[0] // factor, x.shape[1] // factor, x.shape[2] * factor**2)
        return self.operator("SPACE_TO_DEPTH", [x], (1, *shape), shape, {"blockSize": factor})

    def depth_to_space(self, x: Value, factor: int) -> Value:
        shape = (x.shape[0] * factor, x.shape[1] * factor, x.shape[2] // factor**2)
        return self.operator("DEPTH_TO_SPACE", [x], (1, *shape), shape, {"blockSize": factor})

    def pixel_unshuffle(self, x: Value, factor: int) -> Value:
        height, width, channels = x.shape[0] // factor, x.shape[1] // factor, x.shape[2]
        wide = (height, width, channels * factor**2)
        blocks = self.space_to_depth(x, factor)  # (f, f, C) inside
        rows = self.reshaped(blocks, (height * width, factor**2, channels), ())
        turned = self.transposed(rows, [0, 2, 1], (height * width, channels, factor**2), ())
        return self.reshaped(turned, (1, *wide), wide)

    def attention(self, q: Value, k: Value, v: Value, heads: int, causal: bool = False) -> Value:
        rows, channels = q.shape
        width = channels // heads

        def split(x: Value) -> Value:  # [heads, N, C / heads]
            apart = self.reshaped(x, (x.shape[0], heads, width), ())
            return self.transposed(apart, [1, 0, 2], (heads, x.shape[0], width), x.shape)

        q = self.affine(q, width**-0.5, 0.0)
        tensor_shape = (heads, rows, k.shape[0])
        scores = self.operator("BATCH_MATMUL", [split(q), split(k)], tensor_shape, tensor_shape, {"adjY": True})
        if causal:
            mask = np.triu(np.full((1, rows, rows), -1e9, "float32"), 1)
            scores = self._binary("ADD", scores, self.small_constant(mask), tensor_shape, tensor_shape)
        weights = self.operator("SOFTMAX", [scores], tensor_shape, tensor_shape, {"beta": 1.0})
        out = self.operator("BATCH_MATMUL", [weights, split(v)], (heads, rows, width), ())
        return self.reshaped(self.transposed(out, [1, 0, 2], (rows, heads, width), ()), q.shape, q.shape)

    def embedding(self, ids: Value, layer) -> Value:
        table = self.stored(layer.embeddings, "rows", tuple(layer.embeddings.shape), lambda a: a)
        shape = (*ids.shape, layer.embeddings.shape[1])
        return self.operator("GATHER", [table, ids], shape, shape, {"axis": 0})

    def clip(self, x: Value, low: float, high: float) -> Value:
        bounds = (self.small_constant(np.array(n, "float32")) for n in (low, high))
        for kind, bound in zip(("MAXIMUM", "MINIMUM"), bounds, strict=True):
            x = self._binary(kind, x, bound, self.tensor_shape(x.shape), x.shape)
        return x

    def greater(self, x: Value, bound: float) -> Value:
        tensor_shape = self.tensor_shape(x.shape)
        greater = self.operator(
            "GREATER", [x, self.small_constant(np.array(bound, "float32"))], tensor_shape, x.shape, dtype="bool"
        )
        return self.operator("CAST", [greater], tensor_shape, x.shape)

    def largest_channel(self, x: Value) -> Value:
        shape = (*x.shape[:2], 1)
        axes = self.small_constant(np.array([3], "int32"))
        return self.operator("REDUCE_MAX", [x, axes], (1, *shape), shape, {"keepDims": True})

    def order_statistics(self, x: Value, places: list[int]) -> list[Value]:
        count = x.shape[0] * x.shape[1]
        flat = self.reshaped(x, (1, count), (count,))
        falling = self.operator("TOPK_V2", [flat, self.small_constant(np.array(count, "int32"))], (1, count), (count,))
        return [self.channels(falling, count - 1 - place, count - place) for place in places]

    def average_pool(self, x: Value, factor: int) -> Value:
        shape = (x.shape[0] // factor, x.shape[1] // factor, x.shape[2])
        return self._pool(x, factor, shape)

    def _pool(self, x: Value, factor: int, shape) -> Value:
        window = {key: factor for key in ("strideW", "strideH", "filterWidth", "filterHeight")}
        options = {"padding": schema.Padding.SAME, **window}
        return self.operator("AVERAGE_POOL_2D", [x], (1, *shape), shape, options)

    def affine(self, x: Value, scale: float, offset: float) -> Value:
        if scale != 1.0:
            x = self._binary(
                "MUL", x, self.small_constant(np.array(scale, "float32")), self.tensor_shape(x.shape), x.shape
            )
        return (
            x
            if not offset
            else self._binary(
                "ADD", x, self.small_constant(np.array(offset, "float32")), self.tensor_shape(x.shape), x.shape
            )
        )

    # The file

    def write(self, path: Path) -> None:
        """Write a file of this graph alone."""
        self.file.add(SIGNATURE, self.subgraph)
        self.file.write(path)
