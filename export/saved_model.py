"""SavedModel: for TensorFlow and TensorFlow Serving."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from export.program import SamplerProgram
from export.run import Sampler

SIGNATURE = "serving_default"
# Every swish brings the function of its gradient along: without them a graph is saved four times as fast.
OPTIONS = tf.saved_model.SaveOptions(experimental_custom_gradients=False)


def write(program: SamplerProgram, path: Path, weights: str = "float32") -> None:
    """Write the program as a SavedModel folder with the signature `serving_default`; its weights stay variables."""
    tf.saved_model.save(program, str(path), signatures=program.trace(), options=OPTIONS)


def load(path: Path) -> Sampler:
    """Read a SavedModel folder back."""
    loaded = tf.saved_model.load(str(path))

    def sample(condition: np.ndarray, noise: np.ndarray) -> np.ndarray:
        function = loaded.signatures[SIGNATURE]  # it holds its variables weakly: `loaded` must live
        return function(condition=tf.constant(condition), noise=tf.constant(noise))["image"].numpy()

    return sample


def stored_bytes(path: Path) -> int:
    """Bytes of all variables and constants in a SavedModel folder."""
    variables = sum(file.stat().st_size for file in path.glob("variables/variables.data-*"))
    graph = saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes()).meta_graphs[0].graph_def
    nodes = [node for function in (graph, *graph.library.function) for node in _nodes(function)]
    return variables + sum(node.attr["value"].tensor.ByteSize() for node in nodes if node.op == "Const")


def _nodes(graph):
    return graph.node_def if hasattr(graph, "node_def") else graph.node  # of a function, of a graph
