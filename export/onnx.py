"""ONNX: for ONNX Runtime and whatever else reads it."""

from __future__ import annotations

from pathlib import Path

import onnx

from export.onnx_graph import OnnxGraph
from export.program import SamplerProgram
from export.run import load_onnx as load

__all__ = ["load", "stored_bytes", "write"]


def write(program: SamplerProgram, path: Path, weights: str = "float32") -> None:
    """Write the program as one ONNX file; more than a gibibyte of weights lies in files beside it."""
    graph = OnnxGraph(weights=weights)
    program.emit(graph)
    graph.write(path)


def stored_bytes(path: Path) -> int:
    """Bytes of all constants of an ONNX file, those beside it included."""
    tensors = onnx.load(path, load_external_data=False).graph.initializer
    return sum(_bytes(tensor) for tensor in tensors)


def _bytes(tensor: onnx.TensorProto) -> int:
    outside = {entry.key: entry.value for entry in tensor.external_data}
    return int(outside["length"]) if outside else len(tensor.raw_data)
