"""A graph of float16 as a device with float16 computes it: every result is rounded, and the largest are noted.

ONNX Runtime's processors have few products of float16. It computes the others in float32 and leaves out casts between
them, so that nothing is rounded there and nothing overflows. Here casts to float16 and back stand behind every node.
Sums within a node stay float32, as those of GPUs; a device that adds up in float16 loses more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

from export.formats.format import Tensors
from export.formats.runtimes.onnx_runtime import settings_of

LARGEST = "largest"  # the output of the largest numbers, and that of a loop's
FOLDER = "session.model_external_initializers_file_folder_path"  # ONNX Runtime's name for where weight files are


def load_rounded(path: Path, threads: int) -> Callable[[Tensors], tuple[Tensors, dict[str, float]]]:
    """A graph of float16 that is rounded as it runs: inputs -> (outputs, the largest number of each node, by name).

    A name is that of the node's weight, or of the weight before it. What is not a number counts as infinite.
    """
    rounding = _Rounding()
    model = onnx.load(path, load_external_data=False)
    rounding.change(model.graph, {})
    options = settings_of(threads, as_written=True)
    options.add_session_config_entry(FOLDER, str(path.parent))
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def run(inputs: Tensors) -> tuple[Tensors, dict[str, float]]:
        made, largest = dict(zip(names, session.run(names, inputs), strict=True)), {}
        for output, labels in rounding.labels.items():
            values = made.pop(output).reshape(-1, len(labels)).max(axis=0)
            largest.update(zip(labels, np.nan_to_num(values, nan=np.inf, posinf=np.inf).tolist(), strict=True))
        return made, largest

    return run


@dataclass
class _Rounding:
    """Changes graphs. `labels`: the names of the numbers in each output that is added."""

    labels: dict[str, list[str]] = field(default_factory=dict)
    _paths: dict[str, str] = field(default_factory=dict)  # of weights that were cast, by the names of the results
    _path: str = "the first node"

    def change(self, graph: onnx.GraphProto, outside: Mapping[str, str]) -> list[str]:
        """Round in a graph of which all tensors have types; `outside`: new names of weights of the graph around it.

        Returns the labels of the added output, by the order of its numbers.
        """
        half = {value.name for value in graph.value_info if value.type.tensor_type.elem_type == TensorProto.FLOAT16}
        weights = [tensor.name for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT16]
        renamed = {**outside, **{name: f"{name}/float32" for name in weights}}
        nodes = [helper.make_node("Cast", [name], [renamed[name]], to=TensorProto.FLOAT) for name in weights]
        labels, largest = [], []
        for node in graph.node:
            paths = (self._paths.get(name) or name.partition(":")[0] * ("/" in name) for name in node.input)
            own = next(filter(None, paths), None)
            self._path = own or self._path
            if own and node.op_type == "Cast":
                self._paths[node.output[0]] = own
            for i, name in enumerate(node.input):
                node.input[i] = renamed.get(name, name)
            for attribute in node.attribute:
                if node.op_type == "Loop":
                    self._change_loop(graph, node, attribute.g, renamed)
            nodes.append(node)
            if node.output[0] in half:
                labels.append(f"{self._path} ({node.name})")
                largest.append(f"{node.output[0]}/largest")
                nodes += _rounded(node, largest[-1])
        _replace(graph, nodes)
        if labels:
            name = f"{LARGEST}_{len(self.labels)}"
            graph.node.append(helper.make_node("Concat", largest, [name], axis=0))
            graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [len(labels)]))
            self.labels[name] = labels
        return labels

    def _change_loop(self, graph, loop, body, renamed) -> None:
        labels = self.change(body, renamed)
        if labels:  # the body's last output becomes one of the loop, row by row
            name = body.output[-1].name
            loop.output.append(name)
            graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, len(labels)]))


def _rounded(node: onnx.NodeProto, largest: str) -> list[onnx.NodeProto]:
    """Nodes behind one of float16: they round its result, and give its largest absolute value, [1]."""
    name = node.output[0]
    exact, half = f"{name}/exact", f"{name}/half"
    node.output[0] = exact
    if node.op_type == "Cast":
        node.attribute[0].i = TensorProto.FLOAT
    return [
        helper.make_node("Cast", [exact], [half], to=TensorProto.FLOAT16),
        helper.make_node("Cast", [half], [name], to=TensorProto.FLOAT),
        helper.make_node("Abs", [exact], [f"{name}/abs"]),
        helper.make_node("Constant", [], [f"{name}/flat"], value_ints=[-1]),
        helper.make_node("Reshape", [f"{name}/abs", f"{name}/flat"], [f"{name}/row"]),
        helper.make_node("ReduceMax", [f"{name}/row"], [largest], keepdims=1),
    ]


def _replace(graph: onnx.GraphProto, nodes: list[onnx.NodeProto]) -> None:
    """Replace a graph's nodes, and forget the types of its tensors."""
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    graph.ClearField("node")
    graph.ClearField("value_info")
    graph.node.extend(copies)
