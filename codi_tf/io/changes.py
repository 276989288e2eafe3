"""Weights on disk as changes of other weights, in four bits each: an eighth of the size of float32.

A network that starts as a copy of another one ends near it, so that a change takes fewer bits than a weight does. A
file holds the integers, -8 to 7, two in a byte, under the weight's key with CHANGE, and one scale for each row along
the first axis, float32 [rows], under that key with `scaled.SUFFIX`. The value is start + integer * scale.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from codi_tf.io.scaled import SUFFIX, IntegerTensor
from codi_tf.io.tensor_files import StoredTensor, TensorToWrite
from codi_tf.io.values import Stored

CHANGE = ".change"
_LOWEST, _HIGHEST = -8, 7
# Of the largest change of a row: what the largest integer stands for. Cutting off a few large changes makes the steps
# between the others smaller.
_PARTS = (1.0, 0.9, 0.8, 0.7, 0.6)


@dataclass(frozen=True)
class ChangedTensor(IntegerTensor):
    """A tensor as its start and a change of four bits."""

    start: Stored

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the values."""
        return self.start.shape

    def read(self, *, part: int = 0, parts: int = 1, room: np.ndarray | None = None) -> np.ndarray:
        """The values, float32; see `StoredTensor.read`."""
        start = self.start.read(part=part, parts=parts)
        change = _unpacked(self.integers.read(part=part, parts=parts), start.shape)
        values = self.multiplied(change, part, parts, room)
        return np.add(values, start, out=values, casting="unsafe")


def with_changes(stored: Mapping[str, Stored], starts: Mapping[str, Stored]) -> dict[str, Stored]:
    """key -> tensor, where a start, the change of it and the scales are one tensor.

    Args:
        stored: key -> tensor of a file.
        starts: key of the file -> what its weight starts from.
    """
    found: dict[str, Stored] = dict(stored)
    for name, integers in stored.items():
        key = name.removesuffix(CHANGE)
        start, scales = starts.get(key), stored.get(key + SUFFIX)
        if (
            key == name
            or start is None
            or not isinstance(integers, StoredTensor)
            or not isinstance(scales, StoredTensor)
        ):
            continue
        shapes = (integers.dtype, integers.shape, scales.shape)
        if shapes == (np.uint8, _packed(start.shape), start.shape[:1]):
            found[key] = ChangedTensor(integers, scales, start)
            del found[name], found[key + SUFFIX]
    return found


def change_to_write(key: str, start: Stored, values: Callable[[], np.ndarray]) -> dict[str, TensorToWrite]:
    """The change of a weight, float32 of the shape of `start`, and its scales, in the order of writing."""

    def change() -> np.ndarray:
        return values() - start.read().astype(np.float32)

    return {
        key + CHANGE: TensorToWrite(np.dtype(np.uint8), _packed(start.shape), lambda: _rounded(change())[0]),
        key + SUFFIX: TensorToWrite(np.dtype(np.float32), start.shape[:1], lambda: _rounded(change())[1]),
    }


def _rounded(change: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(packed integers, scales) of the smallest squared error in each row."""
    rows = change.reshape(len(change), -1)
    largest = np.abs(rows).max(axis=1)
    best = np.full(len(rows), np.inf)
    integers, scales = np.zeros(rows.shape, np.int8), np.ones(len(rows), np.float32)
    for part in _PARTS:
        tried = np.where(largest > 0, largest * part / _HIGHEST, 1).astype(np.float32)
        rounded = np.clip(np.rint(rows / tried[:, None]), _LOWEST, _HIGHEST)
        error = np.square(rounded * tried[:, None] - rows).sum(axis=1)
        better = error < best
        integers[better], scales[better], best[better] = rounded[better], tried[better], error[better]
    even = np.pad(integers - _LOWEST, ((0, 0), (0, rows.shape[1] % 2))).astype(np.uint8)
    return even[:, ::2] | even[:, 1::2] << 4, scales


def _packed(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (shape[0], -(-math.prod(shape[1:]) // 2))


def _unpacked(packed: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The integers, int8 of a shape."""
    pairs = np.stack([packed & 15, packed >> 4], axis=-1).astype(np.int8) + np.int8(_LOWEST)
    return pairs.reshape(len(packed), -1)[:, : math.prod(shape[1:])].reshape(shape)
