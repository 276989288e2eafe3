"""A `stream.Stream` in operations of TensorFlow: files and members of tar files, read, decoded and cut in the graph."""

from __future__ import annotations

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
from codi_tf.data.windows_in_graph import Example, blank, replacing, windows
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
        has_text = tf.constant(records.places[TEXT].file >= 0) if prompts else None
    nothing = blank(kinds, image_size) | ({"prompt": tf.constant("")} if prompts else {})

    def read(record: Tensor, u: Tensor, own: Tensor) -> Example:
        def cut(key: str, box: Tensor, number: Tensor) -> Tensor:
            payload = payload_of[key](record)
            return window(kinds[key], payload, box, way=ways[key][record], number=number, turn=turns[key][record])

        shared = {"image_size": image_size, "whole": whole, "augment": augment, "seed": own if recolor else None}
        found = windows(kinds, cut, size=sizes[record], way=ways["image"][record], u=u, **shared)
        if has_text is not None:

            def text() -> Tensor:
                return text_in_graph(payload_of[TEXT](record))

            found["prompt"] = tf.cond(has_text[record], text, lambda: tf.constant(""))
        return found

    return replacing(read, nothing, usable=able, seed=seed, message=message)


def _reader(paths: tuple[str, ...], field: Field) -> Callable[[Tensor], Tensor]:
    """A function from a record that has a field, int64 [], to the field's bytes, string []."""
    names, files = tf.constant(paths), tf.constant(field.file)
    if (field.size < 0).all():
        return lambda record: tf.io.read_file(names[files[record]])
    lengths = np.zeros(len(paths), np.int64)
    for number in np.unique(field.file[field.file >= 0]).tolist():
        lengths[number] = as_path(paths[number]).stat().st_size
    starts, sizes = tf.constant(field.start), tf.constant(field.size)
    ends = tf.constant(lengths[field.file] - field.start - field.size)  # bytes behind the field

    def inside(record: Tensor, size: Tensor) -> Tensor:
        payload = tf.raw_ops.FixedLengthRecordDatasetV2(
            filenames=names[files[record]][tf.newaxis],
            header_bytes=starts[record],
            record_bytes=size,
            footer_bytes=ends[record],
            buffer_size=size,
            compression_type="",
        )
        dataset = tf.data.experimental.from_variant(payload, tf.TensorSpec([], tf.string))
        return dataset.take(1).get_single_element()

    def part(record: Tensor) -> Tensor:
        size = sizes[record]
        return tf.cond(size > 0, lambda: inside(record, size), lambda: tf.constant(b""))

    return part
