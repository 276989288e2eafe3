"""Weights on disk as int8, with one scale for each row along the first axis: a quarter of the size of float32.

A file holds the integers under the weight's key and the scales, float32 [rows], under that key with SUFFIX. The value
is their product. The largest error of a number is half a step: 1 / 254 of the largest number of its row.
"""

from __future__ import annotations

import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from codi_tf.io.tensor_files import StoredTensor, TensorToWrite, make_room

SUFFIX = ".scale"
_LARGEST = 127


@dataclass(frozen=True)
class IntegerTensor(ABC):
    """A tensor in a file as integers and scales, not read yet; it reads as float32."""

    integers: StoredTensor
    scales: StoredTensor

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """The shape of the values."""

    @property
    def path(self) -> Path:
        """The file."""
        return self.integers.path

    @property
    def dtype(self) -> np.dtype:
        """The format of the values that are read."""
        return self.scales.dtype

    @property
    def nbytes(self) -> int:
        """The size of the values that are read, in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize

    def multiplied(self, integers: np.ndarray, part: int, parts: int, room: np.ndarray | None) -> np.ndarray:
        """Integers, in the shape of the values, times the scales of their rows; see `StoredTensor.read`."""
        scales = self.scales.read(part=part, parts=parts).reshape(-1, *[1] * (integers.ndim - 1))
        size = integers.size * self.dtype.itemsize
        values = (make_room(size) if room is None else room)[:size].view(self.dtype).reshape(integers.shape)
        return np.multiply(integers, scales, out=values)


@dataclass(frozen=True)
class ScaledTensor(IntegerTensor):
    """A tensor of one integer a number."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the values."""
        return self.integers.shape

    def read(self, *, part: int = 0, parts: int = 1, room: np.ndarray | None = None) -> np.ndarray:
        """The values, float32; see `StoredTensor.read`."""
        return self.multiplied(self.integers.read(part=part, parts=parts), part, parts, room)


def with_scales(stored: Mapping[str, StoredTensor]) -> dict[str, StoredTensor | ScaledTensor]:
    """key -> tensor, where integers and their scales are one tensor."""
    scaled = {
        key: ScaledTensor(tensor, stored[key + SUFFIX])
        for key, tensor in stored.items()
        if tensor.dtype == np.int8 and key + SUFFIX in stored and stored[key + SUFFIX].shape == tensor.shape[:1]
    }
    scales = {key + SUFFIX for key in scaled}
    return {key: scaled.get(key, tensor) for key, tensor in stored.items() if key not in scales}


def scaled_to_write(key: str, shape: tuple[int, ...], values: Callable[[], np.ndarray]) -> dict[str, TensorToWrite]:
    """The integers and scales of a weight, float32 of `shape`, in the order in which they are written."""
    return {
        key: TensorToWrite(np.dtype(np.int8), shape, functools.partial(_integers, values)),
        key + SUFFIX: TensorToWrite(np.dtype(np.float32), shape[:1], lambda: _scales(values())),
    }


def _integers(values: Callable[[], np.ndarray]) -> np.ndarray:
    read = values()
    return np.rint(read / _scales(read).reshape(-1, *[1] * (read.ndim - 1))).astype(np.int8)


def _scales(values: np.ndarray) -> np.ndarray:
    largest = np.abs(values).reshape(len(values), -1).max(axis=1)
    return np.where(largest > 0, largest / _LARGEST, 1).astype(np.float32)
