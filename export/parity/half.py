"""Packages that compute in float16, as a device with float16 computes them."""

from __future__ import annotations

from export.formats.threads import default_threads
from export.package.manifest import Package
from export.runtime.sampler import Sampler

LIMIT = 65504.0 / 2  # of activations on the gate's images: another image may reach twice as far


def load_rounded(package: Package) -> tuple[Sampler, dict[str, float]]:
    """A package of ONNX graphs whose results are rounded to float16, and the largest number of each node so far.

    The dictionary, by graph and node, fills as the sampler runs. Infinite is what overflowed.
    """
    from export.formats.onnx.rounded import load_rounded as load_graph

    largest: dict[str, float] = {}

    def noting(name: str, run):
        def noted(inputs):
            outputs, of_nodes = run(inputs)
            for node, value in of_nodes.items():
                key = f"{name}: {node}"
                largest[key] = max(largest.get(key, 0.0), value)
            return outputs

        return noted

    threads = default_threads()
    graphs = {name: noting(name, load_graph(graph.path, threads)) for name, graph in package.graphs.items()}
    return Sampler(package, graphs), largest


def figures(largest: dict[str, float]) -> dict:
    """The largest activation and the node that it comes from; {} for graphs whose activations are float32."""
    if not largest:
        return {}
    node = max(largest, key=largest.__getitem__)
    return {"largest_activation": {"value": largest[node], "node": node}}
