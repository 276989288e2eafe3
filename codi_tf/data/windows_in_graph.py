"""What sources that TensorFlow alone reads have in common: windows of a record, and records that others replace."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence

import tensorflow as tf

from codi_tf.core.tensors import Tensor
from codi_tf.data.decoding_in_graph import place, reduced, reduction, window_of, window_size
from codi_tf.data.headers import JPEG
from codi_tf.data.in_memory import resized
from codi_tf.data.permutation import permuted_in_graph
from codi_tf.data.pipeline import REPLACED, SEVERAL
from codi_tf.data.windows import Size, sides
from codi_tf.io.companions import Companion

Example = dict[str, Tensor]
Cut = Callable[[str, Tensor, Tensor], Tensor]  # (field, box int64 [4], number of RATIOS) -> window, see `window`


def windows(
    kinds: Mapping[str, Companion],
    cut: Cut,
    *,
    size: Tensor,
    way: Tensor,
    u: Tensor,
    seed: Tensor | None,
    image_size: Size,
    whole: bool,
    augment: bool,
) -> Example:
    """The same window of all images of a record, shrunk to the crop's size.

    Args:
        kinds: field -> companion, or `companions.IMAGE`.
        cut: gives the window of a file, of the kind's dtype [H, W, channels].
        size: of the upright image, int64 [2].
        way: how the image is decoded, int32 []: a JPEG alone is made smaller meanwhile.
        u: float32 [5] in [0, 1), see `Stream.example`.
        seed: of the change of colors; None: they stay.
        image_size, whole, augment: see `window_size` and `pipeline.Source`.
    """
    exact, tall = tf.cast(u, tf.float64), sides(image_size)[0]
    high = tf.cast(window_size(exact[1], size, image_size, whole=whole)[0], tf.float64)
    number = tf.constant(0)
    if len(kinds) == 1:  # several are not made smaller: their pixels must match
        number = tf.where(way == JPEG, reduction(high / tall, size), 0)
    shape = reduced(size, number)
    width, whole_width = tf.cast(shape[1], tf.float64), tf.cast(size[1], tf.float64)
    inside = window_of(high * width / whole_width, shape, image_size)
    top, left = place(exact[2], shape[0] - inside[0]), place(exact[3], shape[1] - inside[1])
    box, mirror = tf.stack([top, left, inside[0], inside[1]]), u[4] < 0.5 if augment else None
    return {key: resized(kind, cut(key, box, number), image_size, mirror, seed) for key, kind in kinds.items()}


def blank(kinds: Mapping[str, Companion], image_size: Size) -> Example:
    """Windows of the right shapes, in place of those of a record that cannot be read."""
    return {key: tf.zeros([*sides(image_size), kind.channels]) for key, kind in kinds.items()}


class Replacing:
    """Examples of records in random order, each in place of damaged ones before it; a function as of `Source.drawer`.

    The record at the index's place of an epoch's order is read. One that cannot be read is replaced by the next.

    Args:
        fetch: (records int64 [K], the number K) -> the bytes of their fields, each string [K]; fails for a damaged one.
        make: (record int64 [], its fields, u float32 [5] in [0, 1), seed int32 [2]) -> an example; fails, too.
        nothing: an example of the same shapes.
        usable: bool [N]; the records that are not are replaced, too, and not counted.
        seed: of the order.
        message: of the error where no record can be read.
    """

    def __init__(
        self,
        fetch: Callable[[Tensor, int], Example],
        make: Callable[[Tensor, Example, Tensor, Tensor], Example],
        nothing: Example,
        *,
        usable: Tensor,
        seed: int,
        message: str,
    ):
        self._fetch, self._make, self._nothing = fetch, make, nothing
        self._usable, self._seed, self._message = usable, seed, message
        self._count = int(usable.shape[0])

    def __call__(self, index: Tensor, own: Tensor) -> Example:
        """(index int64 [], seed int32 [2]) -> an example with REPLACED; see `pipeline.Source`."""
        count, nothing = self._count, self._nothing

        def attempt(number: Tensor, replaced: Tensor, done: Tensor, _: Example):
            record = self._record(index, number)
            done, found = tf.cond(self._usable[record], lambda: self._tried(record, own), lambda: (False, nothing))
            damaged = tf.logical_and(self._usable[record], tf.logical_not(done))
            return number + 1, replaced + tf.cast(damaged, tf.int32), done, found

        state = tf.constant(0, tf.int64), 0, False, nothing
        _, replaced, done, found = tf.while_loop(
            lambda number, replaced, done, found: tf.logical_and(tf.logical_not(done), number < count), attempt, state
        )
        with tf.control_dependencies([tf.debugging.Assert(done, [f"UserError: {self._message}"])]):
            return {**found, REPLACED: tf.identity(replaced)}

    def several(self, indices: Tensor, owns: Tensor) -> Example:
        """The examples of indices int64 [K], K at most SEVERAL, with their seeds int32 [K, 2]: each value [K, ...].

        They are those that calls one by one give. To catch the error of a damaged record costs more than to read a
        record, so all are read at once, and again one by one if one of them is damaged.
        """
        count, whole = tf.shape(indices)[0], tf.range(SEVERAL)
        rows = tf.minimum(whole, count - 1)  # filled up by the last one
        wanted, number = tf.gather(indices, rows), tf.zeros([SEVERAL], tf.int64)

        def next_usable(number: Tensor, record: Tensor):
            unfit = tf.logical_not(tf.gather(self._usable, record))
            number = number + tf.cast(unfit, tf.int64)
            return number, tf.where(unfit, self._record(wanted, number), record)

        _, records = tf.while_loop(
            lambda _, record: tf.logical_not(tf.reduce_all(tf.gather(self._usable, record))),
            next_usable,
            (number, self._record(wanted, number)),
        )
        spec = {key: tf.TensorSpec(value.shape, value.dtype) for key, value in self._nothing.items()}

        @tf.autograph.experimental.do_not_convert
        def read(records: Tensor, owns: Tensor) -> tuple[Tensor, Example]:
            payloads = self._fetch(records, SEVERAL)

            def one(row: Tensor) -> Example:
                fields = {key: value[row] for key, value in payloads.items()}
                return self._example(records[row], fields, owns[row])

            return tf.constant(True), tf.map_fn(one, whole[:count], fn_output_signature=spec)

        attempts = tf.data.Dataset.from_tensors((records, owns)).map(read).ignore_errors()
        shapes = {key: tf.zeros([0, *value.shape], value.dtype) for key, value in self._nothing.items()}
        none = tf.data.Dataset.from_tensors((False, shapes))
        done, found = attempts.concatenate(none).take(1).get_single_element()

        def one_by_one() -> Example:
            signature = {**spec, REPLACED: tf.TensorSpec([], tf.int32)}
            return tf.map_fn(lambda row: self(indices[row], owns[row]), whole[:count], fn_output_signature=signature)

        return tf.cond(done, lambda: {**found, REPLACED: tf.zeros([count], tf.int32)}, one_by_one)

    def _record(self, indices: Tensor, number: Tensor) -> Tensor:
        """The record that is read in the attempt `number` of an example: int64 of their shape."""
        places = (indices % self._count + number) % self._count
        return permuted_in_graph(places, self._count, seed=self._seed, epoch=indices // self._count)

    def _tried(self, record: Tensor, own: Tensor) -> tuple[Tensor, Example]:
        """Whether a record can be read, and its example."""

        @tf.autograph.experimental.do_not_convert
        def read(record: Tensor, own: Tensor) -> tuple[Tensor, Example]:
            fields = {key: value[0] for key, value in self._fetch(record[tf.newaxis], 1).items()}
            return tf.constant(True), self._example(record, fields, own)

        attempts = tf.data.Dataset.from_tensors((record, own)).map(read).ignore_errors()
        return attempts.concatenate(tf.data.Dataset.from_tensors((False, self._nothing))).take(1).get_single_element()

    def _example(self, record: Tensor, fields: Example, own: Tensor) -> Example:
        u = tf.random.stateless_uniform([5], own)  # the first is unused: the index determines the image
        found = self._make(record, fields, u, own)
        return {key: tf.ensure_shape(value, self._nothing[key].shape) for key, value in found.items()}


def fetched(datasets: Sequence[tf.data.Dataset]) -> Tensor:
    """The one element of each dataset of bytes: string [K]. Fails if one has none."""
    joined = functools.reduce(lambda one, other: one.concatenate(other), datasets)
    return tf.ensure_shape(joined.batch(len(datasets)).get_single_element(), [len(datasets)])
