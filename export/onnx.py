"""ONNX: for ONNX Runtime and whatever else reads it."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import onnx

from export.kept import Keeping
from export.onnx_graph import OnnxGraph as Graph
from export.onnx_graph import bodies
from export.program import SamplerProgram
from export.run import load_onnx as load

__all__ = ["MAX_GRAPH", "Graph", "load", "stored_bytes", "write"]

MAX_GRAPH = math.inf  # bytes: its weights lie in as many files as it takes


def write(program: SamplerProgram, emit: Callable[[Graph], None], path: Path, keep: Keeping) -> dict:
    """Write a program's graph, more than a gibibyte of weights in files beside it; its inputs and outputs."""
    graph = Graph(keep)
    emit(graph)
    graph.write(path)
    return graph.signature


def stored_bytes(path: Path) -> int:
    """Bytes of all constants of an ONNX file, those beside it included."""
    graph = onnx.load(path, load_external_data=False).graph
    return sum(_bytes(tensor) for part in (graph, *bodies(graph.node)) for tensor in part.initializer)


def _bytes(tensor: onnx.TensorProto) -> int:
    outside = {entry.key: entry.value for entry in tensor.external_data}
    return int(outside["length"]) if outside else len(tensor.raw_data)
