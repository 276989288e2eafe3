"""Tensors and operators of LiteRT graphs: maps are stored as [1, H, W, C], rows as [N, C], vectors as [1, C]."""

from __future__ import annotations

import collections
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from export.emit.graph import Value
from export.formats.tflite.file import LiteRtFile, Subgraph, Weight
from export.quantization.activations import Signed
from export.quantization.weights import (
    WeightFormats,
    int4_channel_scales,
    int8_scales,
    packed_int4,
    quantize_int4_channel,
    quantize_int8,
)

TYPES = {name: name.upper() for name in ("float32", "float16", "int4", "int8", "int16", "int32", "int64", "bool")}
DTYPES = {"int8_weight_only": "int8", "int4_channel": "int4"}  # of weight formats that are no types
WHOLE = {"int8": (quantize_int8, int8_scales), "int4": (quantize_int4_channel, int4_channel_scales)}
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
    "LESS": "LessOptions",
    "WHILE": "WhileOptions",
}


@dataclass(frozen=True)
class Loop:
    """The body of a loop: its graph, the names that change from round to round, and those of what it takes from before.

    Attributes:
        made: its operators.
    """

    body: Subgraph
    changing: set[str]
    taken: list[str] = field(default_factory=list)
    made: dict[tuple, Value] = field(default_factory=dict)


class LiteRtNodes:
    """The tensors and operators of a graph, each made once.

    Args:
        weight_formats: the format of each kernel: "float16" and "int8_weight_only" are dequantized when the file is
            loaded; with "int8" and "int4_channel" LiteRT rounds activations to 8 bits at run time ("dynamic range").
        file: the file that the graph is a part of.
    """

    def __init__(self, weight_formats: WeightFormats | None = None, file: LiteRtFile | None = None):
        self.weight_formats = WeightFormats() if weight_formats is None else weight_formats
        self.file = LiteRtFile() if file is None else file
        self.signature = {"inputs": {}, "outputs": {}}
        self.subgraph = Subgraph()
        self.graph = self.subgraph.graph
        self.tensors: dict[str, schema.TensorT] = {}  # all of them, by name
        self.uses = collections.Counter[str]()  # of kernels in products of whole numbers, by their paths
        self.loop: Loop | None = None  # the one that is being made
        self._narrow: dict[str, str] = {}  # weights that are widened -> as they are stored
        self._made: dict[tuple, Value] = {}

    def tensor_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of a value's tensor."""
        return tuple(shape) if len(shape) == 2 else (1, *shape)

    def tensor(
        self, name: str, tensor_shape: tuple[int, ...], dtype: str = "float32", buffer: int = 0, scales=None, zero=0
    ) -> schema.TensorT:
        """Declare a tensor. `buffer` is the place of its content in the file, 0 for none.

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
        self.tensors[name] = tensor
        return tensor

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
        numbers stand for. An operator whose inputs are the same in all rounds of a loop is computed before the loop.
        """
        names = [x.name if isinstance(x, Value) else x for x in inputs]
        key = (kind, *names, tuple(tensor_shape), numbers, *sorted((options or {}).items()))
        loop = self.loop
        inside = loop is not None and not loop.changing.isdisjoint(names)
        made, subgraph = (loop.made, loop.body) if loop is not None and inside else (self._made, self.subgraph)
        if key in made:
            return made[key]
        value = Value(f"{kind}_{len(self.tensors)}", tuple(shape))
        if numbers is None:
            self.tensor(value.name, tensor_shape, dtype)
        else:
            self.tensor(value.name, tensor_shape, dtype, scales=np.array([numbers.scale]), zero=numbers.zero)
        results = [value.name]
        if kind == "TOPK_V2":
            results.append(f"{value.name}_places")
            self.tensor(results[1], tensor_shape, "int32")
        self.append(subgraph, kind, names, results, options)
        if loop is not None and inside:
            loop.changing.update(results)
        made[key] = value
        return value

    def append(
        self, subgraph: Subgraph, kind: str, names: list[str], results: list[str], options: dict | None = None
    ) -> schema.OperatorT:
        """Append an operator of this kind to a graph; `results` are declared tensors that it does not have yet."""
        operator = schema.OperatorT()
        operator.opcodeIndex = self.file.codes.setdefault(kind, len(self.file.codes))
        operator.inputs = [self.place(subgraph, name) if name else -1 for name in names]
        operator.outputs = [subgraph.add(name, self.tensors[name]) for name in results]
        holder = OPTIONS.get(kind)
        if holder is not None:
            operator.builtinOptionsType = getattr(schema.BuiltinOptions, holder)
            operator.builtinOptions = getattr(schema, f"{holder}T")()
            for name, setting in (options or {}).items():
                setattr(operator.builtinOptions, name, setting)
        subgraph.graph.operators.append(operator)
        return operator

    def place(self, subgraph: Subgraph, name: str) -> int:
        """The place of a tensor in a graph. What is missing there is put there.

        That is a constant; a weight that is widened, again in a loop, because products are fast with constants alone;
        or, in a loop, what is computed before it.
        """
        if name in subgraph.index:
            return subgraph.index[name]
        if name in self._narrow:
            self.append(subgraph, "DEQUANTIZE", [self._narrow[name]], [name])
            return subgraph.index[name]
        if not self.tensors[name].buffer:
            assert self.loop is not None and subgraph is self.loop.body
            self.loop.taken.append(name)
        return subgraph.add(name, self.tensors[name])

    def shape_of(self, x: Value) -> tuple[int, ...]:
        """The shape of a value's tensor, as it was made."""
        return tuple(self.tensors[x.name].shape)

    def small_constant(self, array: np.ndarray) -> str:
        """The name of a small constant."""
        array = np.ascontiguousarray(array)
        key = ("constant", array.tobytes(), array.shape, str(array.dtype))
        if key not in self._made:
            name = f"constant_{len(self.tensors)}"
            buffer = self.file.buffer(key, Weight(array.nbytes, lambda: array))
            self.tensor(name, array.shape, str(array.dtype), buffer)
            self._made[key] = Value(name, array.shape)
        return self._made[key].name

    def stored(
        self, variable, view: str, tensor_shape: tuple[int, ...], arrange: Callable[[np.ndarray], np.ndarray]
    ) -> str:
        """The name of a weight in the order of `arrange`, in its weight format."""
        name = f"{variable.path}:{view}"
        if name in self.tensors:
            return name

        kind = self.weight_formats(variable)
        dtype = DTYPES.get(kind, kind)
        size = math.prod(tensor_shape)
        size = -(-size // 2) if dtype == "int4" else size * np.dtype(dtype).itemsize

        def value() -> np.ndarray:
            return np.asarray(variable.numpy(), dtype="float32")

        def read() -> np.ndarray:
            made = value().astype(dtype) if dtype not in WHOLE else WHOLE[dtype][0](value())
            made = np.ascontiguousarray(arrange(made))
            return packed_int4(made) if dtype == "int4" else made

        scales = WHOLE[dtype][1](value()) if dtype in WHOLE else None  # they are part of the graph
        narrow = f"{name}:{dtype}"
        buffer = self.file.buffer(narrow, Weight(size, read))
        if kind in ("float32", "int8", "int4_channel"):
            self.tensor(name, tensor_shape, dtype, buffer, scales)
            return name
        self.tensor(narrow, tensor_shape, dtype, buffer, scales)
        self.tensor(name, tensor_shape)
        self._narrow[name] = narrow
        return name

    def reshaped(self, x, tensor_shape: tuple[int, ...], shape: tuple[int, ...]) -> Value:
        return self.operator("RESHAPE", [x, self.small_constant(np.array(tensor_shape, "int32"))], tensor_shape, shape)

    def transposed(self, x: Value, perm: list[int], tensor_shape, shape) -> Value:
        """x with permuted axes, of the shape `tensor_shape` in the file; `shape` is that of its Value."""
        return self.operator("TRANSPOSE", [x, self.small_constant(np.array(perm, "int32"))], tensor_shape, shape)
