"""A share of the first step's x_hat in the result, in exports: see `codi_tf.inference.knobs.result_of`.

A step gives z_s = a z + b w, w the network's output, and x_hat where it starts is a' z + b' w. So x_hat is also
p z + q z_s with q = b' / b and p = a' - q a, and no graph needs to give out w. Imports no TensorFlow.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from export.emit.graph import Graph, Value

Numbers = Sequence[float]  # a and b of a step


def of_ends(step: Numbers, estimate: Numbers) -> tuple[float, float]:
    """p and q for a step z_s = a z + b w and the numbers a' and b' of x_hat where it starts; b is not 0."""
    q = estimate[1] / step[1]
    return estimate[0] - q * step[0], q


def shares(fidelity: float, first: Numbers, estimate: Numbers, steps: int) -> np.ndarray:
    """For each step, the weights of the sum so far, of its z and of its z_s in the sum: float32 [N, 3], N at least 2.

    The sum is f x_hat of the first step after this one, and f x_hat + (1 - f) z_s after the last.
    """
    p, q = of_ends(first, estimate)
    table = np.zeros((steps, 3), "float32")
    table[0], table[1:, 0], table[-1, 2] = (0.0, fidelity * p, fidelity * q), 1.0, 1.0 - fidelity
    return table


def repeat(g: Graph, z: Value, tables: list[np.ndarray], table: np.ndarray, body: Callable[..., Value]) -> Value:
    """`Graph.repeat`, whose result is the sum of `shares`: the loop carries it beside z, as further channels."""
    channels = z.shape[-1]

    def next_state(state: Value, *rows: Value) -> Value:
        *of_step, weights = rows
        now, total = g.channels(state, 0, channels), g.channels(state, channels, 2 * channels)
        after = body(now, *of_step)
        for i, value in enumerate((total, now, after)):
            part = g.multiply(value, g.channels(weights, i, i + 1))
            total = part if i == 0 else g.add(total, part)
        return g.concatenate(after, total)

    return g.channels(g.repeat(g.concatenate(z, z), [*tables, table], next_state), channels, 2 * channels)


def facts(fidelity: float, layout: str, estimate: Numbers) -> dict:
    """What the manifest says: the fidelity of a package of one graph; of parts, what a host mixes with."""
    if layout == "parts":
        return {"estimate": dict(zip("ab", estimate, strict=True))}
    if not fidelity:
        return {}
    return {"fidelity": fidelity, **({"steps": 1} if fidelity == 1.0 else {})}
