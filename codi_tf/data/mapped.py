"""Rows of safetensors shards as operations of TensorFlow: an input of them runs in any process that sees the files."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import tensorflow as tf

from codi_tf.core.paths import is_remote
from codi_tf.core.tensors import Tensor
from codi_tf.io.tensor_files import StoredTensor


def row_reader(shards: Sequence[Mapping[str, StoredTensor]]) -> Callable[[Tensor], dict[str, Tensor]]:
    """A function from the number of a row, int64 [], to its values, {key: [...]}.

    A local shard is mapped into memory, so that only the pages of a row are read. A shard of another file system is
    read as a whole for each row: make such shards small.

    Args:
        shards: key -> tensor [n, ...] of each file; all have the same keys, dtypes and shapes but for n.
    """
    first = shards[0]
    ends = tf.constant(np.cumsum([next(iter(shard.values())).shape[0] for shard in shards]), tf.int64)
    sizes = {key: math.prod(tensor.shape[1:]) * tensor.dtype.itemsize for key, tensor in first.items()}

    def row(number: Tensor) -> dict[str, Tensor]:
        shard = tf.searchsorted(ends, number[tf.newaxis], side="right")[0]
        place = number - tf.where(shard > 0, ends[tf.maximum(shard - 1, 0)], 0)
        parts = tf.switch_case(shard, [lambda one=one: _bytes_of_row(one, sizes, place) for one in shards])
        return {key: _values(part, first[key]) for key, part in zip(first, parts, strict=True)}

    return row


def _bytes_of_row(shard: Mapping[str, StoredTensor], sizes: Mapping[str, int], place: Tensor) -> list[Tensor]:
    """The bytes of each tensor's row, uint8 [size]."""
    path = os.fspath(next(iter(shard.values())).path)
    if is_remote(path):  # not mapped into memory
        content = tf.io.read_file(path)
        places = {key: tf.cast(tensor.start + place * sizes[key], tf.int32) for key, tensor in shard.items()}
        return [tf.io.decode_raw(tf.strings.substr(content, places[key], sizes[key]), tf.uint8) for key in shard]
    size = os.path.getsize(path)
    region = tf.raw_ops.ImmutableConst(dtype=tf.uint8, shape=[size], memory_region_name=os.path.abspath(path))
    return [tf.slice(region, [tensor.start + place * sizes[key]], [sizes[key]]) for key, tensor in shard.items()]


def _values(content: Tensor, tensor: StoredTensor) -> Tensor:
    """Bytes as the values of a row."""
    dtype = tf.as_dtype(tensor.dtype)
    values = tf.bitcast(tf.reshape(content, [-1, dtype.size]) if dtype.size > 1 else content, dtype)
    return tf.reshape(values, tensor.shape[1:])
