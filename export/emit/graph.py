"""What a graph of an exported network is made of: the operations that every format offers.

`export.emit.networks` says how our networks are made of these operations; `export.formats` writes them down.
Nothing is computed here, and no weight is read until a file is written.
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
        shape: a map (H, W, C), rows (N, C), or numbers (C,); the batch is always 1. How it lies in memory is the
            format's affair.
    """

    name: str
    shape: tuple[int, ...]


class Graph(Protocol):
    """The operations. Layers are those of `codi_tf.models`: their weights are stored once, however often they are used.

    The same operation of the same arguments is made once, too.

    Attributes:
        signature: "inputs" and "outputs", by name: their shapes in the file, the batch included, and dtypes.
    """

    signature: dict[str, dict[str, dict]]

    def blank(self) -> Graph:
        """An empty graph of the same format."""

    def input(self, name: str, shape: tuple[int, ...], dtype: str = "float32") -> Value:
        """An input of the graph."""

    def output(self, name: str, value: Value) -> None:
        """Make a value an output of the graph."""

    def repeat(self, z: Value, tables: list[np.ndarray], body: Callable[..., Value]) -> Value:
        """z <- body(z, *rows) with the first row of every float32 table [N, C], then the second, ..."""

    def constant(self, array: np.ndarray) -> Value:
        """A few numbers, [C] or [N, C], float32."""

    def weight(self, variable, rows: int | None = None) -> Value:
        """A variable of one or two axes as it is, or its first rows."""

    def conv(self, x: Value, layer) -> Value:
        """A `layers.Conv2D` of a map."""

    def dense(self, x: Value, layer) -> Value:
        """A dense layer of rows or numbers."""

    def project_in(self, x: Value, layer) -> Value:
        """A 1x1 convolution or dense layer of a map, (H, W, C) -> rows (H W, C')."""

    def project_out(self, x: Value, layer, size: tuple[int, int]) -> Value:
        """The way back: rows (H W, C) -> a map (H, W, C')."""

    def group_norm(self, x: Value, layer) -> Value:
        """A `layers.GroupNorm` of a map."""

    def layer_norm(self, x: Value, layer) -> Value:
        """A layer normalisation of rows."""

    def silu(self, x: Value) -> Value:
        """x sigmoid(x)."""

    def gelu(self, x: Value, form: str) -> Value:
        """GELU: "gelu", exact; "gelu_pytorch_tanh" or "quick_gelu", its approximations."""

    def relu(self, x: Value) -> Value:
        """max(x, 0)."""

    def tanh(self, x: Value) -> Value:
        """The hyperbolic tangent."""

    def add(self, x: Value, y: Value) -> Value:
        """x + y, of one shape, or y (C,) at every place of x."""

    def subtract(self, x: Value, y: Value) -> Value:
        """x - y, either of them (1,), or of one shape."""

    def multiply(self, x: Value, y: Value) -> Value:
        """x y, of one shape, or y (1,) everywhere or (H, W, 1) for all channels."""

    def divide(self, x: Value, y: Value) -> Value:
        """x / y, y (1,)."""

    def concatenate(self, x: Value, y: Value) -> Value:
        """The channels of two maps, or the numbers of two vectors."""

    def channels(self, x: Value, start: int, stop: int) -> Value:
        """Some channels of x."""

    def upsample_nearest(self, x: Value) -> Value:
        """Every pixel of a map twice in both directions."""

    def downsample_mean(self, x: Value) -> Value:
        """The means of 2x2 pixels; of an odd map's last row and column, of what there is."""

    def pixel_unshuffle(self, x: Value, factor: int) -> Value:
        """(f H, f W, C) -> (H, W, C f f): see `t2i_adapter.pixel_unshuffle`."""

    def attention(self, q: Value, k: Value, v: Value, heads: int, causal: bool = False) -> Value:
        """softmax(q k^T / sqrt(C / heads)) v of rows, head by head; causal: a row sees itself and those before."""

    def embedding(self, ids: Value, layer) -> Value:
        """Rows of an embedding layer for int32 (N,) -> (N, C)."""

    def clip(self, x: Value, low: float, high: float) -> Value:
        """x, not below `low`, not above `high`."""

    def affine(self, x: Value, scale: float, offset: float) -> Value:
        """scale x + offset."""

    def greater(self, x: Value, bound: float) -> Value:
        """1 where x > bound, else 0."""

    def largest_channel(self, x: Value) -> Value:
        """(H, W, C) -> (H, W, 1)."""

    def order_statistics(self, x: Value, places: list[int]) -> list[Value]:
        """The numbers of x (H, W, 1) that so many others are smaller than, each (1,)."""

    def average_pool(self, x: Value, factor: int) -> Value:
        """The means of factor x factor pixels of a map whose sides it divides."""
