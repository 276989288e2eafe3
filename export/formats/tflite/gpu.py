"""LiteRT graphs for the GPU delegate: every tensor inside is [1, H, W, C], and products of rows are convolutions.

The delegate takes no TOPK_V2 and no tensors of whole numbers, so graphs with these are refused (`delegate.faults`).
"""

from __future__ import annotations

import numpy as np

from export.emit.graph import Value
from export.formats.tflite.graph import LiteRtGraph


class GpuGraph(LiteRtGraph):
    """`export.emit.graph.Graph` for LiteRT's GPU delegate: rows are stored as [1, 1, N, C], vectors as [1, 1, 1, C]."""

    unrolled = True  # the delegate takes no WHILE

    def blank(self) -> GpuGraph:
        return GpuGraph()

    def tensor_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (*[1] * (4 - len(shape)), *shape)

    def dense(self, x: Value, layer) -> Value:
        c, d = layer.kernel.shape[-2:]
        kernel = self.stored(layer.kernel, "oi", (d, 1, 1, c), lambda a: a.reshape(c, d).T[:, None, None])
        return self.convolution(x, layer, kernel, (*x.shape[:-1], d))

    def project_in(self, x: Value, layer) -> Value:
        rows = (x.shape[0] * x.shape[1], x.shape[2])
        return self.dense(self.reshaped(x, self.tensor_shape(rows), rows), layer)

    def _group_mean(self, x: Value, groups: int) -> Value:
        width = x.shape[2] // groups
        each = self._mean(x, [1, 2], (1, 1, 1, x.shape[2]), True)
        grouped = self._mean(self.reshaped(each, (1, 1, groups, width), ()), [3], (1, 1, groups, 1), True)
        times = self.small_constant(np.array([1, 1, 1, width], "int32"))
        return self.reshaped(
            self.operator("TILE", [grouped, times], (1, 1, groups, width), ()), (1, 1, 1, x.shape[2]), ()
        )

    def _split(self, x: Value, heads: int, perm: list[int]) -> Value:
        """Rows [1, 1, N, C] -> [1, heads, N, C / heads] with perm [0, 2, 1, 3]."""
        apart = (1, x.shape[0], heads, x.shape[1] // heads)
        return self.transposed(self.reshaped(x, apart, ()), perm, tuple(apart[axis] for axis in perm), x.shape)

    def attention(self, q: Value, k: Value, v: Value, heads: int, causal: bool = False) -> Value:
        rows, width = q.shape[0], q.shape[1] // heads
        tensor_shape = (1, heads, rows, k.shape[0])
        q = self._split(self.affine(q, width**-0.5, 0.0), heads, [0, 2, 1, 3])
        scores = self.operator("BATCH_MATMUL", [q, self._split(k, heads, [0, 2, 3, 1])], tensor_shape, ())
        if causal:
            mask = np.triu(np.full((1, 1, rows, rows), -1e9, "float32"), 1)
            scores = self._binary("ADD", scores, self.small_constant(mask), tensor_shape, ())
        weights = self.operator("SOFTMAX", [scores], tensor_shape, (), {"beta": 1.0})
        values = self._split(v, heads, [0, 2, 1, 3])
        out = self.operator("BATCH_MATMUL", [weights, values], (1, heads, rows, width), ())
        turned = self.transposed(out, [0, 2, 1, 3], (1, rows, heads, width), ())
        shape = (rows, heads * width)
        return self.reshaped(turned, self.tensor_shape(shape), shape)

    def embedding(self, ids: Value, layer) -> Value:
        rows = super().embedding(ids, layer)
        return self.reshaped(rows, self.tensor_shape(rows.shape), rows.shape)

    def pixel_unshuffle(self, x: Value, factor: int) -> Value:
        height, width, channels = x.shape[0] // factor, x.shape[1] // factor, x.shape[2]
        wide = (height, width, channels * factor**2)
        apart = self.reshaped(self.space_to_depth(x, factor), (1, height * width, factor**2, channels), ())
        turned = self.transposed(apart, [0, 1, 3, 2], (1, height * width, channels, factor**2), ())
        return self.reshaped(turned, (1, *wide), wide)
