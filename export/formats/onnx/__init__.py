"""The format ONNX, for ONNX Runtime and other runtimes. Imports heavy modules only when they are used."""

from __future__ import annotations

import functools

from export.formats import FORMATS
from export.formats.form import PORTABLE
from export.formats.format import Format
from export.quantization.activations import CALIBRATED


@FORMATS.register("onnx")
class Onnx(Format):
    """ONNX. Weights are stored in as many files as they need, so a graph may have any size."""

    suffix = ".onnx"
    weight_formats = ("float32", "float16", "int8", "int8_weight_only", "int4")
    mixed_formats = ("float16", "int8_weight_only", "int4")
    calibrated_formats = tuple(CALIBRATED)
    layouts = ("whole", "parts")
    profiles = ("ort-cpu", PORTABLE)
    has_loop = True
    makers = ("tensorflow", "keras", "onnx")
    requires = {"onnx": "onnx"}
    runtimes = ("onnxruntime", "openvino")

    @staticmethod
    def write(programs, emit, path, weight_formats):
        from export.formats.onnx.write import write

        return write(programs, emit, path, weight_formats)

    @classmethod
    def writer(cls, form):
        from export.formats.onnx.write import write

        return functools.partial(write, form=form)

    @staticmethod
    def stored_bytes(path):
        from export.formats.onnx.write import stored_bytes

        return stored_bytes(path)

    @staticmethod
    def new_graph():
        from export.formats.onnx.graph import OnnxGraph

        return OnnxGraph()
