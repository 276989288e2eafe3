"""ONNX graphs: maps lie as [1, C, H, W], rows as [N, C], numbers as [1, C]; no layout changes but at the edges."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from export.graph import Value, shrinks

OPSET = 20  # the first with Gelu
INLINE = 2**30  # bytes of weights that lie within the .onnx file itself
MAX_FILE = 2**31 - 2**20  # bytes of a file of weights


@dataclass(frozen=True)
class Weight:
    """A tensor that is written with the file: its name, shape and dtype, and how to get it."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]

    @property
    def bytes(self) -> int:
        return int(np.prod(self.shape)) * self.dtype.itemsize


class OnnxGraph:
    """See `graph.Graph`.

    Args:
        weights: how kernels are kept: "float32", or "float16", which are widened when the file is loaded.
    """

    def __init__(self, *, weights: str = "float32"):
        self.half = weights == "float16"
        self.nodes, self.inputs, self.outputs = [], [], []
        self.weights: dict[tuple, Weight] = {}
        self._made: dict[tuple, Value] = {}
        self._names = 0

    # Making nodes

    def _node(self, kind: str, inputs, shape: tuple[int, ...], outputs: int = 1, **attributes) -> Value:
        """A node's first output, or that of the same node where there is one already."""
        names = [x.name if isinstance(x, Value) else x for x in inputs]
        key = (kind, *names, *sorted((k, str(v)) for k, v in attributes.items()))
        if key not in self._made:
            self._names += 1
            value = Value(f"{kind}_{self._names}", tuple(shape))
            made = [value.name, *(f"{value.name}_{i}" for i in range(1, outputs))]
            self.nodes.append(helper.make_node(kind, names, made, name=value.name, **attributes))
            self._made[key] = value
        return self._made[key]

    def _weight(self, variable, view: str, shape: tuple[int, ...], arrange: Callable[[np.ndarray], np.ndarray]) -> str:
        """The name of a weight, as `arrange` lays it out, widened where it is kept in float16."""
        key = (id(variable), view)
        if key not in self.weights:
            dtype = np.dtype("float16" if self.half and shrinks(variable) else "float32")
            name = f"{variable.path}:{view}" if view else variable.path

            def read() -> np.ndarray:
                return np.ascontiguousarray(arrange(np.asarray(variable.numpy(), dtype="float32")).astype(dtype))

            self.weights[key] = Weight(name, tuple(shape), dtype, read)
        weight = self.weights[key]
        if weight.dtype == np.float32:
            return weight.name
        return self._node("Cast", [weight.name], shape, to=TensorProto.FLOAT).name

    def _numbers(self, array: np.ndarray) -> str:
        """The name of a small constant."""
        array = np.ascontiguousarray(array)
        key = (array.tobytes(), array.shape, str(array.dtype))
        if key not in self.weights:
            self.weights[key] = Weight(f"constant_{len(self.weights)}", array.shape, array.dtype, lambda: array)
        return self.weights[key].name

    def _reshaped(self, x, own: tuple[int, ...], shape: tuple[int, ...]) -> Value:
        """x as `own`, the shape it has in the file; `shape` is that of its Value."""
        return self._node("Reshape", [x, self._numbers(np.array(own, "int64"))], shape)

    # The operations

    def input(self, name: str, shape: tuple[int, ...], dtype: str = "float32") -> Value:
        own = {3: lambda s: (1, *s), 2: lambda s: (1, *s), 1: lambda s: s}[len(shape)](shape)
        kind = TensorProto.FLOAT if dtype == "float32" else TensorProto.INT32
        self.inputs.append(helper.make_tensor_value_info(name, kind, own))
        if len(shape) == 3:
            return self._node("Transpose", [name], shape, perm=[0, 3, 1, 2])
        if dtype != "float32":
            return Value(name, shape)
        return self._reshaped(name, shape if len(shape) == 2 else (1, *shape), shape)

    def output(self, name: str, value: Value) -> None:
        shape = value.shape
        own = (1, *shape) if len(shape) > 1 else shape
        if len(shape) == 3:
            made = helper.make_node("Transpose", [value.name], [name], name=name, perm=[0, 2, 3, 1])
        else:
            made = helper.make_node("Reshape", [value.name, self._numbers(np.array(own, "int64"))], [name], name=name)
        self.nodes.append(made)
        self.outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, own))

    def constant(self, array: np.ndarray) -> Value:
        array = np.asarray(array, "float32")
        return Value(self._numbers(array if array.ndim > 1 else array[None]), array.shape)

    def weight(self, variable, rows: int | None = None) -> Value:
        shape = tuple(variable.shape) if rows is None else (rows, *variable.shape[1:])
        own = shape if len(shape) > 1 else (1, *shape)
        view = "" if rows is None else f"{rows}"
        return Value(self._weight(variable, view, own, lambda a: a[:rows].reshape(own)), shape)

    def conv(self, x: Value, layer) -> Value:
        height, width, channels = x.shape
        k, stride, filters = layer.kernel_size[0], layer.strides[0], layer.filters
        kernel = self._weight(layer.kernel, "oihw", (filters, channels, k, k), lambda a: a.transpose(3, 2, 0, 1))
        before = k // 2 if stride == 1 or layer.symmetric_padding else 0
        after = k // 2 if stride == 1 else 1
        bias = [self._weight(layer.bias, "", (filters,), lambda a: a)] if layer.use_bias else []
        size = [(side + before + after - k) // stride + 1 for side in (height, width)]
        return self._node(
            "Conv",
            [x, kernel, *bias],
            (*size, filters),
            kernel_shape=[k, k],
            pads=[before, before, after, after],
            strides=[stride, stride],
        )

    def _matrix(self, layer) -> tuple[str, int]:
        """A layer's kernel as [C, D], and D."""
        c, d = layer.kernel.shape[-2:]
        return self._weight(layer.kernel, "", (c, d), lambda a: a.reshape(c, d)), d

    def dense(self, x: Value, layer) -> Value:
        matrix, d = self._matrix(layer)
        shape = (*x.shape[:-1], d)
        if not layer.use_bias:
            return self._node("MatMul", [x, matrix], shape)
        return self._node("Gemm", [x, matrix, self._weight(layer.bias, "", (d,), lambda a: a)], shape)

    def project_in(self, x: Value, layer) -> Value:
        matrix, d = self._matrix(layer)
        rows = x.shape[0] * x.shape[1]
        flat = self._reshaped(x, (x.shape[2], rows), x.shape)  # [C, H W]
        bias = self._weight(layer.bias, "", (d,), lambda a: a)
        return self._node("Gemm", [flat, matrix, bias], (rows, d), transA=1)

    def project_out(self, x: Value, layer, size: tuple[int, int]) -> Value:
        matrix, d = self._matrix(layer)
        bias = self._weight(layer.bias, "column", (d, 1), lambda a: a[:, None])
        flat = self._node("Gemm", [matrix, x, bias], (d, x.shape[0]), transA=1, transB=1)  # [D, H W]
        return self._reshaped(flat, (1, d, *size), (*size, d))

    def group_norm(self, x: Value, layer) -> Value:
        height, width, channels = x.shape
        grouped = self._reshaped(x, (1, layer.groups, height * width * channels // layer.groups), x.shape)
        ones, zeros = np.ones(layer.groups, "float32"), np.zeros(layer.groups, "float32")
        normal = self._node(
            "InstanceNormalization",
            [grouped, self._numbers(ones), self._numbers(zeros)],
            x.shape,
            epsilon=float(layer.epsilon),
        )
        normal = self._reshaped(normal, (1, channels, height, width), x.shape)
        gamma, beta = (
            self._weight(variable, "channels", (channels, 1, 1), lambda a: a[:, None, None])
            for variable in (layer.gamma, layer.beta)
        )
        return self._node("Add", [self._node("Mul", [normal, gamma], x.shape), beta], x.shape)

    def layer_norm(self, x: Value, layer) -> Value:
        gamma, beta = (self._weight(v, "", tuple(v.shape), lambda a: a) for v in (layer.gamma, layer.beta))
        return self._node("LayerNormalization", [x, gamma, beta], x.shape, epsilon=float(layer.epsilon))

    def silu(self, x: Value) -> Value:
        return self._node("Mul", [x, self._node("Sigmoid", [x], x.shape)], x.shape)

    def gelu(self, x: Value, form: str) -> Value:
        if form == "quick_gelu":
            return self._node("Mul", [x, self._node("Sigmoid", [self.affine(x, 1.702, 0.0)], x.shape)], x.shape)
        return self._node("Gelu", [x], x.shape, approximate="tanh" if form == "gelu_pytorch_tanh" else "none")

    def relu(self, x: Value) -> Value:
        return self._node("Relu", [x], x.shape)

    def tanh(self, x: Value) -> Value:
        return self._node("Tanh", [x], x.shape)

    def add(self, x: Value, y: Value) -> Value:
        return self._node("Add", [x, self._spread(x, y)], x.shape)

    def subtract(self, x: Value, y: Value) -> Value:
        return self._node("Sub", [x, y], max(x.shape, y.shape, key=len))

    def divide(self, x: Value, y: Value) -> Value:
        return self._node("Div", [x, y], x.shape)

    def multiply(self, x: Value, y: Value) -> Value:
        return self._node("Mul", [x, self._spread(x, y)], x.shape)

    def _spread(self, x: Value, y: Value) -> Value:
        """y so that it meets x: numbers at every place of a map."""
        if len(x.shape) == 3 and len(y.shape) == 1 and y.shape != (1,):
            return self._reshaped(y, (1, *y.shape, 1, 1), y.shape)
        return y

    def concatenate(self, x: Value, y: Value) -> Value:
        return self._node("Concat", [x, y], (*x.shape[:-1], x.shape[-1] + y.shape[-1]), axis=1)

    def channels(self, x: Value, start: int, stop: int) -> Value:
        bounds = [self._numbers(np.array([n], "int64")) for n in (start, stop, 1)]
        return self._node("Slice", [x, *bounds], (*x.shape[:-1], stop - start))

    def doubled(self, x: Value) -> Value:
        scales = self._numbers(np.array([1, 1, 2, 2], "float32"))
        shape = (2 * x.shape[0], 2 * x.shape[1], x.shape[2])
        options = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        return self._node("Resize", [x, "", scales], shape, **options)

    def halved(self, x: Value) -> Value:
        shape = ((x.shape[0] + 1) // 2, (x.shape[1] + 1) // 2, x.shape[2])
        pads = [0, 0, x.shape[0] % 2, x.shape[1] % 2]
        return self._node("AveragePool", [x], shape, kernel_shape=[2, 2], strides=[2, 2], pads=pads)

    def unshuffled(self, x: Value, factor: int) -> Value:
        height, width, channels = x.shape[0] // factor, x.shape[1] // factor, x.shape[2]
        blocks = self._reshaped(x, (1, channels, height, factor, width, factor), x.shape)
        turned = self._node("Transpose", [blocks], x.shape, perm=[0, 1, 3, 5, 2, 4])
        shape = (height, width, channels * factor**2)
        return self._reshaped(turned, (1, shape[2], height, width), shape)

    def attention(self, q: Value, k: Value, v: Value, heads: int, causal: bool = False) -> Value:
        rows, channels = q.shape
        width = channels // heads

        def split(x: Value, perm: list[int]) -> Value:
            apart = self._reshaped(x, (x.shape[0], heads, width), x.shape)
            return self._node("Transpose", [apart], x.shape, perm=perm)

        scale = self._numbers(np.array(width**-0.5, "float32"))
        q = self._node("Mul", [q, scale], q.shape)
        scores = self._node("MatMul", [split(q, [1, 0, 2]), split(k, [1, 2, 0])], (heads, rows, k.shape[0]))
        if causal:
            mask = np.triu(np.full((rows, rows), -1e9, "float32"), 1)
            scores = self._node("Add", [scores, self._numbers(mask)], scores.shape)
        weights = self._node("Softmax", [scores], scores.shape, axis=-1)
        out = self._node("MatMul", [weights, split(v, [1, 0, 2])], q.shape)
        return self._reshaped(self._node("Transpose", [out], q.shape, perm=[1, 0, 2]), q.shape, q.shape)

    def embedding(self, ids: Value, layer) -> Value:
        table = self._weight(layer.embeddings, "", tuple(layer.embeddings.shape), lambda a: a)
        return self._node("Gather", [table, ids], (*ids.shape, layer.embeddings.shape[1]))

    def clip(self, x: Value, low: float, high: float) -> Value:
        return self._node("Clip", [x, *(self._numbers(np.array(n, "float32")) for n in (low, high))], x.shape)

    def above(self, x: Value, bound: float) -> Value:
        above = self._node("Greater", [x, self._numbers(np.array(bound, "float32"))], x.shape)
        return self._node("Cast", [above], x.shape, to=TensorProto.FLOAT)

    def largest_channel(self, x: Value) -> Value:
        return self._node("ReduceMax", [x, self._numbers(np.array([1], "int64"))], (*x.shape[:2], 1), keepdims=1)

    def ranked(self, x: Value, places: list[int]) -> list[Value]:
        count = x.shape[0] * x.shape[1]
        flat = self._reshaped(x, (1, count), (count,))
        rising = self._node("TopK", [flat, self._numbers(np.array([count], "int64"))], (count,), 2, largest=0)
        return [self.channels(rising, place, place + 1) for place in places]

    def pooled(self, x: Value, factor: int) -> Value:
        shape = (x.shape[0] // factor, x.shape[1] // factor, x.shape[2])
        return self._node("AveragePool", [x], shape, kernel_shape=[factor] * 2, strides=[factor] * 2)

    def affine(self, x: Value, scale: float, offset: float) -> Value:
        if scale != 1.0:
            x = self._node("Mul", [x, self._numbers(np.array(scale, "float32"))], x.shape)
        return x if not offset else self._node("Add", [x, self._numbers(np.array(offset, "float32"))], x.shape)

    # The file

    def write(self, path: Path) -> None:
        """Write the model; more than a gibibyte of weights lies in files beside it."""
        outside = sum(weight.bytes for weight in self.weights.values()) > INLINE
        with contextlib.ExitStack() as stack:
            store = _Store(path, stack) if outside else None
            tensors = [self._tensor(weight, store) for weight in self.weights.values()]
        graph = helper.make_graph(self.nodes, "sampler", self.inputs, self.outputs, initializer=tensors)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
        path.write_bytes(model.SerializeToString())
        onnx.checker.check_model(str(path))

    @staticmethod
    def _tensor(weight: Weight, store: _Store | None) -> onnx.TensorProto:
        if store is None or weight.bytes < 1024:
            return numpy_helper.from_array(weight.read(), weight.name)
        kind = helper.np_dtype_to_tensor_dtype(weight.dtype)
        tensor = TensorProto(name=weight.name, data_type=kind, dims=weight.shape, data_location=TensorProto.EXTERNAL)
        for key, value in store.append(weight.read()).items():
            tensor.external_data.add(key=key, value=str(value))
        return tensor


class _Store:
    """Files of weights beside a model."""

    def __init__(self, path: Path, stack: contextlib.ExitStack):
        self.path, self.stack, self.files, self.file = path, stack, 0, None

    def append(self, array: np.ndarray) -> dict:
        """Write an array; where it lies."""
        data = memoryview(array).cast("B")
        if self.file is None or _aligned(self.file.tell()) + len(data) > MAX_FILE:
            beside = self.path.with_name(f"{self.path.name}.{self.files}.data")
            self.file, self.files = self.stack.enter_context(beside.open("wb")), self.files + 1
        offset = _aligned(self.file.tell())
        self.file.seek(offset)
        self.file.write(data)
        return {"location": Path(self.file.name).name, "offset": offset, "length": len(data)}


def _aligned(offset: int) -> int:
    """The next place that a weight can be mapped into memory from."""
    return -(-offset // 4096) * 4096
