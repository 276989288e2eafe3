"""Overlapping tiles of a field, and the weights that blend them. Needs only NumPy; exported packages use it."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np


class Tile(NamedTuple):
    """A rectangle of a field and its share of the field's values there, `down` times `across`."""

    rows: slice
    columns: slice
    down: np.ndarray  # float32 [height of the tile], in (0, 1]
    across: np.ndarray  # float32 [width of the tile], in (0, 1]

    @property
    def share(self) -> np.ndarray:
        """float32 [height, width, 1]; at every position of a field the shares of its tiles sum to 1."""
        return (self.down[:, np.newaxis] * self.across)[..., np.newaxis]

    def of(self, field):
        """The part [B, height, width, C] of a field that lies in this tile."""
        return field[:, self.rows, self.columns]


def tiles(height: int, width: int, tile: int | tuple[int, int], overlap: int) -> list[Tile]:
    """The tiles of a field, row by row, all of one size.

    Args:
        height, width: of the field.
        tile: side of a tile, or its height and width; tiles are no larger than the field.
        overlap: of neighbors, less than a tile's sides; the last tiles overlap more, to end where the field does.
    """
    high, wide = (tile, tile) if isinstance(tile, int) else tile
    rows, columns = _intervals(height, high, overlap), _intervals(width, wide, overlap)
    return [Tile(row, column, down, across) for (row, down), (column, across) in itertools.product(rows, columns)]


def starts(length: int, tile: int, overlap: int) -> list[int]:
    """0, step, 2 step, ..., with step = tile - overlap; the last tile is shifted to end where the field does."""
    last = max(length - tile, 0)
    return [*range(0, last, tile - overlap), last]


def window(tile: int, overlap: int) -> np.ndarray:
    """sin^2(pi/2 (i + 1/2) / overlap) over the first `overlap` positions, mirrored over the last, 1 between.

    float64 [tile], positive. Two windows that overlap by that much sum to 1 there, as sin^2 + cos^2. At its ends, where
    the network has no input from beyond, a tile has hardly any weight.
    """
    if overlap == 0:
        return np.ones(tile)
    distance = np.minimum(np.arange(tile), np.arange(tile)[::-1]) + 0.5  # from the nearer end
    return np.sin(np.pi / 2 * np.minimum(distance / overlap, 1.0)) ** 2


def blended(parts: Iterable[tuple[Tile, Any]], shape: tuple[int, ...]) -> np.ndarray:
    """sum_k share_k part_k: a field [1, H, W, C], float32, of parts [1, h, w, C] for all of its tiles, in any order."""
    field = np.zeros(shape, np.float32)
    for tile, part in parts:
        field[:, tile.rows, tile.columns] += tile.share * part
    return field


def _intervals(length: int, tile: int, overlap: int) -> list[tuple[slice, np.ndarray]]:
    """The tiles along one axis: where each lies, and its share there, float32: its window over the sum of all."""
    side = min(tile, length)
    weight, total = window(side, min(overlap, side)), np.zeros(length)
    places = [slice(first, first + side) for first in starts(length, tile, overlap)]
    for place in places:
        total[place] += weight
    return [(place, (weight / total[place]).astype(np.float32)) for place in places]
