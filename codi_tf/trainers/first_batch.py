"""A check of an epoch's first batch before it is trained on, if that costs the device nothing."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from codi_tf.core.errors import UserError

WATCHED = ("image", "condition")


def watched(data: Any, check: Callable[[Mapping], None], batch_size: int | None = None) -> Any:
    """The data of `fit` or `evaluate`, whose first batch `check` gets before it is used.

    Args:
        data: a dataset, a dictionary of arrays, a PyDataset or a generator; others are returned as they are.
        check: takes {"image": [B, ...], "condition": [B, ...]} as arrays, of what there is, and may raise a UserError.
        batch_size: of a dictionary of arrays; None: Keras' 32.

    Raises:
        UserError: there is nothing in it.
    """
    if data is None or isinstance(data, Mapping | list | tuple) and not _length(data):
        raise UserError("there are no batches: give a tf.data.Dataset, or a dictionary of arrays that are not empty")
    if isinstance(data, tf.data.Dataset):
        return data.enumerate().map(lambda number, *batch: _after_check(number, batch, check))
    if isinstance(data, Mapping):
        check({key: np.asarray(data[key][: batch_size or 32]) for key in WATCHED if key in data})
    elif isinstance(data, keras.utils.PyDataset):
        if isinstance(data[0], Mapping):
            raise UserError("a PyDataset gives a dictionary: Keras wants (dictionary,), with a comma")
        _check_one(data[0], check)
    elif inspect.isgenerator(data):
        return _checked(data, check)
    return data


def check_replicas(data: Any, replicas: int) -> None:
    """Raises UserError for a dataset whose batches, or whose last one, several replicas cannot share evenly."""
    if replicas == 1 or not isinstance(data, tf.data.Dataset):
        return
    for spec in tf.nest.flatten(data.element_spec):
        if not isinstance(spec, tf.TensorSpec) or not spec.shape.rank:
            continue
        size = spec.shape[0]
        if size is None or size % replicas:
            what = "an unknown number of" if size is None else size
            raise UserError(
                f"a batch has {what} examples, which {replicas} replicas must share evenly: use "
                f".batch(N, drop_remainder=True), N a multiple of {replicas}"
            )


def _after_check(number, batch, check):
    """The elements of a dataset, after a look at the first one, on the host and in its turn."""
    (batch,) = batch
    examples = _examples(batch)
    found = {key: examples[key] for key in WATCHED if key in examples}
    if not found:
        return batch

    def look(*values):
        check(dict(zip(found, values, strict=True)))
        return np.bool_(True)

    def first():
        return tf.numpy_function(look, list(found.values()), tf.bool)

    with tf.control_dependencies([tf.cond(number == 0, first, lambda: tf.constant(True))]):
        return tf.nest.map_structure(tf.identity, batch)


def _checked(generator, check):
    for number, batch in enumerate(generator):
        if number == 0:
            _check_one(batch, check)
        yield (batch,) if isinstance(batch, Mapping) else batch  # Keras wants (x,)


def _check_one(batch, check) -> None:
    examples = _examples(batch)
    check({key: np.asarray(examples[key]) for key in WATCHED if key in examples})


def _length(data) -> int:
    return min(map(len, data.values()), default=0) if isinstance(data, Mapping) else len(data)


def _examples(batch) -> Mapping:
    if isinstance(batch, tuple | list) and batch:
        batch = batch[0]
    return batch if isinstance(batch, Mapping) else {}
