"""`HalfGraph`: ONNX graphs that compute in float16, but for islands of float32.

A value is float16 where a map or rows come out of a product, and stays so. Float32 are:
- inputs and outputs, and z from step to step, so that runners need not know of it;
- vectors, as the embedding of the time, and what is computed from them alone;
- normalizations, softmax, and what sorts or compares numbers: their sums, squares and exponentials leave float16's
  range, or need more than its 11 bits. Their results are rounded at once.
Where two formats meet, the larger tensor decides; between equals float32.
"""

from __future__ import annotations

import math

import numpy as np
from onnx import TensorProto

from export.emit.graph import Value
from export.formats.onnx.graph import OnnxGraph

PRODUCTS = {"Attention", "Conv", "Gemm", "MatMul"}
ISLANDS = {"GroupNormalization", "InstanceNormalization", "LayerNormalization", "ReduceMax", "Softmax", "TopK"}
FIRST_ALONE = {"Resize"}  # further inputs are float32 in any case
TYPES = {"float16": TensorProto.FLOAT16, "float32": TensorProto.FLOAT}


class HalfGraph(OnnxGraph):
    """An `OnnxGraph` in float16. Weights are stored in the formats of `weight_formats`, and cast where they differ."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self._formats: dict[str, str] = {}  # of every tensor of real numbers, by name
        self._sizes: dict[str, int] = {}  # of those that are computed, not weights or constants
        self._constants: dict[str, np.ndarray] = {}

    def declare(self, name: str, shape: tuple[int, ...]) -> None:
        self._formats[name], self._sizes[name] = "float32", math.prod(shape)

    def node(self, kind: str, inputs, shape, outputs: int = 1, *, again: bool = False, **attributes) -> Value:
        names = [x.name if isinstance(x, Value) else x for x in inputs]
        format = self._format_of(kind, names, shape)
        if format is None:
            made = super().node(kind, names, shape, outputs, again=again, **attributes)
            if kind == "Cast" and attributes["to"] == TensorProto.FLOAT:  # of what is true or false
                self.declare(made.name, shape)
            return made
        cast = [self._in(name, format) if i == 0 or kind not in FIRST_ALONE else name for i, name in enumerate(names)]
        made = super().node(kind, cast, shape, outputs, again=again, **attributes)
        if kind == "Greater":
            return made
        self._formats[made.name], self._sizes[made.name] = format, math.prod(shape)
        if kind in ISLANDS and any(self._formats[name] == "float16" for name in self._computed(names)):
            return Value(self._in(made.name, "float16"), made.shape)
        return made

    def as_float32(self, value: Value) -> Value:
        return Value(self._in(value.name, "float32"), value.shape)

    def stored(self, variable, view: str, shape, read, type: str = "float32") -> str:
        name = super().stored(variable, view, shape, read, type)
        if type in TYPES:
            self._formats[name] = type
        return name

    def real(self, variable, view: str, shape, arrange) -> str:
        if self.weight_formats(variable) != "float16":
            return self.stored(variable, view, shape, arrange)
        return self.stored(variable, f"{view}half", shape, lambda a: arrange(a).astype("float16"), "float16")

    def small_constant(self, array: np.ndarray) -> str:
        name = super().small_constant(array)
        if str(array.dtype) in TYPES:
            self._formats[name], self._constants[name] = str(array.dtype), array
        return name

    def _computed(self, names: list[str]) -> list[str]:
        return [name for name in names if name in self._sizes]

    def _format_of(self, kind: str, names: list[str], shape: tuple[int, ...]) -> str | None:
        """The format that a node computes in; None if no real number goes in."""
        if not any(name in self._formats for name in names):
            return None
        computed = self._computed(names)
        formats = {self._formats[name] for name in computed}
        vector = len(shape) == 1
        if kind in ISLANDS or (vector and formats <= {"float32"}):
            return "float32"
        if kind in PRODUCTS or not formats:
            return "float16"
        most = max(self._sizes[name] for name in computed)
        largest = {self._formats[name] for name in computed if self._sizes[name] == most}
        return "float32" if "float32" in largest else "float16"

    def _in(self, name: str, format: str) -> str:
        """The name of a tensor in a format; what is no real number stays as it is."""
        if self._formats.get(name, format) == format:
            return name
        if name in self._constants:
            return self.small_constant(self._constants[name].astype(format))
        cast = super().node("Cast", [name], (), to=TYPES[format]).name
        self._formats[cast] = format
        if name in self._sizes:
            self._sizes[cast] = self._sizes[name]
        return cast
