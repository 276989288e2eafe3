"""A `stream.Stream` in operations of TensorFlow: files and members of tar files, read, decoded and cut in the graph."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

import numpy as np
import tensorflow as tf

from codi_tf.core.paths import as_path
from codi_tf.core.tensors import Tensor
from codi_tf.data.decoding_in_graph import window
from codi_tf.data.headers import Headers
from codi_tf.data.records import Field, Records
from codi_tf.data.texts_in_graph import text_in_graph
from codi_tf.data.windows import Size
from codi_tf.data.windows_in_graph import Example, Replacing, blank, fetched, windows
from codi_tf.io.companions import Companion

TEXT = "text"  # the field of records


def drawer(
    records: Records,
    headers: Headers,
    kinds: Mapping[str, Companion],
    *,
    usable: np.ndarray,
    seed: int,
    whole: bool,
    prompts: bool,
    image_size: Size,
    augment: bool,
    recolor: bool,
    message: str,
) -> Callable[[Tensor, Tensor], Example]:
    """(index int64 [], seed int32 [2]) -> an example with REPLACED; see `pipeline.Source`.

    Args:
        records: of files or members of tar files, whose texts are in the field "text".
        headers: of their files.
        kinds: field -> companion, or `companions.IMAGE`.
        usable: bool [N]; the others are replaced.
        seed: of the order.
        whole: windows are as large as the image.
        prompts: whether texts are read.
        image_size, augment, recolor: see `pipeline.Source.drawer`.
        message: of the error where no record can be read.
    """
    fields = (*kinds, *((TEXT,) if prompts else ()))
    with tf.device("CPU:0"):
        payload_of = {field: _reader(records.paths, records.places[field]) for field in fields}
        sizes, able = tf.constant(headers.size), tf.constant(usable)
        ways, turns = ({key: tf.constant(one) for key, one in table.items()} for table in (headers.way, headers.turn))
    nothing = blank(kinds, image_size) | ({"prompt": tf.constant("")} if prompts else {})

    def fetch(rows: Tensor, number: int) -> Example:
        return {field: read(rows, number) for field, read in payload_of.items()}

    def make(record: Tensor, payloads: Example, u: Tensor, own: Tensor) -> Example:
        def cut(key: str, box: Tensor, number: Tensor) -> Tensor:
            return window(kinds[key], payloads[key], box, way=ways[key][record], number=number, turn=turns[key][record])

        shared = {"image_size": image_size, "whole": whole, "augment": augment, "seed": own if recolor else None}
        found = windows(kinds, cut, size=sizes[record], way=ways["image"][record], u=u, **shared)
        if prompts:
            found["prompt"] = text_in_graph(payloads[TEXT])
        return found

    return Replacing(fetch, make, nothing, usable=able, seed=seed, message=message)


def _reader(paths: tuple[str, ...], field: Field) -> Callable[[Tensor, int], Tensor]:
    """A function from records, int64 [K], and K, to the bytes of a field, string [K]; "" where there is none."""
    names, files = tf.constant(paths), tf.constant(np.maximum(field.file, 0))
    there = (field.file >= 0) & (field.size != 0)
    empty = tf.constant(~there)
    if (field.size[there] < 0).all():

        def whole(records: Tensor, number: int) -> Tensor:
            def one(record: Tensor) -> Tensor:
                content = functools.partial(tf.io.read_file, names[files[record]])
                return content() if there.all() else tf.cond(empty[record], lambda: tf.constant(b""), content)

            return tf.stack([one(records[i]) for i in range(number)])

        return whole
    lengths = np.zeros(len(paths), np.int64)
    for number in np.unique(field.file[there]).tolist():
        lengths[number] = as_path(paths[number]).stat().st_size
    sizes, starts = np.where(there, field.size, 1), np.where(there, field.start, 0)  # a byte in place of none
    file = np.where(there, field.file, field.file[np.argmax(there)])
    ends = tf.constant(lengths[file] - starts - sizes)  # bytes behind the field
    files, starts, sizes = tf.constant(file), tf.constant(starts), tf.constant(sizes)

    def content(record: Tensor) -> tf.data.Dataset:
        variant = tf.raw_ops.FixedLengthRecordDatasetV2(
            filenames=names[files[record]][tf.newaxis],
            header_bytes=starts[record],
            record_bytes=sizes[record],
            footer_bytes=ends[record],
            buffer_size=sizes[record],
            compression_type="",
        )
        return tf.data.experimental.from_variant(variant, tf.TensorSpec([], tf.string))

    def parts(records: Tensor, number: int) -> Tensor:
        found = fetched([content(records[i]) for i in range(number)])
        return found if there.all() else tf.where(tf.gather(empty, records), b"", found)

    return parts
