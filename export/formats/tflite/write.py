"""Writing and inspecting LiteRT files."""

from __future__ import annotations

import collections
from collections.abc import Callable, Sequence
from pathlib import Path

from ai_edge_litert import schema_py_generated as schema

from codi_tf.core.errors import UserError
from export.emit.program import SamplerProgram
from export.formats.format import signatures
from export.formats.tflite.delegate import KINDS, faults
from export.formats.tflite.file import LiteRtFile
from export.formats.tflite.gpu import GpuGraph
from export.formats.tflite.graph import LiteRtGraph
from export.quantization.weights import WeightFormats


def write(
    programs: Sequence[SamplerProgram],
    emit: Callable[[LiteRtGraph, SamplerProgram], None],
    path: Path,
    weight_formats: WeightFormats,
    *,
    gpu: bool = False,
    unrolled: bool = False,
) -> list[dict]:
    """Write one flatbuffer with one signature per program. See `Format.write`.

    With `gpu`, its graphs are those that the GPU delegate takes as a whole. With `unrolled`, steps are no loop.

    Raises:
        UserError: the file would be larger than MAX_FILE; with `gpu`, the delegate does not take all of it.
    """
    file, made = LiteRtFile(), []
    for program, name in zip(programs, signatures(programs), strict=True):
        graph = (GpuGraph if gpu else LiteRtGraph)(weight_formats, file)
        graph.unrolled |= unrolled
        emit(graph, program)
        file.add(name, graph.subgraph)
        made.append({"file": path, "signature": name, **graph.signature})
    file.write(path)
    if gpu and (found := faults(path)):
        more = f", and {len(found) - 1} more" if len(found) > 1 else ""
        raise UserError(
            f"--profile gpu: {path.stem}: LiteRT's GPU delegate does not take {found[0]}{more}; leave it out"
        )
    return made


def operators(path: Path) -> collections.Counter[str]:
    """Count the operators of a flatbuffer; an operator that is not built in is called "CUSTOM name"."""
    model = _read(path)
    codes = [model.OperatorCodes(i) for i in range(model.OperatorCodesLength())]
    names = [
        f"CUSTOM {code.CustomCode().decode()}" if code.CustomCode() else KINDS[code.BuiltinCode()] for code in codes
    ]
    graphs = [model.Subgraphs(i) for i in range(model.SubgraphsLength())]
    return collections.Counter(
        names[graph.Operators(i).OpcodeIndex()] for graph in graphs for i in range(graph.OperatorsLength())
    )


def stored_bytes(path: Path) -> int:
    """Bytes of all constants in a file, inside the flatbuffer or behind it, with the scales of whole numbers."""
    model = _read(path)
    buffers = (model.Buffers(i) for i in range(model.BuffersLength()))
    sizes = [buffer.DataLength() or buffer.Size() for buffer in buffers]
    graphs = [model.Subgraphs(i) for i in range(model.SubgraphsLength())]
    tensors = (graph.Tensors(i) for graph in graphs for i in range(graph.TensorsLength()))
    scales = {tensor.Buffer(): tensor.Quantization().ScaleLength() for tensor in tensors if tensor.Quantization()}
    return sum(sizes) + sum(4 * count for place, count in scales.items() if sizes[place])


def _read(path: Path) -> schema.Model:
    return schema.Model.GetRootAs(path.read_bytes(), 0)
