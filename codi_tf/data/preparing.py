"""Writing records that operations of TensorFlow read, for `prepared.Prepared`."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from codi_tf.checkpoints.tokenizer import Tokenizer
from codi_tf.core.errors import UserError
from codi_tf.data.decoding import EncodedImage
from codi_tf.data.decoding_in_graph import encoded
from codi_tf.data.in_memory import Photos
from codi_tf.data.pipeline import REPLACED
from codi_tf.data.prepared import ABOUT, FORMAT, INDEX, NAMES, shard_name
from codi_tf.data.prompts import text_of, tokenizer_sha256
from codi_tf.data.records import Unreadable
from codi_tf.data.stream import CAPTIONS, Stream
from codi_tf.data.unreadable import check_unreadable
from codi_tf.io.companions import companion
from codi_tf.io.json_files import write_json
from codi_tf.io.tensor_files import TensorToWrite, write_tensors

AHEAD = 64  # records that are decoded before they are written
_FRAME = 16  # bytes of a TFRecord beside its content
THREADS = min(8, os.cpu_count() or 1)


class Decoded(NamedTuple):
    """A record, decoded."""

    name: str  # which decides the split
    size: tuple[int, int]
    images: dict[str, bytes]  # as `decoding_in_graph.encoded` gives them
    texts: dict[str, str]


def prepare(
    source: Stream | Photos,
    folder: Path,
    *,
    name: str,
    tokenizer: Tokenizer | None = None,
    shard_bytes: int,
    report: Callable[[int], None] = lambda done: None,
) -> int:
    """Write the records of a source into an empty folder. Returns how many were written.

    The bytes of an image's file are kept if TensorFlow decodes them to the pixels that this project reads. Other images
    become PNG files: AVIF, TIFF, CMYK, palettes with transparency, rotated ones, 16 bits.

    Args:
        source: all records are written, with the companion that it reads.
        folder: the folder.
        name: of the source, for messages and the folder's description.
        tokenizer: records get the tokens of their texts; None: texts alone.
        shard_bytes: the size of a shard, about.
        report: called with the number of records done.

    Raises:
        UserError: too many records are unreadable, see `Stream`; prompts are wanted and there are none.
    """
    texts = ("prompt", *CAPTIONS) if "prompt" in source.provides else ()
    texts = tuple(key for key in texts if key in source.provides)
    if tokenizer is not None and "prompt" not in texts:
        raise UserError(f"{name} has no texts to write tokens of: leave out --tokenizer, or name other data")
    fields = _images_of(source)
    shards, rows, names, bad = [], [], [], []
    writer, offset = None, 0
    try:
        for done, found in enumerate(_all(source, texts), start=1):
            report(done)
            if isinstance(found, str):
                bad.append(found)
                continue
            if writer is None or offset >= shard_bytes:
                if writer is not None:
                    writer.close()
                    shards[-1]["bytes"] = offset
                shards.append({"name": shard_name(len(shards)), "bytes": 0})
                writer, offset = tf.io.TFRecordWriter(str(folder / shards[-1]["name"])), 0
            content = {**found.images, **{key: text.encode("utf-8") for key, text in found.texts.items()}}
            if tokenizer is not None:
                content["tokens"] = tokenizer.tokenize([found.texts["prompt"]])[0][0].astype("<i4").tobytes()
            payload = _example(content)
            writer.write(payload)
            rows.append((len(shards) - 1, offset, *found.size, int(bool(found.texts.get("prompt")))))
            names.append(found.name)
            offset += len(payload) + _FRAME
    finally:
        if writer is not None:
            writer.close()
    check_unreadable(bad, len(names) + len(bad), source.max_unreadable)
    shards[-1]["bytes"] = offset
    _write_index(folder, rows, names)
    digest = None if tokenizer is None else tokenizer_sha256(tokenizer)
    length = 0 if tokenizer is None else tokenizer.length
    about = {"format": FORMAT, "source": name, "fields": list(fields), "texts": list(texts), "tokenizer": digest}
    write_json(folder / ABOUT, {**about, "length": length, "shards": shards})
    return len(names)


def _all(source: Stream | Photos, texts: tuple[str, ...]) -> Iterator[Decoded | str]:
    """Every record, or a line on why it cannot be read; the next ones are decoded on several threads meanwhile."""

    def read(i: int) -> Decoded | str:
        try:
            return _of_photos(source, i, texts) if isinstance(source, Photos) else _of_stream(source, i, texts)
        except (Unreadable, UserError) as reason:
            return f"{source.label(i)}: {reason}"

    with ThreadPoolExecutor(THREADS) as pool:
        for first in range(0, len(source), AHEAD):
            yield from pool.map(read, range(first, min(first + AHEAD, len(source))))


def _images_of(source: Stream | Photos) -> tuple[str, ...]:
    """The image of each record, and its companions."""
    return ("image", *(key for key in source.provides if key not in ("prompt", *CAPTIONS, REPLACED)))


def _of_stream(source: Stream, i: int, texts: tuple[str, ...]) -> Decoded:
    """A record of a stream. Raises Unreadable, and UserError for a companion that is unfit."""
    fields = source.records.read(i)
    opened = {}
    for key in _images_of(source):
        if key not in fields:
            raise Unreadable(f"it has no {key}")
        opened[key] = EncodedImage(fields[key])
    size, images = opened["image"].size, {}
    for key, one in opened.items():
        is_fitted = one.size != size
        image = (source.fitted(key, one, size) if is_fitted else one).shrunk(1.0)
        values = companion(key).window(image, (0, 0, image.width, image.height))
        images[key] = encoded(companion(key), values, None if is_fitted else fields[key])
    found = {"prompt": text_of(fields)} if texts else {}
    found |= {key: fields.get(key, b"").decode("utf-8") for key in texts if key in CAPTIONS}
    return Decoded(source.records.split_name(i), size, images, found)


def _of_photos(source: Photos, i: int, texts: tuple[str, ...]) -> Decoded:
    """An image in memory. Raises Unreadable for a damaged text."""
    name = source.names[i]
    images = {"image": encoded(companion("image"), source.images[name], None)}
    if source.companions is not None:
        images[source.kind] = encoded(companion(source.kind), source.companions[name], None)
    prompts = source.prompts if texts else None
    if prompts is not None and name not in prompts:
        raise Unreadable("its text is damaged")
    return Decoded(name, source.size(i), images, {} if prompts is None else {"prompt": prompts[name]})


def _example(content: dict[str, bytes]) -> bytes:
    """The bytes of a tf.train.Example."""
    feature = {key: tf.train.Feature(bytes_list=tf.train.BytesList(value=[value])) for key, value in content.items()}
    return tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString(deterministic=True)


def _write_index(folder: Path, rows: list[tuple[int, ...]], names: list[str]) -> None:
    table = np.array(rows, np.int64).reshape(-1, 5)
    arrays = {
        "shard": table[:, 0].astype(np.int32),
        "offset": table[:, 1],
        "size": table[:, 2:4].astype(np.int32),
        "has_text": table[:, 4].astype(np.uint8),
    }
    tensors = {key: TensorToWrite(one.dtype, one.shape, one.copy) for key, one in sorted(arrays.items())}
    write_tensors(folder / INDEX, tensors)
    (folder / NAMES).write_text(json.dumps(names), encoding="utf-8")
