"""LiteRT (TFLite) graphs, built-in operators only: maps lie as [1, H, W, C], rows as [N, C], numbers as [1, C]."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from export.emit.graph import Value
from export.formats.tflite.file import LiteRtFile, Weight
from export.package.manifest import SIGNATURE
from export.quantization import weights as kept

TYPES = {"float32": "FLOAT32", "float16": "FLOAT16", "int8": "INT8", "int32": "INT32", "bool": "BOOL"}


class LiteRtGraph:
    """See `graph.Graph`.

    Args:
        keep: in which kind each kernel is kept: "float16" and "int8_weight_only" are widened when the file is loaded;
            with "int8" LiteRT rounds activations to 8 bits as they come ("dynamic range").
        file: that it is a part of.
    """

    def __init__(self, weight_formats: kept.WeightFormats | None = None, file: LiteRtFile | None = None):
        self.weight_formats = kept.WeightFormats() if weight_formats is None else weight_formats
        self.file = LiteRtFile() if file is None else file
        self.signature = {"inputs": {}, "outputs": {}}
        self.graph = schema.SubGraphT()
        self.graph.tensors, self.graph.operators, self.graph.inputs, self.graph.outputs = [], [], [], []
        self.names = {"inputs": {}, "outputs": {}}
        self._index: dict[str, int] = {}  # tensors by name
        self._made: dict[tuple, Value] = {}

    # Making tensors and operators

    def _tensor(self, name: str, own: tuple[int, ...], dtype: str = "float32", buffer: int = 0, scales=None) -> None:
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.buffer = name, list(own), buffer
        tensor.type = getattr(schema.TensorType, TYPES[dtype])
        if scales is not None:
            tensor.quantization = schema.QuantizationParametersT()
            tensor.quantization.scale = scales
            tensor.quantization.zeroPoint = np.zeros(len(scales), "int64")
            tensor.quantization.quantizedDimension = 0
        self._index[name] = len(self.graph.tensors)
        self.graph.tensors.append(tensor)

    def _operator(self, kind: str, inputs, own, shape, options: dict | None = None, dtype: str = "float32") -> Value:
        """An operator's first output, or that of the same operator where there is one already.

        `own` is the shape in the file, `shape` that of the value.
        """
        names = [x.name if isinstance(x, Value) else x for x in inputs]
        key = (kind, *names, tuple(own), *sorted((options or {}).items()))
        if key in self._made:
            return self._made[key]
        value = Value(f"{kind}_{len(self.graph.tensors)}", tuple(shape))
        self._tensor(value.name, own, dtype)
        operator = schema.OperatorT()
        operator.opcodeIndex = self.file.codes.setdefault(kind, len(self.file.codes))
        operator.inputs = [self._index[name] if name else -1 for name in names]
        operator.outputs = [self._index[value.name]]
        if kind == "TOPK_V2":
            self._tensor(f"{value.name}_places", own, "int32")
            operator.outputs.append(self._index[f"{value.name}_places"])
        holder = OPTIONS.get(kind)
        if holder is not None:
            operator.builtinOptionsType = getattr(schema.BuiltinOptions, holder)
            operator.builtinOptions = getattr(schema, f"{holder}T")()
            for name, setting in (options or {}).items():
                setattr(operator.builtinOptions, name, setting)
        self.graph.operators.append(operator)
        self._made[key] = value
        return value

    def _numbers(self, array: np.ndarray) -> str:
        """The name of a small constant."""
        array = np.ascontiguousarray(array)
        key = ("constant", array.tobytes(), array.shape, str(array.dtype))
        if key not in self._made:
            name = f"constant_{len(self.graph.tensors)}"
            buffer = self.file.buffer(key, Weight(array.nbytes, lambda: array))
            self._tensor(name, array.shape, str(array.dtype), buffer)
            self._made[key] = Value(name, array.shape)
        return self._made[key].name

    def _weight(self, variable, view: str, own: tuple[int, ...], arrange: Callable[[np.ndarray], np.ndarray]) -> str:
        """The name of a weight, as `arrange` lays it out, in float32 where it is small."""
        name = f"{variable.path}:{view}"
        if name in self._index:
            return name

        def value() -> np.ndarray:
            return np.asarray(variable.numpy(), dtype="float32")

        kind, scales = self.weight_formats(variable), None
        dtype = "int8" if kind.startswith("int8") else kind
        if dtype == "int8":
            scales = kept.scales_of(value())  # they are part of the graph

        def read() -> np.ndarray:
            return np.ascontiguousarray(arrange(kept.int8(value()) if dtype == "int8" else value()).astype(dtype))

        narrow = f"{name}:{dtype}"
        buffer = self.file.buffer(narrow, Weight(int(np.prod(own)) * np.dtype(dtype).itemsize, read))
        if kind in ("float32", "int8"):
            self._tensor(name, own, dtype, buffer, scales)
            return name
        self._tensor(narrow, own, dtype, buffer, scales)
        self._index[name] = self._index[self._operator("DEQUANTIZE", [narrow], own, own).name]
        return name

    def _reshaped(self, x, own: tuple[int, ...], shape: tuple[int, ...]) -> Value:
        return self._operator("RESHAPE", [x, self._numbers(np.array(own, "int32"))], own, shape)

    def _turned(self, x: Value, perm: list[int], own, shape) -> Value:
        return self._operator("TRANSPOSE", [x, self._numbers(np.array(perm, "int32"))], own, shape)

    # The operations

    def blank(self) -> LiteRtGraph:
        return LiteRtGraph()

    def input(self, name: str, shape: tuple[int, ...], dtype: str = "float32") -> Value:
        own = (1, *shape) if len(shape) > 1 else shape
        self._tensor(name, own, dtype)
        self.graph.inputs.append(self._index[name])
        self.names["inputs"][name] = self._index[name]
        self.signature["inputs"][name] = {"shape": list(own), "dtype": dtype}
        if dtype != "float32" or len(shape) == 3:
            return Value(name, shape)
        return self._reshaped(name, _own(shape), shape)

    def output(self, name: str, value: Value) -> None:
        own = (1, *value.shape) if len(value.shape) > 1 else value.shape
        made = self._operator("RESHAPE", [value, self._numbers(np.array(own, "int32"))], own, value.shape)
        self.graph.outputs.append(self._index[made.name])
        self.names["outputs"][name] = self._index[made.name]
        self.signature["outputs"][name] = {"shape": list(own), "dtype": "float32"}

    def repeat(self, z: Value, tables: list[np.ndarray], body: Callable[..., Value]) -> Value:
        for rows in zip(*tables, strict=True):
            z = body(z, *(self.constant(row) for row in rows))
        return z

    def constant(self, array: np.ndarray) -> Value:
        array = np.asarray(array, "float32")
        return Value(self._numbers(array.reshape(_own(array.shape))), array.shape)

    def weight(self, variable, rows: int | None = None) -> Value:
        shape = tuple(variable.shape) if rows is None else (rows, *variable.shape[1:])
        return Value(self._weight(variable, "rows", _own(shape), lambda a: a[:rows].reshape(_own(shape))), shape)

    def conv(self, x: Value, layer) -> Value:
        height, width, channels = x.shape
        k, stride, filters = layer.kernel_size[0], layer.strides[0], layer.filters
        kernel = self._weight(layer.kernel, "ohwi", (filters, k, k, channels), lambda a: a.transpose(3, 0, 1, 2))
        if layer.use_bias:
            bias = self._weight(layer.bias, "", (filters,), lambda a: a)
        else:  # the kernel wants one
            bias = self._numbers(np.zeros(filters, "float32"))
        padding = schema.Padding.SAME
        if stride > 1:
            before = k // 2 if layer.symmetric_padding else 0
            pads = self._numbers(np.array([[0, 0], [before, 1], [before, 1], [0, 0]], "int32"))
            height, width = height + before + 1, width + before + 1
            x = self._operator("PAD", [x, pads], (1, height, width, channels), (height, width, channels))
            height, width, padding = (height - k) // stride + 1, (width - k) // stride + 1, schema.Padding.VALID
        options = {"padding": padding, "strideW": stride, "strideH": stride, "dilationWFactor": 1, "dilationHFactor": 1}
        shape = (height, width, filters)
        return self._operator("CONV_2D", [x, kernel, bias], (1, *shape), shape, options)

    def dense(self, x: Value, layer) -> Value:
        c, d = layer.kernel.shape[-2:]
        matrix = self._weight(layer.kernel, "oi", (d, c), lambda a: a.reshape(c, d).T)
        bias = self._weight(layer.bias, "", (d,), lambda a: a) if layer.use_bias else None
        shape = (*x.shape[:-1], d)
        return self._operator("FULLY_CONNECTED", [x, matrix, bias], _own(shape), shape)

    def project_in(self, x: Value, layer) -> Value:
        rows = (x.shape[0] * x.shape[1], x.shape[2])
        return self.dense(self._reshaped(x, rows, rows), layer)

    def project_out(self, x: Value, layer, size: tuple[int, int]) -> Value:
        rows = self.dense(x, layer)
        return self._reshaped(rows, (1, *size, rows.shape[1]), (*size, rows.shape[1]))

    def _mean(self, x: Value | str, axes: list[int], own, weight_formats: bool) -> Value:
        return self._operator(
            "MEAN", [x, self._numbers(np.array(axes, "int32"))], own, own, {"keepDims": weight_formats}
        )

    def _group_mean(self, x: Value, groups: int) -> Value:
        """[1, H, W, C] -> [1, 1, 1, C], the mean of each channel's group."""
        channels = x.shape[2]
        each = self._mean(self._mean(x, [2], (1, x.shape[0], channels), False), [1], (1, channels), False)
        grouped = self._mean(self._reshaped(each, (groups, channels // groups), ()), [1], (groups, 1), True)
        spread = self._numbers(np.zeros((groups, channels // groups), "float32"))
        return self._reshaped(
            self._binary("ADD", grouped, spread, (groups, channels // groups), ()), (1, 1, 1, channels), ()
        )

    def _binary(self, kind: str, x, y, own, shape) -> Value:
        return self._operator(kind, [x, y], own, shape)

    def group_norm(self, x: Value, layer) -> Value:
        own, each = (1, *x.shape), (1, 1, 1, x.shape[2])
        x = self._binary("SUB", x, self._group_mean(x, layer.groups), own, x.shape)
        spread = self._group_mean(self._binary("MUL", x, x, own, x.shape), layer.groups)
        steady = self._binary("ADD", spread, self._numbers(np.array(layer.epsilon, "float32")), each, ())
        gamma, beta = (self._weight(v, "", each, lambda a: a.reshape(each)) for v in (layer.gamma, layer.beta))
        scale = self._binary("MUL", self._operator("RSQRT", [steady], each, ()), gamma, each, ())
        return self._binary("ADD", self._binary("MUL", x, scale, own, x.shape), beta, own, x.shape)

    def layer_norm(self, x: Value, layer) -> Value:
        rows, channels = x.shape

        def mean(value: Value) -> Value:
            return self._mean(value, [1], (rows, 1), True)

        x = self._binary("SUB", x, mean(x), x.shape, x.shape)
        square = self._binary("MUL", x, x, x.shape, x.shape)
        steady = self._binary("ADD", mean(square), self._numbers(np.array(layer.epsilon, "float32")), (rows, 1), ())
        normal = self._binary("MUL", x, self._operator("RSQRT", [steady], (rows, 1), ()), x.shape, x.shape)
        gamma, beta = (self._weight(v, "", (channels,), lambda a: a) for v in (layer.gamma, layer.beta))
        return self._binary("ADD", self._binary("MUL", normal, gamma, x.shape, x.shape), beta, x.shape, x.shape)

    def silu(self, x: Value) -> Value:
        return self._binary("MUL", x, self._operator("LOGISTIC", [x], _own(x.shape), x.shape), _own(x.shape), x.shape)

    def gelu(self, x: Value, form: str) -> Value:
        if form == "quick_gelu":
            gate = self._operator("LOGISTIC", [self.affine(x, 1.702, 0.0)], _own(x.shape), x.shape)
            return self._binary("MUL", x, gate, _own(x.shape), x.shape)
        return self._operator("GELU", [x], _own(x.shape), x.shape, {"approximate": form == "gelu_pytorch_tanh"})

    def relu(self, x: Value) -> Value:
        return self._operator("RELU", [x], _own(x.shape), x.shape)

    def tanh(self, x: Value) -> Value:
        return self._operator("TANH", [x], _own(x.shape), x.shape)

    def add(self, x: Value, y: Value) -> Value:
        return self._binary("ADD", x, self._spread(x, y), _own(x.shape), x.shape)

    def subtract(self, x: Value, y: Value) -> Value:
        shape = max(x.shape, y.shape, key=len)
        return self._binary("SUB", x, y, _own(shape), shape)

    def divide(self, x: Value, y: Value) -> Value:
        return self._binary("DIV", x, y, _own(x.shape), x.shape)

    def multiply(self, x: Value, y: Value) -> Value:
        return self._binary("MUL", x, self._spread(x, y), _own(x.shape), x.shape)

    def _spread(self, x: Value, y: Value) -> Value:
        if len(x.shape) == 3 and len(y.shape) == 1:
            return self._reshaped(y, (1, 1, 1, *y.shape), y.shape)
        return y

    def concatenate(self, x: Value, y: Value) -> Value:
        shape = (*x.shape[:-1], x.shape[-1] + y.shape[-1])
        return self._operator("CONCATENATION", [x, y], _own(shape), shape, {"axis": len(_own(shape)) - 1})

    def channels(self, x: Value, start: int, stop: int) -> Value:
        shape = (*x.shape[:-1], stop - start)
        own = _own(shape)
        begin, size = (self._numbers(np.array(v, "int32")) for v in ([*[0] * (len(own) - 1), start], own))
        return self._operator("SLICE", [x, begin, size], own, shape)

    def upsample_nearest(self, x: Value) -> Value:
        shape = (2 * x.shape[0], 2 * x.shape[1], x.shape[2])
        size = self._numbers(np.array(shape[:2], "int32"))
        return self._operator("RESIZE_NEAREST_NEIGHBOR", [x, size], (1, *shape), shape)

    def downsample_mean(self, x: Value) -> Value:
        shape = ((x.shape[0] + 1) // 2, (x.shape[1] + 1) // 2, x.shape[2])
        return self._pool(x, 2, shape)

    def pixel_unshuffle(self, x: Value, factor: int) -> Value:
        height, width, channels = x.shape[0] // factor, x.shape[1] // factor, x.shape[2]
        wide = (height, width, channels * factor**2)
        blocks = self._operator("SPACE_TO_DEPTH", [x], (1, *wide), wide, {"blockSize": factor})  # (f, f, C) inside
        rows = self._reshaped(blocks, (height * width, factor**2, channels), ())
        turned = self._turned(rows, [0, 2, 1], (height * width, channels, factor**2), ())
        return self._reshaped(turned, (1, *wide), wide)

    def attention(self, q: Value, k: Value, v: Value, heads: int, causal: bool = False) -> Value:
        rows, channels = q.shape
        width = channels // heads

        def split(x: Value) -> Value:  # [heads, N, C / heads]
            apart = self._reshaped(x, (x.shape[0], heads, width), ())
            return self._turned(apart, [1, 0, 2], (heads, x.shape[0], width), x.shape)

        q = self.affine(q, width**-0.5, 0.0)
        own = (heads, rows, k.shape[0])
        scores = self._operator("BATCH_MATMUL", [split(q), split(k)], own, own, {"adjY": True})
        if causal:
            mask = np.triu(np.full((1, rows, rows), -1e9, "float32"), 1)
            scores = self._binary("ADD", scores, self._numbers(mask), own, own)
        weights = self._operator("SOFTMAX", [scores], own, own, {"beta": 1.0})
        out = self._operator("BATCH_MATMUL", [weights, split(v)], (heads, rows, width), ())
        return self._reshaped(self._turned(out, [1, 0, 2], (rows, heads, width), ()), q.shape, q.shape)

    def embedding(self, ids: Value, layer) -> Value:
        table = self._weight(layer.embeddings, "rows", tuple(layer.embeddings.shape), lambda a: a)
        shape = (*ids.shape, layer.embeddings.shape[1])
        return self._operator("GATHER", [table, ids], shape, shape, {"axis": 0})

    def clip(self, x: Value, low: float, high: float) -> Value:
        bounds = (self._numbers(np.array(n, "float32")) for n in (low, high))
        for kind, bound in zip(("MAXIMUM", "MINIMUM"), bounds, strict=True):
            x = self._binary(kind, x, bound, _own(x.shape), x.shape)
        return x

    def greater(self, x: Value, bound: float) -> Value:
        own = _own(x.shape)
        greater = self._operator("GREATER", [x, self._numbers(np.array(bound, "float32"))], own, x.shape, dtype="bool")
        return self._operator("CAST", [greater], own, x.shape)

    def largest_channel(self, x: Value) -> Value:
        shape = (*x.shape[:2], 1)
        axes = self._numbers(np.array([3], "int32"))
        return self._operator("REDUCE_MAX", [x, axes], (1, *shape), shape, {"keepDims": True})

    def order_statistics(self, x: Value, places: list[int]) -> list[Value]:
        count = x.shape[0] * x.shape[1]
        flat = self._reshaped(x, (1, count), (count,))
        falling = self._operator("TOPK_V2", [flat, self._numbers(np.array(count, "int32"))], (1, count), (count,))
        return [self.channels(falling, count - 1 - place, count - place) for place in places]

    def average_pool(self, x: Value, factor: int) -> Value:
        shape = (x.shape[0] // factor, x.shape[1] // factor, x.shape[2])
        return self._pool(x, factor, shape)

    def _pool(self, x: Value, factor: int, shape) -> Value:
        window = {key: factor for key in ("strideW", "strideH", "filterWidth", "filterHeight")}
        options = {"padding": schema.Padding.SAME, **window}
        return self._operator("AVERAGE_POOL_2D", [x], (1, *shape), shape, options)

    def affine(self, x: Value, scale: float, offset: float) -> Value:
        if scale != 1.0:
            x = self._binary("MUL", x, self._numbers(np.array(scale, "float32")), _own(x.shape), x.shape)
        return (
            x
            if not offset
            else self._binary("ADD", x, self._numbers(np.array(offset, "float32")), _own(x.shape), x.shape)
        )

    # The file

    def write(self, path: Path) -> None:
        """Write a file of this graph alone."""
        self.file.add(SIGNATURE, self)
        self.file.write(path)


OPTIONS = {
    "CONV_2D": "Conv2DOptions",
    "FULLY_CONNECTED": "FullyConnectedOptions",
    "BATCH_MATMUL": "BatchMatMulOptions",
    "MEAN": "ReducerOptions",
    "RESHAPE": "ReshapeOptions",
    "TRANSPOSE": "TransposeOptions",
    "CONCATENATION": "ConcatenationOptions",
    "SOFTMAX": "SoftmaxOptions",
    "ADD": "AddOptions",
    "SUB": "SubOptions",
    "MUL": "MulOptions",
    "MAXIMUM": "MaximumMinimumOptions",
    "MINIMUM": "MaximumMinimumOptions",
    "GELU": "GeluOptions",
    "PAD": "PadOptions",
    "SLICE": "SliceOptions",
    "GATHER": "GatherOptions",
    "AVERAGE_POOL_2D": "Pool2DOptions",
    "SPACE_TO_DEPTH": "SpaceToDepthOptions",
    "RESIZE_NEAREST_NEIGHBOR": "ResizeNearestNeighborOptions",
    "DEQUANTIZE": "DequantizeOptions",
    "DIV": "DivOptions",
    "GREATER": "GreaterOptions",
    "CAST": "CastOptions",
    "REDUCE_MAX": "ReducerOptions",
    "TOPK_V2": "TopKV2Options",
}


def _own(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of a value's tensor."""
    return tuple(shape) if len(shape) == 2 else (1, *shape)
