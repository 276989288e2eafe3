"""What an ONNX file declares of its tensors: weights in the graph that uses them, and the shapes of all others."""

from __future__ import annotations

import onnx
from onnx import TensorProto, helper

SMALL = 1024  # bytes of the largest tensor that shapes may depend on


def bodies(nodes) -> list[onnx.GraphProto]:
    """The graphs within loops."""
    return [attribute.g for node in nodes if node.op_type == "Loop" for attribute in node.attribute]


def take_weights(nodes, tensors: dict[str, onnx.TensorProto], *, own_shapes: bool) -> None:
    """Move the weights that loops alone use into their bodies: ONNX Runtime fuses nodes with weights beside them.

    With `own_shapes` a body gets copies of the whole numbers that it shares with the graph around it. These are shapes
    and places, and readers that look for them in the body alone would take its tensors for ones of unknown shape.
    """
    around = {name for node in nodes for name in node.input}
    for body in bodies(nodes):
        inside = {name for node in body.node for name in node.input} & tensors.keys()
        body.initializer.extend(tensors.pop(name) for name in sorted(inside - around))
        whole = (name for name in inside & around if tensors[name].data_type == TensorProto.INT64)
        copied = {name: f"{name}_inside" for name in sorted(whole)} if own_shapes else {}
        for name, copy in copied.items():
            body.initializer.add().CopyFrom(tensors[name])
            body.initializer[-1].name = copy
        for node in body.node:
            for i, name in enumerate(node.input):
                node.input[i] = copied.get(name, name)


def add_shapes(graph: onnx.GraphProto, opset: int) -> None:
    """Write the shape and type of every tensor into a graph and into the bodies of its loops."""
    inferred = onnx.shape_inference.infer_shapes(
        helper.make_model(_without_weights(graph), opset_imports=[helper.make_opsetid("", opset)]),
        check_type=True,
        strict_mode=True,
        data_prop=True,
    ).graph
    graph.value_info.extend(inferred.value_info)
    for node, other in zip(graph.node, inferred.node, strict=True):
        for body, inside in zip(bodies([node]), bodies([other]), strict=True):
            body.value_info.extend(inside.value_info)


def _without_weights(graph: onnx.GraphProto) -> onnx.GraphProto:
    """The graph without the numbers of its weights, which may be gigabytes."""
    light = onnx.GraphProto(name=graph.name)
    light.node.extend(map(_plain, graph.node))
    light.input.extend(graph.input)
    light.output.extend(graph.output)
    light.initializer.extend(map(_without_numbers, graph.initializer))
    for node in light.node:
        for body in bodies([node]):  # what a loop gives out has the shape of what goes round
            light.value_info.add(name=node.output[0], type=body.output[1].type)
    for body in bodies(light.node):
        kept = [_without_numbers(tensor) for tensor in body.initializer]
        body.ClearField("initializer")
        body.initializer.extend(kept)
    return light


def _plain(node: onnx.NodeProto) -> onnx.NodeProto:
    """A node with the same shapes that onnx infers: it infers none of GroupNormalization, which keeps its input's."""
    if node.op_type == "GroupNormalization":
        return helper.make_node("Identity", node.input[:1], node.output)
    return node


def _without_numbers(tensor: onnx.TensorProto) -> onnx.TensorProto:
    if 0 < len(tensor.raw_data) <= SMALL:
        return tensor
    return TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
