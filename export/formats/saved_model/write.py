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

    The weights are float32 variables. A signature takes any number of images at a time; it is described for one.
    """
    names = signatures(programs)
    functions = {name: program.trace(batched=True) for name, program in zip(names, programs, strict=True)}
    tf.saved_model.save(programs[0], str(path), signatures=functions, options=OPTIONS)
    made = []
    for name, program in zip(names, programs, strict=True):
        sides = {"inputs": program.inputs(batched=True), "outputs": functions[name].structured_outputs}
        described = {
            side: {name: {"shape": [1, *x.shape[1:]], "dtype": x.dtype.name} for name, x in tensors.items()}
            for side, tensors in sides.items()
        }
        made.append({"file": path, "signature": name, **described})
    return made


def load(graph: GraphFile) -> Run:
    """Load a signature of a SavedModel folder."""
    loaded = tf.saved_model.load(str(graph.path))

    def run(inputs: Tensors) -> Tensors:
        function = loaded.signatures[graph.signature]  # it holds weak references to variables: `loaded` must live
        taken = function.structured_input_signature[1]
        outputs = function(**{name: _fitting(value, taken[name]) for name, value in inputs.items()})
        return {name: value.numpy() for name, value in outputs.items()}

    return run


def _fitting(value, taken: tf.TensorSpec) -> tf.Tensor:
    """An input as a signature takes it: the tokens of a prompt as one of several, but not by version 0.1.0."""
    value = tf.constant(value)
    return value if len(value.shape) == len(taken.shape) else value[None]


def stored_bytes(path: Path) -> int:
    """Bytes of all variables and constants in a SavedModel folder."""
    variables = sum(file.stat().st_size for file in path.glob("variables/variables.data-*"))
    graph = saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes()).meta_graphs[0].graph_def
    nodes = [node for function in (graph, *graph.library.function) for node in _nodes(function)]
    return variables + sum(node.attr["value"].tensor.ByteSize() for node in nodes if node.op == "Const")


def _nodes(graph):
    return graph.node_def if hasattr(graph, "node_def") else graph.node  # of a function, of a graph
