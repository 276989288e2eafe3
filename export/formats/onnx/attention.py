"""Attention in ONNX graphs, as the readers of a graph know it.

- ONNX Runtime's own operator works block by block: [heads, rows, keys] is never in memory.
- The standard's operator is younger than opset 21, and not every reader has it.
- Products and a softmax: every reader has these. Rows are taken together up to SCORES bytes of scores.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from onnx import TensorProto

from export.emit.graph import Value
from export.formats.onnx.nodes import OnnxNodes

SCORES = 2**27  # bytes of float32 scores: the largest buffer that every WebGPU device binds
NEVER = -1e4  # is added to the scores of keys that a row may not see: their exponentials are 0


def attention(g: OnnxNodes, q: Value, k: Value, v: Value, heads: int, causal: bool) -> Value:
    """`Graph.attention`."""
    if g.form.portable and g.opset < 23:
        return _products(g, q, k, v, heads, causal)
    inputs = [g.reshaped(x, (1, *x.shape), x.shape) for x in (q, k, v)]
    if g.form.portable:
        options: dict[str, Any] = {"q_num_heads": heads, "kv_num_heads": heads, "is_causal": int(causal)}
        made = g.node("Attention", inputs, q.shape, softmax_precision=TensorProto.FLOAT, **options)
    else:
        options = {"domain": "com.microsoft", "num_heads": heads, "unidirectional": int(causal)}
        made = g.node("MultiHeadAttention", inputs, q.shape, **options)
    return g.reshaped(made, q.shape, q.shape)


def _products(g: OnnxNodes, q: Value, k: Value, v: Value, heads: int, causal: bool) -> Value:
    (rows, channels), keys = q.shape, k.shape[0]
    width = channels // heads
    scale = g.small_constant(np.array(1.0 / math.sqrt(width), "float32"))
    q = g.node("Mul", [q, scale], q.shape)  # before the product: scores stay small
    q_heads, v_heads = (_turned(g, x, heads, [1, 0, 2]) for x in (q, v))
    k_heads = _turned(g, k, heads, [1, 2, 0])
    at_once = max(1, SCORES // (4 * heads * keys))
    parts = []
    for start in range(0, rows, at_once):
        stop = min(start + at_once, rows)
        part = q_heads if stop - start == rows else _rows(g, q_heads, start, stop)
        scores = g.node("MatMul", [part, k_heads], (heads, stop - start, keys))
        if causal:
            unseen = np.triu(np.full((rows, keys), NEVER, "float32"), 1)[start:stop]
            scores = g.node("Add", [g.as_float32(scores), g.small_constant(unseen)], scores.shape)
        shares = g.node("Softmax", [scores], scores.shape, axis=-1)
        parts.append(g.node("MatMul", [shares, v_heads], (heads, stop - start, width)))
    made = parts[0] if len(parts) == 1 else g.node("Concat", parts, (heads, rows, width), axis=1)
    return g.reshaped(g.node("Transpose", [made], q.shape, perm=[1, 0, 2]), q.shape, q.shape)


def _turned(g: OnnxNodes, x: Value, heads: int, order: list[int]) -> Value:
    """Rows [N, C] as [N, heads, C / heads], with the axes in this order."""
    shape = (x.shape[0], heads, x.shape[1] // heads)
    return g.node("Transpose", [g.reshaped(x, shape, shape)], tuple(shape[i] for i in order), perm=order)


def _rows(g: OnnxNodes, x: Value, start: int, stop: int) -> Value:
    """Rows start to stop of [heads, N, C]."""
    bounds = [g.small_constant(np.array([n], "int64")) for n in (start, stop, 1)]
    return g.node("Slice", [x, *bounds], (x.shape[0], stop - start, x.shape[2]))
