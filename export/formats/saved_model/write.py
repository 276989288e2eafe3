"""SavedModel: for TensorFlow and TensorFlow Serving."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from export.emit.graph import Graph
from export.emit.program import SamplerProgram, signatures
from export.package.manifest import GraphFile
from export.quantization.weights import WeightFormats
from export.runtime.run import Run, Tensors

# Every swish brings the function of its gradient along: without them a graph is saved four times as fast.
OPTIONS = tf.saved_model.SaveOptions(experimental_custom_gradients=False)


def write(
    programs: Sequence[SamplerProgram],
    emit: Callable[[Graph, SamplerProgram], None],
    path: Path,
    weight_formats: WeightFormats,
) -> list[dict]:
    """Write whole programs that differ in their size, float32, as a SavedModel folder, each as a signature.

    Their weights stay variables. `emit` and `keep` are for formats that write graphs of their own.

    Returns:
        of each its folder, its signature, its inputs and outputs.
    """
    names = signatures(programs)
    functions = {name: program.trace() for name, program in zip(names, programs, strict=True)}
    tf.saved_model.save(programs[0], str(path), signatures=functions, options=OPTIONS)
    made = []
    for name, program in zip(names, programs, strict=True):
        sides = {"inputs": program.inputs(), "outputs": functions[name].structured_outputs}
        described = {
            side: {name: {"shape": x.shape.as_list(), "dtype": x.dtype.name} for name, x in tensors.items()}
            for side, tensors in sides.items()
        }
        made.append({"file": path, "signature": name, **described})
    return made


def load(graph: GraphFile) -> Run:
    """Read a signature of a SavedModel folder back."""
    loaded = tf.saved_model.load(str(graph.path))

    def run(inputs: Tensors) -> Tensors:
        function = loaded.signatures[graph.signature]  # it holds its variables weakly: `loaded` must live
        outputs = function(**{name: tf.constant(value) for name, value in inputs.items()})
        return {name: value.numpy() for name, value in outputs.items()}

    return run


def stored_bytes(path: Path) -> int:
    """Bytes of all variables and constants in a SavedModel folder."""
    variables = sum(file.stat().st_size for file in path.glob("variables/variables.data-*"))
    graph = saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes()).meta_graphs[0].graph_def
    nodes = [node for function in (graph, *graph.library.function) for node in _nodes(function)]
    return variables + sum(node.attr["value"].tensor.ByteSize() for node in nodes if node.op == "Const")


def _nodes(graph):
    return graph.node_def if hasattr(graph, "node_def") else graph.node  # of a function, of a graph
