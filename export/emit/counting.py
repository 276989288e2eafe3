"""The parameters and multiply-adds of a graph, counted while it is built."""

from __future__ import annotations

import math

from export.emit.graph import Graph, Value


class Counting:
    """A graph that counts operations and passes them on to another graph.

    Attributes:
        multiply_adds: of products, convolutions and attention, batch 1.
    """

    def __init__(self, graph: Graph):
        self.graph = graph
        self.multiply_adds = 0
        self._weights: dict[int, int] = {}

    @property
    def parameters(self) -> int:
        """The number of parameters in all weights that the graph uses."""
        return sum(self._weights.values())

    def __getattr__(self, name: str):
        make = getattr(self.graph, name)

        def made(*arguments, **options):
            value = make(*arguments, **options)
            self._count(name, value, *arguments)
            return value

        return made

    def _count(self, name: str, value: Value, *arguments) -> None:
        if name == "attention":
            q, k, v = arguments[:3]
            self.multiply_adds += q.shape[0] * k.shape[0] * (q.shape[1] + v.shape[1])
        elif name == "weight":
            self._weights[id(arguments[0])] = math.prod(arguments[0].shape)
        elif len(arguments) > 1 and hasattr(arguments[1], "variables"):
            self._weights.update({id(v): math.prod(v.shape) for v in arguments[1].variables})
            if hasattr(arguments[1], "kernel"):
                kernel = arguments[1].kernel.shape
                self.multiply_adds += math.prod(value.shape[:-1]) * math.prod(kernel)
