"""What is done at the inputs and outputs of products in calibrated ONNX graphs, and to their kernels.

`Rounding` writes pairs of QuantizeLinear and DequantizeLinear around a product, the form that ONNX Runtime, OpenVINO
and the compilers of NPUs turn into arithmetic of whole numbers. `Observing` and `Switching` make the graphs that
calibration runs: the one gives out ranges, the other rounds only the kernels that it is told to.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from onnx import TensorProto, helper

from export.emit.graph import Value
from export.formats.onnx.nodes import OnnxNodes
from export.quantization.activations import Calibrated, Place, Range, parameters

Kernel = Callable[[], str]  # makes a kernel in one form, and gives its name


class Rounding:
    """Kernels of 8 bits, and activations of whole numbers by calibrated ranges.

    Args:
        formats: with the ranges.
        signed: whether kernels are int8 without a zero point, as NPUs want them. Else they are uint8 around 128: on
            processors without VNNI, products of uint8 by int8 overflow.
    """

    def __init__(self, formats: Calibrated, *, signed: bool = False):
        self._formats, self.signed = formats, signed

    def activation(self, g: OnnxNodes, x: Value, place: Place) -> Value:
        """x, rounded."""
        scale, zero = parameters(self._formats.range_of(place), self._formats.activations)
        numbers = [g.small_constant(np.asarray(scale)), g.small_constant(np.array(zero, self._formats.activations))]
        whole = g.node("QuantizeLinear", [x, *numbers], x.shape)
        return g.node("DequantizeLinear", [whole, *numbers], x.shape)

    def kernel(self, g: OnnxNodes, layer, real: Kernel, whole: Kernel) -> str:
        """The name of a kernel."""
        return whole()


class Observing:
    """A float graph that also gives out the lowest and the highest number at every place."""

    signed = False

    def __init__(self):
        self._names: dict[Place, tuple[str, str]] = {}

    def activation(self, g: OnnxNodes, x: Value, place: Place) -> Value:
        """x; its range becomes two outputs."""
        ends = [g.node(kind, [x], (), keepdims=0).name for kind in ("ReduceMin", "ReduceMax")]
        there = {output.name for output in g.outputs}
        g.outputs += [helper.make_tensor_value_info(n, TensorProto.FLOAT, ()) for n in ends if n not in there]
        self._names[place] = (ends[0], ends[1])
        return x

    def kernel(self, g: OnnxNodes, layer, real: Kernel, whole: Kernel) -> str:
        """The name of a kernel in float32."""
        return real()

    def ranges(self, outputs: dict[str, np.ndarray]) -> dict[Place, Range]:
        """The ranges of all places in the outputs of a run."""
        return {place: Range(*(float(outputs[name]) for name in names)) for place, names in self._names.items()}


class Switching(Rounding):
    """A graph with an input for every kernel: whether it is rounded, together with the activations at its products.

    Attributes:
        inputs: their names, by the kernel's path.
    """

    def __init__(self, formats: Calibrated):
        super().__init__(formats)
        self.inputs: dict[str, str] = {}

    def activation(self, g: OnnxNodes, x: Value, place: Place) -> Value:
        """x, rounded or not."""
        return g.node("Where", [self._switch(g, place.kernel), super().activation(g, x, place), x], x.shape)

    def kernel(self, g: OnnxNodes, layer, real: Kernel, whole: Kernel) -> str:
        """The name of a kernel, rounded or not."""
        return g.node("Where", [self._switch(g, layer.kernel.path), whole(), real()], tuple(layer.kernel.shape)).name

    def _switch(self, g: OnnxNodes, path: str) -> str:
        if path not in self.inputs:
            self.inputs[path] = f"round {path}"
            g.inputs.append(helper.make_tensor_value_info(self.inputs[path], TensorProto.BOOL, ()))
        return self.inputs[path]
