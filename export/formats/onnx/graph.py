"""The operations of ONNX graphs. Layouts change at inputs and outputs only."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from export.emit.graph import Value
from export.formats.onnx import attention, products
from export.formats.onnx.declarations import add_shapes, bodies, take_weights
from export.formats.onnx.nodes import Loop, OnnxNodes
from export.formats.onnx.store import Store, Weight

INLINE = 2**30  # bytes of weights that the .onnx file itself may hold


class OnnxGraph(OnnxNodes):
    """`export.emit.graph.Graph` for ONNX. `products` implements the weight formats."""

    def blank(self) -> OnnxGraph:
        return OnnxGraph()

    def input(self, name: str, shape: tuple[int, ...], dtype: str = "float32") -> Value:
        tensor_shape = (1, *shape) if len(shape) > 1 else shape
        self.signature["inputs"][name] = {"shape": list(tensor_shape), "dtype": dtype}
        kind = TensorProto.FLOAT if dtype == "float32" else TensorProto.INT32
        self.inputs.append(helper.make_tensor_value_info(name, kind, tensor_shape))
        if dtype == "float32":
            self.declare(name, shape)
        if len(shape) == 3:
            return self.node("Transpose", [name], shape, perm=[0, 3, 1, 2])
        if dtype != "float32":
            return Value(name, shape)
        return self.reshaped(name, _tensor_shape_of(shape), shape)

    def output(self, name: str, value: Value) -> None:
        value, shape = self.as_float32(value), value.shape
        tensor_shape = (1, *shape) if len(shape) > 1 else shape
        if len(shape) == 3:
            made = helper.make_node("Transpose", [value.name], [name], name=name, perm=[0, 2, 3, 1])
        else:
            made = helper.make_node(
                "Reshape", [value.name, self.small_constant(np.array(tensor_shape, "int64"))], [name], name=name
            )
        self.nodes.append(made)
        self.outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, tensor_shape))
        self.signature["outputs"][name] = {"shape": list(tensor_shape), "dtype": "float32"}

    def repeat(self, z: Value, tables: list[np.ndarray], body: Callable[..., Value]) -> Value:
        if len(tables[0]) == 1 or self.form.unrolled or self.calibrating is not None:
            for rows in zip(*tables, strict=True):
                z = self.as_float32(body(z, *map(self.constant, rows)))
            return z
        z_in, place, going = Value(self.new_name("z"), z.shape), self.new_name("step"), self.new_name("going")
        self.loop = loop = Loop({z_in.name, place, going})
        self.declare(z_in.name, z.shape)
        at = self.reshaped(place, (1,), (1,))
        rows = [self.node("Gather", [self.small_constant(table), at], table.shape[1:], axis=0) for table in tables]
        z_out, on = self.as_float32(body(z_in, *rows)), self.node("Identity", [going], ())
        self.loop = None
        info, tensor_shape = helper.make_tensor_value_info, _tensor_shape_of(z.shape)
        flags = [info(name, TensorProto.BOOL, ()) for name in (going, on.name)]
        fields = [info(value.name, TensorProto.FLOAT, tensor_shape) for value in (z_in, z_out)]
        count = info(place, TensorProto.INT64, ())
        inside = helper.make_graph(loop.nodes, "step", [count, flags[0], fields[0]], [flags[1], fields[1]])
        rounds = self.small_constant(np.array(len(tables[0]), "int64"))
        always = self.small_constant(np.array(True))  # may be left out, but not every program that reads graphs knows
        last = Value(self.new_name("Loop"), z.shape)
        self.declare(last.name, z.shape)
        inputs = [rounds, always, z.name]
        self.nodes.append(helper.make_node("Loop", inputs, [last.name], name=last.name, body=inside))
        return last

    def constant(self, array: np.ndarray) -> Value:
        array = np.asarray(array, "float32")
        return Value(self.small_constant(array if array.ndim > 1 else array[None]), array.shape)

    def weight(self, variable, rows: int | None = None) -> Value:
        shape = tuple(variable.shape) if rows is None else (rows, *variable.shape[1:])
        tensor_shape = shape if len(shape) > 1 else (1, *shape)
        view = "" if rows is None else f"{rows}"
        return Value(self.real(variable, view, tensor_shape, lambda a: a[:rows].reshape(tensor_shape)), shape)

    def conv(self, x: Value, layer) -> Value:
        return products.conv(self, x, layer)

    def dense(self, x: Value, layer) -> Value:
        return products.dense(self, x, layer)

    def project_in(self, x: Value, layer) -> Value:
        return products.project_in(self, x, layer)

    def project_out(self, x: Value, layer, size: tuple[int, int]) -> Value:
        return products.project_out(self, x, layer, size)

    def group_norm(self, x: Value, layer) -> Value:
        if self.form.portable and self.loop is None:  # readers do not know it within a loop
            weights = [self.real(v, "", tuple(v.shape), lambda a: a) for v in (layer.gamma, layer.beta)]
            options = {"num_groups": layer.groups, "epsilon": float(layer.epsilon)}
            return self.node("GroupNormalization", [x, *weights], x.shape, **options)
        height, width, channels = x.shape
        grouped = self.reshaped(x, (1, layer.groups, height * width * channels // layer.groups), x.shape)
        ones, zeros = np.ones(layer.groups, "float32"), np.zeros(layer.groups, "float32")
        normal = self.node(
            "InstanceNormalization",
            [grouped, self.small_constant(ones), self.small_constant(zeros)],
            x.shape,
            epsilon=float(layer.epsilon),
        )
        normal = self.reshaped(normal, (1, channels, height, width), x.shape)
        gamma, beta = (
            self.real(variable, "channels", (channels, 1, 1), lambda a: a[:, None, None])
            for variable in (layer.gamma, layer.beta)
        )
        return self.node("Add", [self.node("Mul", [normal, gamma], x.shape), beta], x.shape)

    def layer_norm(self, x: Value, layer) -> Value:
        gamma, beta = (self.real(v, "", tuple(v.shape), lambda a: a) for v in (layer.gamma, layer.beta))
        return self.node("LayerNormalization", [x, gamma, beta], x.shape, epsilon=float(layer.epsilon))

    def silu(self, x: Value) -> Value:
        return self.node("Mul", [x, self.node("Sigmoid", [x], x.shape)], x.shape)

    def gelu(self, x: Value, form: str) -> Value:
        if form == "quick_gelu":
            return self.node("Mul", [x, self.node("Sigmoid", [self.affine(x, 1.702, 0.0)], x.shape)], x.shape)
        return self.node("Gelu", [x], x.shape, approximate="tanh" if form == "gelu_pytorch_tanh" else "none")

    def relu(self, x: Value) -> Value:
        return self.node("Relu", [x], x.shape)

    def tanh(self, x: Value) -> Value:
        return self.node("Tanh", [x], x.shape)

    def add(self, x: Value, y: Value) -> Value:
        return self.node("Add", [x, self._spread(x, y)], x.shape)

    def subtract(self, x: Value, y: Value) -> Value:
        return self.node("Sub", [x, y], max(x.shape, y.shape, key=len))

    def divide(self, x: Value, y: Value) -> Value:
        return self.node("Div", [x, y], x.shape)

    def multiply(self, x: Value, y: Value) -> Value:
        return self.node("Mul", [x, self._spread(x, y)], x.shape)

    def _spread(self, x: Value, y: Value) -> Value:
        """y in a shape that broadcasts against x: numbers at every position of a map."""
        if len(x.shape) == 3 and len(y.shape) == 1 and y.shape != (1,):
            return self.reshaped(y, (1, *y.shape, 1, 1), y.shape)
        return y

    def concatenate(self, x: Value, y: Value) -> Value:
        return self.node("Concat", [x, y], (*x.shape[:-1], x.shape[-1] + y.shape[-1]), axis=1)

    def upsample_nearest(self, x: Value) -> Value:
        scales = self.small_constant(np.array([1, 1, 2, 2], "float32"))
        shape = (2 * x.shape[0], 2 * x.shape[1], x.shape[2])
        return self.node(
            "Resize",
            [x, "", scales],
            shape,
            mode="nearest",
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        )

    def downsample_mean(self, x: Value) -> Value:
        shape = ((x.shape[0] + 1) // 2, (x.shape[1] + 1) // 2, x.shape[2])
        pads = [0, 0, x.shape[0] % 2, x.shape[1] % 2]
        return self.node("AveragePool", [x], shape, kernel_shape=[2, 2], strides=[2, 2], pads=pads)

    def space_to_depth(self, x: Value, factor: int) -> Value:
        shape = (x.shape[0] // factor, x.shape[1] // factor, x.shape[2] * factor**2)
        return self.node("SpaceToDepth", [x], shape, blocksize=factor)

    def depth_to_space(self, x: Value, factor: int) -> Value:
        shape = (x.shape[0] * factor, x.shape[1] * factor, x.shape[2] // factor**2)
        return self.node("DepthToSpace", [x], shape, blocksize=factor)

    def pixel_unshuffle(self, x: Value, factor: int) -> Value:
        height, width, channels = x.shape[0] // factor, x.shape[1] // factor, x.shape[2]
        blocks = self.reshaped(x, (1, channels, height, factor, width, factor), x.shape)
        turned = self.node("Transpose", [blocks], x.shape, perm=[0, 1, 3, 5, 2, 4])
        shape = (height, width, channels * factor**2)
        return self.reshaped(turned, (1, shape[2], height, width), shape)

    def attention(self, q: Value, k: Value, v: Value, heads: int, causal: bool = False) -> Value:
        return attention.attention(self, q, k, v, heads, causal)

    def embedding(self, ids: Value, layer) -> Value:
        table = self.real(layer.embeddings, "", tuple(layer.embeddings.shape), lambda a: a)
        return self.node("Gather", [table, ids], (*ids.shape, layer.embeddings.shape[1]))

    def clip(self, x: Value, low: float, high: float) -> Value:
        return self.node("Clip", [x, *(self.small_constant(np.array(n, "float32")) for n in (low, high))], x.shape)

    def greater(self, x: Value, bound: float) -> Value:
        greater = self.node("Greater", [x, self.small_constant(np.array(bound, "float32"))], x.shape)
        return self.node("Cast", [greater], x.shape, to=TensorProto.FLOAT)

    def largest_channel(self, x: Value) -> Value:
        return self.node("ReduceMax", [x, self.small_constant(np.array([1], "int64"))], (*x.shape[:2], 1), keepdims=1)

    def order_statistics(self, x: Value, places: list[int]) -> list[Value]:
        count = x.shape[0] * x.shape[1]
        flat = self.reshaped(x, (1, count), (count,))
        rising = self.node("TopK", [flat, self.small_constant(np.array([count], "int64"))], (count,), 2, largest=0)
        return [self.channels(rising, place, place + 1) for place in places]

    def average_pool(self, x: Value, factor: int) -> Value:
        shape = (x.shape[0] // factor, x.shape[1] // factor, x.shape[2])
        return self.node("AveragePool", [x], shape, kernel_shape=[factor] * 2, strides=[factor] * 2)

    def affine(self, x: Value, scale: float, offset: float) -> Value:
        if scale != 1.0:
            x = self.node("Mul", [x, self.small_constant(np.array(scale, "float32"))], x.shape)
        return x if not offset else self.node("Add", [x, self.small_constant(np.array(offset, "float32"))], x.shape)

    # The file

    def write(self, path: Path, store: Store | None = None) -> None:
        """Write the model, and its weights into a store. Without a store, weights above INLINE bytes get files."""
        apart = store is None and sum(weight.bytes for weight in self.weights.values()) > INLINE
        with Store(path) if apart else contextlib.nullcontext(store) as store:
            tensors = {weight.name: self._tensor(weight, store) for weight in self.weights.values()}
        take_weights(self.nodes, tensors, own_shapes=self.form.portable)
        graph = helper.make_graph(self.nodes, "sampler", self.inputs, self.outputs, initializer=list(tensors.values()))
        if self.form.portable:
            add_shapes(graph, self.opset)
        nodes = [*self.nodes, *(node for body in bodies(self.nodes) for node in body.node)]
        domains = {"": self.opset, **({"com.microsoft": 1} if any(node.domain for node in nodes) else {})}
        opsets = [helper.make_opsetid(*domain) for domain in domains.items()]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
        path.write_bytes(model.SerializeToString())
        onnx.checker.check_model(str(path))

    @staticmethod
    def _tensor(weight: Weight, store: Store | None) -> onnx.TensorProto:
        tensor = TensorProto(name=weight.name, data_type=weight.type, dims=weight.shape)
        if store is None or weight.bytes < 1024:
            tensor.raw_data = weight.read().tobytes()
            return tensor
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in store.place(weight).items():
            tensor.external_data.add(key=key, value=str(value))
        return tensor


def _tensor_shape_of(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of a value's tensor."""
    if len(shape) == 3:
        return (1, shape[2], *shape[:2])
    return tuple(shape) if len(shape) == 2 else (1, *shape)
