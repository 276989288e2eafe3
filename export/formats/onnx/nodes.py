"""Nodes and weights of ONNX graphs: maps are stored as [1, C, H, W], rows as [N, C], vectors as [1, C]."""

from __future__ import annotations

import collections
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import onnx
from onnx import TensorProto, helper

from export.emit.graph import Value
from export.formats.form import OPSETS, PLAIN, Form
from export.formats.onnx.store import Weight
from export.quantization.activations import CALIBRATED, Place
from export.quantization.weights import WeightFormats


@dataclass(frozen=True)
class Loop:
    """The body of a loop: its nodes, and the names that change from round to round."""

    changing: set[str]
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    made: dict[tuple, Value] = field(default_factory=dict)


class Calibrating(Protocol):
    """What is done to kernels and activations of calibrated weight formats; see `export.formats.onnx.calibrated`."""

    signed: bool

    def activation(self, g: OnnxNodes, x: Value, place: Place) -> Value: ...

    def kernel(self, g: OnnxNodes, layer, real: Callable[[], str], whole: Callable[[], str]) -> str: ...


class OnnxNodes:
    """The nodes and weights of a graph, each made once.

    Args:
        weight_formats: the format of each kernel.
        form: the readers that the graph is for.
        calibrating: what is done where the format is a calibrated one. Steps are then unrolled.
    """

    def __init__(
        self,
        weight_formats: WeightFormats | None = None,
        form: Form = PLAIN,
        calibrating: Calibrating | None = None,
    ):
        self.form, self.opset = form, form.opset or OPSETS[0]
        self.weight_formats = WeightFormats() if weight_formats is None else weight_formats
        self.calibrating, self._uses = calibrating, collections.Counter[str]()
        self.signature = {"inputs": {}, "outputs": {}}
        self.inputs, self.outputs = [], []
        self.weights: dict[tuple, Weight] = {}
        self.nodes: list[onnx.NodeProto] = []
        self._made: dict[tuple, Value] = {}
        self.loop: Loop | None = None  # the one that is being made
        self._names = 0

    def declare(self, name: str, shape: tuple[int, ...]) -> None:
        """Note a float32 tensor that `node` does not make: an input, z within a loop, or what the loop gives out."""

    def as_float32(self, value: Value) -> Value:
        """A value in float32, as outputs and z are."""
        return value

    # Making nodes

    def node(
        self, kind: str, inputs, shape: tuple[int, ...], outputs: int = 1, *, again: bool = False, **attributes
    ) -> Value:
        """Add a node, unless there is an equal one, and return its first output.

        Further outputs have the name of the first with _1, _2, ... appended. A node whose inputs are the same in all
        rounds of a loop is computed before the loop; with `again` in every round, which saves the result's memory.
        """
        names = [x.name if isinstance(x, Value) else x for x in inputs]
        loop = self.loop
        inside = loop is not None and (again or not loop.changing.isdisjoint(names))
        made, nodes = (loop.made, loop.nodes) if loop is not None and inside else (self._made, self.nodes)
        key = (kind, *names, *sorted((k, str(v)) for k, v in attributes.items()))
        if key not in made:
            value = Value(self.new_name(kind), tuple(shape))
            results = [value.name, *(f"{value.name}_{i}" for i in range(1, outputs))]
            nodes.append(helper.make_node(kind, names, results, name=value.name, **attributes))
            made[key] = value
            if loop is not None and inside:
                loop.changing.update(results)
        return made[key]

    def new_name(self, kind: str) -> str:
        """A name that no other node of the graph has."""
        self._names += 1
        return f"{kind}_{self._names}"

    def stored(
        self, variable, view: str, shape, read: Callable[[np.ndarray], np.ndarray], type: str = "float32"
    ) -> str:
        """The name of a weight: `read` of a variable's value, of this shape and type; int4 packed, two per byte."""
        key = (id(variable), view)
        if key not in self.weights:
            name = f"{variable.path}:{view}" if view else variable.path
            kind = getattr(TensorProto, {"float32": "FLOAT"}.get(type, type.upper()))
            size = math.prod(shape) // 2 if type == "int4" else math.prod(shape) * np.dtype(type).itemsize

            def get() -> np.ndarray:
                return np.ascontiguousarray(read(np.asarray(variable.numpy(), dtype="float32")))

            self.weights[key] = Weight(name, tuple(shape), kind, size, get, True)
        return self.weights[key].name

    def real(self, variable, view: str, shape: tuple[int, ...], arrange: Callable[[np.ndarray], np.ndarray]) -> str:
        """The name of a weight in float32, in the order of `arrange`; cast once where it is stored in float16."""
        if self.weight_formats(variable) != "float16":
            return self.stored(variable, view, shape, arrange)
        half = self.stored(variable, f"{view}half", shape, lambda a: arrange(a).astype("float16"), "float16")
        return self.node("Cast", [half], shape, to=TensorProto.FLOAT).name

    def small_constant(self, array: np.ndarray) -> str:
        """The name of a small constant. A number has no dimensions: some operators take no vector of one number."""
        array = np.asarray(array, order="C")
        key = (array.tobytes(), array.shape, str(array.dtype))
        if key not in self.weights:
            kind = helper.np_dtype_to_tensor_dtype(array.dtype)
            name = f"constant_{len(self.weights)}"
            self.weights[key] = Weight(name, array.shape, kind, array.nbytes, lambda: array, False)
        return self.weights[key].name

    def at_product(self, x: Value, layer, side: str) -> Value:
        """An input ("in") or, after it, the output ("out") of a layer's product."""
        path = layer.kernel.path
        if self.calibrating is None or self.weight_formats(layer.kernel) not in CALIBRATED:
            return x
        self._uses[path] += side == "in"
        return self.calibrating.activation(self, x, Place(path, self._uses[path] - 1, side))

    def reshaped(self, x, tensor_shape: tuple[int, ...], shape: tuple[int, ...]) -> Value:
        """x in the shape `tensor_shape` in the file; `shape` is that of its Value."""
        return self.node("Reshape", [x, self.small_constant(np.array(tensor_shape, "int64"))], shape)

    def channels(self, x: Value, start: int, stop: int) -> Value:
        bounds = [self.small_constant(np.array([n], "int64")) for n in (start, stop, 1)]
        return self.node("Slice", [x, *bounds], (*x.shape[:-1], stop - start))
