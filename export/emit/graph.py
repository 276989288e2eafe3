"""`Graph`: the operations from which exported graphs are built, and which every format implements.

`export.emit.networks` builds the networks from these operations; `export.formats` implements them. Building a graph
computes nothing, and reads no weight until a file is written.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np


@dataclass(frozen=True)
class Value:
    """A tensor of a graph.

    Attributes:
        name: its name there.
        shape: of a map (H, W, C), rows (N, C), or a vector (C,); the batch is always 1. Formats choose the memory
            layout themselves.
    """

    name: str
    shape: tuple[int, ...]


class Graph(Protocol):
    """The operations. Layers are those of `codi_tf.models`.

    A layer's weights are stored once, however often it is used, and equal operations on equal arguments are computed
    once.

    Attributes:
        signature: "inputs" and "outputs", by name: their shapes in the file, the batch included, and dtypes.
    """

    signature: dict[str, dict[str, dict]]

    def blank(self) -> Graph:
        """An empty graph of the same format."""
        ...

    def input(self, name: str, shape: tuple[int, ...], dtype: str = "float32") -> Value:
        """An input of the graph."""
        ...

    def output(self, name: str, value: Value) -> None:
        """Make a value an output of the graph."""
        ...

    def repeat(self, z: Value, tables: list[np.ndarray], body: Callable[..., Value]) -> Value:
        """A loop of N rounds: z <- body(z, *rows), `rows` row i of each float32 table [N, C] in round i; the last z."""
        ...

    def constant(self, array: np.ndarray) -> Value:
        """A small float32 constant, [C] or [N, C]."""
        ...

    def weight(self, variable, rows: int | None = None) -> Value:
        """A variable of one or two axes, or its first rows."""
        ...

    def conv(self, x: Value, layer) -> Value:
        """A `layers.Conv2D` of a map."""
        ...

    def dense(self, x: Value, layer) -> Value:
        """A dense layer of rows or a vector."""
        ...

    def project_in(self, x: Value, layer) -> Value:
        """A 1x1 convolution or dense layer of a map, (H, W, C) -> rows (H W, C')."""
        ...

    def project_out(self, x: Value, layer, size: tuple[int, int]) -> Value:
        """A 1x1 convolution or dense layer of rows, (H W, C) -> a map (H, W, C')."""
        ...

    def group_norm(self, x: Value, layer) -> Value:
        """A `layers.GroupNorm` of a map."""
        ...

    def layer_norm(self, x: Value, layer) -> Value:
        """A layer normalization of rows."""
        ...

    def silu(self, x: Value) -> Value:
        """x sigmoid(x)."""
        ...

    def gelu(self, x: Value, form: str) -> Value:
        """GELU: "gelu", exact; "gelu_pytorch_tanh" or "quick_gelu", its approximations."""
        ...

    def relu(self, x: Value) -> Value:
        """max(x, 0)."""
        ...

    def tanh(self, x: Value) -> Value:
        """The hyperbolic tangent."""
        ...

    def add(self, x: Value, y: Value) -> Value:
        """x + y, of equal shapes, or with y (C,) added at every position of x."""
        ...

    def subtract(self, x: Value, y: Value) -> Value:
        """x - y, of equal shapes, or with x or y (1,)."""
        ...

    def multiply(self, x: Value, y: Value) -> Value:
        """x y, of equal shapes, or with y (1,) or (H, W, 1)."""
        ...

    def divide(self, x: Value, y: Value) -> Value:
        """x / y with y (1,)."""
        ...

    def concatenate(self, x: Value, y: Value) -> Value:
        """The channels of x, then those of y; maps or vectors."""
        ...

    def channels(self, x: Value, start: int, stop: int) -> Value:
        """Channels start to stop of x (the last axis)."""
        ...

    def upsample_nearest(self, x: Value) -> Value:
        """A map of twice the size, by nearest neighbor."""
        ...

    def downsample_mean(self, x: Value) -> Value:
        """The means of 2x2 pixels; at the edge of an odd map, of the pixels that exist."""
        ...

    def space_to_depth(self, x: Value, factor: int) -> Value:
        """(f H, f W, C) -> (H, W, f f C): the pixels of a block one after the other, each with its channels."""
        ...

    def depth_to_space(self, x: Value, factor: int) -> Value:
        """(H, W, f f C) -> (f H, f W, C), the inverse of `space_to_depth`."""
        ...

    def pixel_unshuffle(self, x: Value, factor: int) -> Value:
        """(f H, f W, C) -> (H, W, C f f): see `codi_tf.adapters.t2i.pixel_unshuffle`."""
        ...

    def attention(self, q: Value, k: Value, v: Value, heads: int, causal: bool = False) -> Value:
        """softmax(q k^T / sqrt(C / heads)) v of rows, head by head; causal: rows attend to earlier rows only."""
        ...

    def embedding(self, ids: Value, layer) -> Value:
        """Rows of an embedding layer for int32 (N,) -> (N, C)."""
        ...

    def clip(self, x: Value, low: float, high: float) -> Value:
        """min(max(x, low), high)."""
        ...

    def affine(self, x: Value, scale: float, offset: float) -> Value:
        """scale x + offset."""
        ...

    def greater(self, x: Value, bound: float) -> Value:
        """1 where x > bound, else 0."""
        ...

    def largest_channel(self, x: Value) -> Value:
        """The maximum over channels, (H, W, C) -> (H, W, 1)."""
        ...

    def order_statistics(self, x: Value, places: list[int]) -> list[Value]:
        """The numbers at these places of x (H, W, 1) when it is sorted, 0 the smallest; each (1,)."""
        ...

    def average_pool(self, x: Value, factor: int) -> Value:
        """The means of factor x factor pixels of a map whose sides are multiples of factor."""
        ...
