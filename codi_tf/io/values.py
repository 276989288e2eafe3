"""Conversion between the variables of networks and the tensors of files: axes, number formats and memory."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Protocol

import keras
import numpy as np
import tensorflow as tf

from codi_tf.core.errors import UserError
from codi_tf.core.formats import narrows
from codi_tf.io.layouts import Layout, Origin
from codi_tf.io.tensor_files import make_room


class Stored(Protocol):
    """A tensor that can be read, as `tensor_files.StoredTensor`."""

    @property
    def path(self) -> Path | str: ...

    @property
    def dtype(self) -> np.dtype: ...

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def nbytes(self) -> int: ...

    def read(self, *, part: int = 0, parts: int = 1, room: np.ndarray | None = None) -> np.ndarray:
        """The values in aligned memory, or one of `parts` equal parts of them; see `StoredTensor.read`."""
        ...


def read_value(stored: Stored, origin: Origin, dtype: str, room: np.ndarray) -> tf.Tensor:
    """The value of a variable in Keras' axes and in the variable's format.

    Args:
        stored: the tensor of the file.
        origin: where in the tensor the value is, and with which axes.
        dtype: the variable's format.
        room: from `room_for`; overwritten by the next call.

    Raises:
        UserError: a finite number that the format cannot hold.
    """
    axes, ones = origin.layout
    read = functools.partial(stored.read, part=origin.part, parts=origin.parts)
    if axes is None:
        array = read()
        value = _share(array.reshape(array.shape[: array.ndim - ones]))
    else:
        order = [axes.index(axis) for axis in range(len(axes))]
        long = [axis for axis in order if stored.shape[axis] > 1]
        if long == sorted(long):  # no number moves. Not in `room`: the result would go on sharing its memory
            array = read()
            value = tf.reshape(_share(array), [array.shape[axis] for axis in order])
        else:
            array = read(room=room)
            with tf.device("CPU"):  # computed at once, because the room is used again
                value = tf.transpose(_share(array.reshape(array.shape[: array.ndim - ones])), order)
    if stored.dtype.itemsize == 2:
        value = tf.bitcast(value, stored.dtype.name)
    if value.dtype == dtype:
        return value
    value = tf.cast(value, dtype)
    if narrows(stored.dtype, dtype) and not tf.reduce_all(tf.math.is_finite(value)):
        raise UserError(
            f"{stored.path}: {origin.key} has values beyond the range of {dtype}; keep the weights in float32"
        )
    return value


def value_to_write(variable: keras.Variable, key: str, layout: Layout, dtype: np.dtype) -> np.ndarray:
    """A variable's value with the axes and in the format of a file. Raises UserError where the format is too narrow."""
    value = keras.ops.convert_to_numpy(variable)
    with np.errstate(over="ignore"):  # the error below replaces NumPy's warning
        written = value.astype(dtype)
    if narrows(value.dtype, dtype) and np.isfinite(value).all() and not np.isfinite(written).all():
        raise UserError(f"{key} has values beyond the range of {dtype.name}; save it as float32")
    return np.asarray(written if layout.axes is None else written.transpose(layout.axes), order="C")


def room_for(stored: Mapping[str, Stored], origins: Iterable[Origin]) -> np.ndarray:
    """Memory for the largest of the tensors whose axes are transposed."""
    return make_room(max((stored[o.key].nbytes for o in origins if o.layout.axes is not None), default=0))


def _share(array: np.ndarray) -> tf.Tensor:
    """A tensor that shares an array's memory. Formats of 16 bits come as integers, because DLPack has no bfloat16."""
    array = array.view("uint16") if array.dtype.itemsize == 2 else array
    return tf.experimental.dlpack.from_dlpack(array.__dlpack__())
