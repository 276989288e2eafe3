"""ONNX: for ONNX Runtime and whatever else reads it."""

from __future__ import annotations

import os
from pathlib import Path

import onnx
import tf2onnx
from onnx import numpy_helper

from export.program import SamplerProgram
from export.run import load_onnx as load

__all__ = ["load", "stored_bytes", "write"]

OPSET = 18


def write(program: SamplerProgram, path: Path) -> None:
    """Convert the program to one ONNX file, inputs and output named as in the program."""
    traced = program.trace_frozen()
    inputs = [tensor.name for tensor in traced.inputs]
    outputs = [tensor.name for tensor in traced.outputs]
    # Else tf2onnx copies the whole graph before each of its two dozen passes: a quarter of the time.
    os.environ.setdefault("TF2ONNX_CATCH_ERRORS", "FALSE")
    model, _ = tf2onnx.convert.from_graph_def(
        traced.graph.as_graph_def(add_shapes=True),
        name="sampler",
        input_names=inputs,
        output_names=outputs,
        opset=OPSET,
        tensors_to_rename=dict(zip([*inputs, *outputs], ("condition", "noise", "image"), strict=True)),
    )
    _plain_resize(model)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())


def stored_bytes(path: Path) -> int:
    """Bytes of all constants in an ONNX file."""
    graph = onnx.load(path).graph
    inline = [attribute.t for node in graph.node if node.op_type == "Constant" for attribute in node.attribute]
    return sum(numpy_helper.to_array(tensor).nbytes for tensor in (*graph.initializer, *inline))


def _plain_resize(model: onnx.ModelProto) -> None:
    """Spell nearest-neighbour enlargement by whole factors in the way that every runtime knows.

    TensorFlow's own spelling, which tf2onnx writes, is deprecated since opset 13; for whole factors they are equal.
    """
    for node in model.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Resize" and attribute.s == b"tf_half_pixel_for_nn":
                attribute.s = b"asymmetric"
