"""Batches that other processes make, by tf.data service, in the order of a single process and with the same bits.

The workers of a service make each batch once, in any order, and a worker that is lost takes some batches with it. Batch
k is a function of k, so this process sorts the batches by their numbers, and makes those itself that do not come.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import tensorflow as tf

from codi_tf.core.errors import UserError
from codi_tf.core.tensors import Tensor

AHEAD = 32  # batches that may come before one that is missing
AT_ONCE = 2  # batches that a worker makes at the same time
CALLBACKS = ("PyFunc", "PyFuncStateless", "EagerPyFunc")
Make = Callable[[Tensor], tf.data.Dataset]  # the number of a batch, int64 [] -> a dataset of this one


def served_batches(make: Make, start: int, address: str, name: str) -> tf.data.Dataset:
    """Infinite batches `start`, start + 1, ..., made by the workers of a tf.data service.

    Args:
        make: the number of a batch, int64 [] -> a dataset that begins with it.
        start: the first one.
        address: of the dispatcher, HOST:PORT.
        name: of the source, for messages.

    Raises:
        UserError: Python takes part in making the batches.
    """
    steps = tf.data.Dataset.range(start, np.iinfo(np.int64).max)

    @tf.autograph.experimental.do_not_convert
    def with_number(step: Tensor) -> tuple[Tensor, Any]:
        return step, _one(make, step)

    numbered = steps.map(with_number, num_parallel_calls=AT_ONCE, deterministic=True)
    if callbacks(numbered):
        raise UserError(
            f"{name} is read by Python in this process, and a data service has other processes: write it with codi "
            "prepare (texts with --tokenizer), and train on that; or leave out --data-service"
        )
    service = tf.data.experimental.service
    came = numbered.apply(service.distribute(service.ShardingPolicy.DYNAMIC, f"grpc://{address}"))
    return in_order(came, make, start).prefetch(2)


def in_order(came: tf.data.Dataset, make: Make, start: int) -> tf.data.Dataset:
    """The batches in the order of their numbers, without gaps.

    Args:
        came: (number int64 [], batch), each at most once, in any order.
        make: see `served_batches`; makes a batch that is missing when another one comes that is AHEAD later.
        start: the number of the first one.
    """
    _, spec = cast(Any, came.element_spec)
    flat = tf.nest.flatten(spec)

    def empty_list(one: Any) -> Tensor:
        return tf.raw_ops.TensorListReserve(element_shape=-1, num_elements=2 * AHEAD, element_dtype=one.dtype)

    def put(kept: tuple, number: Tensor, values: Sequence[Tensor]) -> tuple:
        place = tf.cast(number % (2 * AHEAD), tf.int32)
        pairs = zip(kept, values, strict=True)
        return tuple(tf.raw_ops.TensorListSetItem(input_handle=one, index=place, item=value) for one, value in pairs)

    def without(kept: tuple, first: Tensor, end: Tensor) -> tuple:
        """The lists without some batches, whose memory is free then."""
        nothing = [tf.constant([], one.dtype) for one in flat]
        state = tf.while_loop(
            lambda number, _: number < end, lambda number, kept: (number + 1, put(kept, number, nothing)), (first, kept)
        )
        return state[1]

    @tf.autograph.experimental.do_not_convert
    def sort(state: tuple, element: tuple) -> tuple:
        (due, numbers, kept), (number, batch) = state, element
        is_late = number < due  # it was made here
        place = tf.cast(number % (2 * AHEAD), tf.int32)
        numbers = tf.where(is_late, numbers, tf.tensor_scatter_nd_update(numbers, [[place]], [number]))
        held = tf.cond(is_late, lambda: kept, lambda: put(kept, number, tf.nest.flatten(batch)))
        end = tf.where(is_late, due, tf.maximum(due, number - AHEAD + 1))
        end = tf.while_loop(lambda end: numbers[end % (2 * AHEAD)] == end, lambda end: (end + 1,), (end,))[0]
        return (end, numbers, without(held, due, end)), (due, end, numbers, held)

    @tf.autograph.experimental.do_not_convert
    def ready(first: Tensor, end: Tensor, numbers: Tensor, kept: tuple) -> tf.data.Dataset:
        def batch(number: Tensor) -> list[Tensor]:
            place = tf.cast(number % (2 * AHEAD), tf.int32)

            def item(handle: Tensor, one: Any) -> Tensor:
                return tf.raw_ops.TensorListGetItem(
                    input_handle=handle, index=place, element_shape=one.shape, element_dtype=one.dtype
                )

            found = tf.cond(
                numbers[place] == number,
                lambda: [item(handle, one) for handle, one in zip(kept, flat, strict=True)],
                lambda: tf.nest.flatten(_one(make, number)),
            )
            found = [tf.ensure_shape(value, one.shape) for value, one in zip(found, flat, strict=True)]
            return tf.nest.pack_sequence_as(spec, found)

        return tf.data.Dataset.range(first, end).map(batch)

    state = tf.constant(start, tf.int64), tf.fill([2 * AHEAD], tf.constant(-1, tf.int64)), tuple(map(empty_list, flat))
    return came.scan(state, sort).flat_map(cast(Any, ready))


def callbacks(dataset: tf.data.Dataset) -> bool:
    """Whether a dataset calls Python of this process."""
    variant = tf.data.experimental.to_variant(dataset)
    graph = tf.compat.v1.GraphDef.FromString(
        tf.raw_ops.DatasetToGraphV2(input_dataset=variant, external_state_policy=1).numpy()
    )
    nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
    return any(node.op in CALLBACKS for node in nodes)


def _one(make: Make, number: Tensor) -> Any:
    return make(number).take(1).get_single_element()
