"""What LiteRT's GPU delegate takes: operators, shapes and types, checked in a file.

From the delegate's own check of operators (tensorflow/lite/tools/versioning/gpu_compatibility.cc in TensorFlow's
repository), and from its page (https://ai.google.dev/edge/litert/performance/gpu): tensors have 4 axes at most, and the
batch is 1. An operator that the delegate does not take runs on the processor, and tensors go back and forth.
"""

from __future__ import annotations

import collections
from collections.abc import Iterator
from pathlib import Path

from ai_edge_litert import schema_py_generated as schema

# Of the operators that our graphs consist of.
ANY_SHAPE = {"RESHAPE", "DEQUANTIZE"}  # also between the graph's inputs and outputs, or of weights
ELEMENTWISE = {"ADD", "SUB", "MUL", "DIV", "MAXIMUM", "MINIMUM", "GREATER"}
TAKEN = ELEMENTWISE | ANY_SHAPE | {
    "AVERAGE_POOL_2D", "BATCH_MATMUL", "CAST", "CONCATENATION", "CONV_2D", "DEPTH_TO_SPACE", "FULLY_CONNECTED",
    "GATHER", "GELU", "LOGISTIC", "MEAN", "PAD", "REDUCE_MAX", "RELU", "RESIZE_NEAREST_NEIGHBOR", "RSQRT", "SLICE",
    "SOFTMAX", "SPACE_TO_DEPTH", "TANH", "TILE", "TRANSPOSE",
}  # fmt: skip
FLOATS = ("FLOAT32", "FLOAT16", "BOOL")
KINDS = {value: name for name, value in vars(schema.BuiltinOperator).items() if not name.startswith("_")}
_TYPES = {value: name for name, value in vars(schema.TensorType).items() if not name.startswith("_")}


def faults(path: Path) -> list[str]:
    """What the delegate does not take of a file, each once, the most frequent first; [] for a clean file."""
    model = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
    found = collections.Counter(fault for graph in model.subgraphs for fault in _faults_of(model, graph))
    return [fault for fault, _ in found.most_common()]


def _faults_of(model: schema.ModelT, graph: schema.SubGraphT) -> Iterator[str]:
    held = {i for i, tensor in enumerate(graph.tensors) if _is_held(model, tensor)}
    for operator in graph.operators:
        kind = KINDS[model.operatorCodes[operator.opcodeIndex].builtinCode]
        if kind == "DEQUANTIZE" and held.issuperset(operator.inputs):  # of a weight, when the file is loaded
            held.update(operator.outputs)
        if kind not in TAKEN:
            yield kind
            continue
        if kind in ANY_SHAPE:
            continue
        inputs = [graph.tensors[i] for i in operator.inputs if i >= 0 and i not in held]
        outputs = [graph.tensors[i] for i in operator.outputs]
        for tensor in (*inputs, *outputs):
            shape = [*map(int, tensor.shape)]
            if len(shape) != 4 or shape[0] != 1:
                yield f"{kind} of {shape}, only of [1, H, W, C]"
            elif _TYPES[tensor.type] not in FLOATS:
                yield f"{kind} of {_TYPES[tensor.type].lower()}, only of floats"
        if kind in ELEMENTWISE:
            first, second, made = ([*map(int, graph.tensors[i].shape)] for i in (*operator.inputs, *operator.outputs))
            if not _spreads(second, made, first):
                yield f"{kind} of {first} and {second}, only of a second that is 1 along axes"


def _is_held(model: schema.ModelT, tensor: schema.TensorT) -> bool:
    """Whether a tensor is a constant."""
    buffer = model.buffers[tensor.buffer]
    return bool(buffer.offset) or (buffer.data is not None and len(buffer.data) > 0)


def _spreads(second: list[int], made: list[int], first: list[int]) -> bool:
    """Whether the first has the shape that is made, and the second is the same or 1 along each axis."""
    filled = [1] * (len(made) - len(second)) + second
    return first == made and all(side in (1, whole) for side, whole in zip(filled, made, strict=True))
