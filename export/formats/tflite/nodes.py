"""Tensors and operators of LiteRT graphs: maps are stored as [1, H, W, C], rows as [N, C], vectors as [1, C]."""

from __future__ import annotations

import collections
from collections.abc import Callable

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from export.emit.graph import Value
from export.formats.tflite.file import LiteRtFile, Subgraph, Weight
from export.quantization.activations import Signed
from export.quantization.weights import WeightFormats, int8_scales, quantize_int8

TYPES = {name: name.upper() for name in ("float32", "float16", "int8", "int16", "int32", "int64", "bool")}
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
    "DEPTH_TO_SPACE": "DepthToSpaceOptions",
    "RESIZE_NEAREST_NEIGHBOR": "ResizeNearestNeighborOptions",
    "DEQUANTIZE": "DequantizeOptions",
    "QUANTIZE": "QuantizeOptions",
    "DIV": "DivOptions",
    "GREATER": "GreaterOptions",
    "CAST": "CastOptions",
    "REDUCE_MAX": "ReducerOptions",
    "TOPK_V2": "TopKV2Options",
    "TILE": "TileOptions",
}


class LiteRtNodes:
    """The tensors and operators of a graph, each made once.

    Args:
        weight_formats: the format of each kernel: "float16" and "int8_weight_only" are dequantized when the file is
            loaded; with "int8" LiteRT rounds activations to 8 bits at run time ("dynamic range").
        file: the file that the graph is a part of.
    """

    def __init__(self, weight_formats: WeightFormats | None = None, file: LiteRtFile | None = None):
        self.weight_formats = WeightFormats() if weight_formats is None else weight_formats
        self.file = LiteRtFile() if file is None else file
        self.signature = {"inputs": {}, "outputs": {}}
        self.subgraph = Subgraph()
        self.graph = self.subgraph.graph
        self.index: dict[str, int] = {}  # tensors by name
        self.uses = collections.Counter[str]()  # of kernels in products of whole numbers, by their paths
        self._made: dict[tuple, Value] = {}

    def tensor_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of a value's tensor."""
        return tuple(shape) if len(shape) == 2 else (1, *shape)

    def tensor(
        self, name: str, tensor_shape: tuple[int, ...], dtype: str = "float32", buffer: int = 0, scales=None, zero=0
    ) -> None:
        """Add a tensor. `buffer` is the place of its content in the file, 0 for none.

        `scales` are those of whole numbers: one, or one for each index of the first axis. `zero` stands for 0.
        """
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.buffer = name, list(tensor_shape), buffer
        tensor.type = getattr(schema.TensorType, TYPES[dtype])
        if scales is not None:
            tensor.quantization = schema.QuantizationParametersT()
            tensor.quantization.scale = scales
            tensor.quantization.zeroPoint = np.full(len(scales), zero, "int64")
            tensor.quantization.quantizedDimension = 0
        self.index[name] = len(self.graph.tensors)
        self.graph.tensors.append(tensor)

    def operator(
        self,
        kind: str,
        inputs,
        tensor_shape,
        shape,
        options: dict | None = None,
        dtype: str = "float32",
        numbers: Signed | None = None,
    ) -> Value:
        """Add an operator, unless there is an equal one, and return its first output.

        `tensor_shape` is the shape of the tensor in the file, `shape` that of the value; `numbers` says what its whole
        numbers stand for.
        """
        names = [x.name if isinstance(x, Value) else x for x in inputs]
        key = (kind, *names, tuple(tensor_shape), numbers, *sorted((options or {}).items()))
        if key in self._made:
            return self._made[key]
        value = Value(f"{kind}_{len(self.graph.tensors)}", tuple(shape))
        if numbers is None:
            self.tensor(value.name, tensor_shape, dtype)
        else:
            self.tensor(value.name, tensor_shape, dtype, scales=np.array([numbers.scale]), zero=numbers.zero)
        operator = schema.OperatorT()
        operator.opcodeIndex = self.file.codes.setdefault(kind, len(self.file.codes))
        operator.inputs = [self.index[name] if name else -1 for name in names]
        operator.outputs = [self.index[value.name]]
        if kind == "TOPK_V2":
            self.tensor(f"{value.name}_places", tensor_shape, "int32")
            operator.outputs.append(self.index[f"{value.name}_places"])
        holder = OPTIONS.get(kind)
        if holder is not None:
            operator.builtinOptionsType = getattr(schema.BuiltinOptions, holder)
            operator.builtinOptions = getattr(schema, f"{holder}T")()
            for name, setting in (options or {}).items():
                setattr(operator.builtinOptions, name, setting)
        self.graph.operators.append(operator)
        self._made[key] = value
        return value

    def shape_of(self, x: Value) -> tuple[int, ...]:
        """The shape of a value's tensor, as it was made."""
        return tuple(self.graph.tensors[self.index[x.name]].shape)

    def small_constant(self, array: np.ndarray) -> str:
        """The name of a small constant."""
        array = np.ascontiguousarray(array)
        key = ("constant", array.tobytes(), array.shape, str(array.dtype))
        if key not in self._made:
            name = f"constant_{len(self.graph.tensors)}"
            buffer = self.file.buffer(key, Weight(array.nbytes, lambda: array))
            self.tensor(name, array.shape, str(array.dtype), buffer)
            self._made[key] = Value(name, array.shape)
        return self._made[key].name

    def stored(
        self, variable, view: str, tensor_shape: tuple[int, ...], arrange: Callable[[np.ndarray], np.ndarray]
    ) -> str:
        """The name of a weight in the order of `arrange`, in its weight format."""
        name = f"{variable.path}:{view}"
        if name in self.index:
            return name

        def value() -> np.ndarray:
            return np.asarray(variable.numpy(), dtype="float32")

        kind, scales = self.weight_formats(variable), None
        dtype = "int8" if kind.startswith("int8") else kind
        if dtype == "int8":
            scales = int8_scales(value())  # they are part of the graph

        def read() -> np.ndarray:
            return np.ascontiguousarray(arrange(quantize_int8(value()) if dtype == "int8" else value()).astype(dtype))

        narrow = f"{name}:{dtype}"
        buffer = self.file.buffer(narrow, Weight(int(np.prod(tensor_shape)) * np.dtype(dtype).itemsize, read))
        if kind in ("float32", "int8"):
            self.tensor(name, tensor_shape, dtype, buffer, scales)
            return name
        self.tensor(narrow, tensor_shape, dtype, buffer, scales)
        self.index[name] = self.index[self.operator("DEQUANTIZE", [narrow], tensor_shape, tensor_shape).name]
        return name

    def reshaped(self, x, tensor_shape: tuple[int, ...], shape: tuple[int, ...]) -> Value:
        return self.operator("RESHAPE", [x, self.small_constant(np.array(tensor_shape, "int32"))], tensor_shape, shape)

    def transposed(self, x: Value, perm: list[int], tensor_shape, shape) -> Value:
        """x with permuted axes, of the shape `tensor_shape` in the file; `shape` is that of its Value."""
        return self.operator("TRANSPOSE", [x, self.small_constant(np.array(perm, "int32"))], tensor_shape, shape)
