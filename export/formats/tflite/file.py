"""LiteRT (TFLite) files: graphs as signatures, and their weights behind the flatbuffer.

Weights are read and written one at a time, so that memory holds one of them at most.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from codi_tf.core.errors import UserError
from export.formats.tflite.limits import MAX_FILE

ALIGNMENT = 64
VERSIONS = {
    "CONV_2D": 5,
    "FULLY_CONNECTED": 9,
    "DEQUANTIZE": 3,
    "QUANTIZE": 2,
    "BATCH_MATMUL": 1,
    "RESIZE_NEAREST_NEIGHBOR": 1,
}


@dataclass(frozen=True)
class Weight:
    """A buffer: its size, and a function that reads its content."""

    bytes: int
    read: Callable[[], np.ndarray]


class Subgraph:
    """A graph of a file, the places of its tensors by name, and those of its inputs and outputs by their names."""

    def __init__(self):
        self.graph = schema.SubGraphT()
        self.graph.tensors, self.graph.operators, self.graph.inputs, self.graph.outputs = [], [], [], []
        self.index: dict[str, int] = {}
        self.names: dict[str, dict[str, int]] = {"inputs": {}, "outputs": {}}

    def add(self, name: str, tensor: schema.TensorT) -> int:
        """Add a tensor, and return its place."""
        self.index[name] = len(self.graph.tensors)
        self.graph.tensors.append(tensor)
        return self.index[name]


class LiteRtFile:
    """A file: its graphs, each with a signature, and their buffers. Each weight is stored once.

    Attributes:
        codes: the kinds of operators -> their places in the file.
    """

    def __init__(self):
        self.codes: dict[str, int] = {}
        self._graphs: dict[str, Subgraph] = {}
        self._loops: list[tuple[schema.WhileOptionsT, Subgraph, Subgraph]] = []
        self._buffers: list[Weight | None] = [None]  # buffer 0 is empty, by convention
        self._places: dict[object, int] = {}

    def add(self, signature: str, graph: Subgraph) -> None:
        """Add a graph, whose weights are in this file, as a signature."""
        self._graphs[signature] = graph

    def add_loop(self, options: schema.WhileOptionsT, condition: Subgraph, body: Subgraph) -> None:
        """Add the graphs of a WHILE, whose options will name them."""
        self._loops.append((options, condition, body))

    def buffer(self, key: object, weight: Weight) -> int:
        """The place of a buffer; equal keys have equal content."""
        if key not in self._places:
            self._places[key] = len(self._buffers)
            self._buffers.append(weight)
        return self._places[key]

    def write(self, path: Path) -> None:
        """Write the flatbuffer and, behind it, the weights.

        Raises:
            UserError: it would be larger than MAX_FILE.
        """
        header = self._pack([1] * len(self._buffers))
        offsets, end = [], _aligned(len(header))
        for weight in self._buffers:
            offsets.append(end)
            end = _aligned(end + (weight.bytes if weight else 0))
        if end > MAX_FILE:
            raise UserError(
                f"{path.name} would be {end / 2**30:.1f} GiB: a LiteRT file holds less than 2; "
                "take smaller --weights, or --layout parts"
            )
        with open(path, "wb") as file:
            file.write(self._pack(offsets))
            for weight, offset in zip(self._buffers, offsets, strict=True):
                if weight is not None:
                    file.seek(offset)
                    file.write(np.atleast_1d(weight.read()).data.cast("B"))

    def _pack(self, offsets: list[int]) -> bytes:
        model = schema.ModelT()
        model.version, model.description = 3, b"codi_tf"
        model.operatorCodes = []
        for kind in self.codes:
            code = schema.OperatorCodeT()
            code.builtinCode = getattr(schema.BuiltinOperator, kind)
            code.deprecatedBuiltinCode = min(code.builtinCode, 127)
            code.version = VERSIONS.get(kind, 1)
            model.operatorCodes.append(code)
        model.buffers = []
        for weight, offset in zip(self._buffers, offsets, strict=True):
            buffer = schema.BufferT()
            if weight is not None:
                buffer.offset, buffer.size = max(offset, 2), weight.bytes
            model.buffers.append(buffer)
        model.subgraphs = [graph.graph for graph in self._graphs.values()]
        for options, *graphs in self._loops:
            options.condSubgraphIndex = len(model.subgraphs)
            options.bodySubgraphIndex = options.condSubgraphIndex + 1
            model.subgraphs += [graph.graph for graph in graphs]
        model.signatureDefs = []
        for place, (name, graph) in enumerate(self._graphs.items()):
            signature = schema.SignatureDefT()
            signature.signatureKey, signature.subgraphIndex = name, place
            signature.inputs, signature.outputs = (_maps(graph.names[side]) for side in ("inputs", "outputs"))
            model.signatureDefs.append(signature)
        builder = flatbuffers.Builder(2**20)
        builder.Finish(model.Pack(builder), b"TFL3")
        return bytes(builder.Output())


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _maps(indices: dict[str, int]) -> list:
    maps = []
    for name, index in indices.items():
        entry = schema.TensorMapT()
        entry.name, entry.tensorIndex = name, index
        maps.append(entry)
    return maps
