"""Writing and reading SavedModel folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from export.emit.program import SamplerProgram
from export.formats.format import GraphFile, Run, Tensors, signatures

# Without the gradient functions of swish a graph is saved four times as fast.
OPTIONS = tf.saved_model.SaveOptions(experimental_custom_gradients=False)


def write(programs: Sequence[SamplerProgram], path: Path) -> list[dict]:
    """Write a SavedModel folder with one signature per program. See `Format.write`.

    The weights are float32 variables.
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
    """Load a signature of a SavedModel folder."""
    loaded = tf.saved_model.load(str(graph.path))

    def run(inputs: Tensors) -> Tensors:
        function = loaded.signatures[graph.signature]  # it holds weak references to variables: `loaded` must live
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
