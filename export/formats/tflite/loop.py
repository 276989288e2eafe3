"""Steps as a loop in LiteRT graphs: a WHILE with two graphs of its own, so that files do not grow with the steps."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from export.emit.graph import Value
from export.formats.tflite.file import Subgraph
from export.formats.tflite.nodes import LiteRtNodes, Loop


def repeat(g: LiteRtNodes, z: Value, tables: list[np.ndarray], body: Callable[..., Value]) -> Value:
    """`Graph.repeat` as a WHILE.

    The loop carries the number of the round, z, and what is computed before it and used in it, which stays as it is.
    """
    place, z_in = (f"{name}_{len(g.tensors)}" for name in ("round", "z"))
    g.tensor(place, (1,), "int32")
    g.tensor(z_in, g.shape_of(z))
    g.loop = made = Loop(Subgraph(), {place, z_in})
    for name in (place, z_in):
        made.body.add(name, g.tensors[name])
    z_out = body(Value(z_in, z.shape), *(_row(g, table, place) for table in tables))
    after = g.operator("ADD", [place, _whole(g, 1)], (1,), (), dtype="int32")
    g.loop = None
    carried = [place, z_in, *made.taken]
    made.body.graph.inputs = [made.body.index[name] for name in carried]
    made.body.graph.outputs = [made.body.index[name] for name in (after.name, z_out.name, *made.taken)]
    results = [f"{name} after" for name in carried]
    for name, result in zip(carried, results, strict=True):
        g.tensor(result, g.tensors[name].shape).type = g.tensors[name].type
    operator = g.append(g.subgraph, "WHILE", [_whole(g, 0), z.name, *made.taken], results)
    g.file.add_loop(operator.builtinOptions, _condition(g, carried, len(tables[0])), made.body)
    return Value(results[1], z.shape)


def _row(g: LiteRtNodes, table: np.ndarray, place: str) -> Value:
    constant = g.small_constant(np.asarray(table, "float32"))
    return g.operator("GATHER", [constant, place], (1, *table.shape[1:]), table.shape[1:], {"axis": 0})


def _whole(g: LiteRtNodes, number: int) -> str:
    return g.small_constant(np.array([number], "int32"))


def _condition(g: LiteRtNodes, carried: list[str], rounds: int) -> Subgraph:
    """The graph that says whether another round follows."""
    made = Subgraph()
    made.graph.inputs = [made.add(name, g.tensors[name]) for name in carried]
    going = f"{carried[0]} going"
    g.tensor(going, (1,), "bool")
    g.append(made, "LESS", [carried[0], _whole(g, rounds)], [going])
    made.graph.outputs = [made.index[going]]
    return made
