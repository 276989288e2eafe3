"""What sources that TensorFlow alone reads have in common: windows of a record, and records that others replace."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import tensorflow as tf

from codi_tf.core.tensors import Tensor
from codi_tf.data.decoding_in_graph import place, reduced, reduction, window_of, window_size
from codi_tf.data.headers import JPEG
from codi_tf.data.in_memory import resized
from codi_tf.data.permutation import permuted_in_graph
from codi_tf.data.pipeline import REPLACED
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


def replacing(
    read: Callable[[Tensor, Tensor, Tensor], Example],
    nothing: Example,
    *,
    usable: Tensor,
    seed: int,
    message: str,
) -> Callable[[Tensor, Tensor], Example]:
    """(index int64 [], seed int32 [2]) -> an example with REPLACED; see `pipeline.Source`.

    The record at the index's place of an epoch's order is read. One that cannot be read is replaced by the next.

    Args:
        read: (record int64 [], u float32 [5] in [0, 1), seed int32 [2]) -> an example; fails for a damaged record.
        nothing: an example of the same shapes.
        usable: bool [N]; the records that are not are replaced, too, and not counted.
        seed: of the order.
        message: of the error where no record can be read.
    """
    count = int(usable.shape[0])

    def tried(record: Tensor, u: Tensor, own: Tensor) -> tuple[Tensor, Example]:
        """Whether a record can be read, and its example."""

        @tf.autograph.experimental.do_not_convert
        def found(one: Tensor) -> tuple[Tensor, Example]:
            example = read(one, u, own).items()
            return tf.constant(True), {key: tf.ensure_shape(value, nothing[key].shape) for key, value in example}

        attempts = tf.data.Dataset.from_tensors(record).map(found).ignore_errors()
        return attempts.concatenate(tf.data.Dataset.from_tensors((False, nothing))).take(1).get_single_element()

    def draw(index: Tensor, own: Tensor) -> Example:
        u = tf.random.stateless_uniform([5], own)  # the first is unused: the index determines the image
        epoch, start = index // count, index % count

        def attempt(number: Tensor, replaced: Tensor, done: Tensor, _: Example):
            record = permuted_in_graph((start + number) % count, count, seed=seed, epoch=epoch)
            done, example = tf.cond(usable[record], lambda: tried(record, u, own), lambda: (False, nothing))
            damaged = tf.logical_and(usable[record], tf.logical_not(done))
            return number + 1, replaced + tf.cast(damaged, tf.int32), done, example

        state = tf.constant(0, tf.int64), 0, False, nothing
        _, replaced, done, example = tf.while_loop(
            lambda number, replaced, done, example: tf.logical_and(tf.logical_not(done), number < count), attempt, state
        )
        with tf.control_dependencies([tf.debugging.Assert(done, [f"UserError: {message}"])]):
            return {**example, REPLACED: tf.identity(replaced)}

    return draw
