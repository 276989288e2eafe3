"""TFLite flatbuffer: for LiteRT, on phones and desktops. Built-in operators only."""

from __future__ import annotations

import collections
from collections.abc import Callable, Sequence
from pathlib import Path

from ai_edge_litert import schema_py_generated as schema

from export.emit.program import SamplerProgram, signatures
from export.formats.tflite.file import MAX_FILE as MAX_GRAPH
from export.formats.tflite.file import LiteRtFile
from export.formats.tflite.graph import LiteRtGraph as Graph
from export.quantization.weights import WeightFormats
from export.runtime.run import load_tflite as load

__all__ = ["MAX_GRAPH", "Graph", "load", "operators", "stored_bytes", "write"]

_NAMES = {value: name for name, value in vars(schema.BuiltinOperator).items() if not name.startswith("_")}


def write(
    programs: Sequence[SamplerProgram],
    emit: Callable[[Graph, SamplerProgram], None],
    path: Path,
    weight_formats: WeightFormats,
) -> list[dict]:
    """Write a graph of programs that differ in their size into one flatbuffer, each as a signature.

    Returns:
        of each its file, its signature, its inputs and outputs.

    Raises:
        UserError: it would be larger than a file may be.
    """
    file, made = LiteRtFile(), []
    for program, name in zip(programs, signatures(programs), strict=True):
        graph = Graph(weight_formats, file)
        emit(graph, program)
        file.add(name, graph)
        made.append({"file": path, "signature": name, **graph.signature})
    file.write(path)
    return made


def operators(path: Path) -> collections.Counter[str]:
    """How often each operator occurs in a flatbuffer; one that is not built in counts as "CUSTOM name"."""
    model = _read(path)
    codes = [model.OperatorCodes(i) for i in range(model.OperatorCodesLength())]
    names = [
        f"CUSTOM {code.CustomCode().decode()}" if code.CustomCode() else _NAMES[code.BuiltinCode()] for code in codes
    ]
    graphs = [model.Subgraphs(i) for i in range(model.SubgraphsLength())]
    return collections.Counter(
        names[graph.Operators(i).OpcodeIndex()] for graph in graphs for i in range(graph.OperatorsLength())
    )


def stored_bytes(path: Path) -> int:
    """Bytes of all constants in a file, within the flatbuffer or behind it."""
    model = _read(path)
    buffers = (model.Buffers(i) for i in range(model.BuffersLength()))
    return sum(buffer.DataLength() or buffer.Size() for buffer in buffers)


def _read(path: Path) -> schema.Model:
    return schema.Model.GetRootAs(path.read_bytes(), 0)
