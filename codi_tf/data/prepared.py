"""`Prepared`: records that `codi prepare` wrote, which operations of TensorFlow read and decode."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import tensorflow as tf

from codi_tf.core.errors import UserError
from codi_tf.core.limits import MAX_EXAMPLES, MAX_SIDE
from codi_tf.core.paths import as_path
from codi_tf.core.tensors import Tensor
from codi_tf.data.decoding_in_graph import stored_map, way_of, window
from codi_tf.data.pipeline import REPLACED
from codi_tf.data.splits import check_any, check_split, is_heldout
from codi_tf.data.unreadable import check_unreadable, too_small
from codi_tf.data.windows import Size, fits
from codi_tf.data.windows_in_graph import Replacing, blank, fetched, windows
from codi_tf.io.companions import companion
from codi_tf.io.json_files import read_json, read_json_list
from codi_tf.io.schema import SHA256, Each, Nullable, Record, Text, Whole, check
from codi_tf.io.tensor_files import read_header

ABOUT, INDEX, NAMES = "prepared.json", "index.safetensors", "names.json"
FORMAT = 1
MOST_BYTES = 1 << 31  # of the names
BUFFER = 1 << 18  # bytes that are read at a time
SCHEMA = Record(
    {
        "format": Whole(FORMAT, FORMAT),
        "source": Text(),
        "fields": Each(Text(200), 1, 100),
        "texts": Each(Text(200), 0, 100),
        "tokenizer": Nullable(SHA256),
        "length": Whole(0, 1 << 16),
        "shards": Each(Record({"name": Text(200), "bytes": Whole(0, 2**62)}), 1, MAX_EXAMPLES),
    }
)


def is_prepared(name: str) -> bool:
    """Whether a folder was written by `codi prepare`."""
    return (as_path(name) / ABOUT).is_file()


def shard_name(number: int) -> str:
    """The name of a shard's file."""
    return f"examples-{number:05}.tfrecord"


@dataclass(frozen=True)
class Index:
    """Where N records are.

    Attributes:
        paths: of the shards.
        shard: int32 [N], an index into `paths`.
        offset: int64 [N], in bytes.
        size: int32 [N, 2], (height, width).
        has_text: uint8 [N], 1 for a record with a text.
        names: of the records.
        fields: "image" and the companion that records have.
        texts: the texts that records have: "prompt", and captions.
        tokenizer: SHA-256 of the tokenizer of the records' tokens; None if they have none.
        length: the number of tokens of a record.
    """

    paths: tuple[str, ...]
    shard: np.ndarray
    offset: np.ndarray
    size: np.ndarray
    has_text: np.ndarray
    names: tuple[str, ...]
    fields: tuple[str, ...]
    texts: tuple[str, ...]
    tokenizer: str | None
    length: int

    def chosen(self, numbers: np.ndarray) -> Index:
        """Some of the records."""
        arrays = {key: getattr(self, key)[numbers] for key in ("shard", "offset", "size", "has_text")}
        return replace(self, names=tuple(self.names[i] for i in numbers), **arrays)


def read_index(folder: str | Path) -> Index:
    """The index of a folder of `codi prepare`. Raises UserError for a file that is missing, damaged or cut off."""
    folder = as_path(folder)
    about = read_json(folder / ABOUT)
    check(about, SCHEMA, folder / ABOUT, "incomplete or of another version: run codi prepare again")
    paths = [folder / Path(shard["name"]).name for shard in about["shards"]]
    for path, shard in zip(paths, about["shards"], strict=True):
        size = path.stat().st_size if path.is_file() else -1
        if size != shard["bytes"]:
            there = f"has {size} of {shard['bytes']} bytes" if size >= 0 else "is missing"
            raise UserError(f"{path}: {there}; copy it again, or run codi prepare again")
    stored, _ = read_header(folder / INDEX)
    names = read_json_list(folder / NAMES, most_bytes=MOST_BYTES)
    wanted = {"shard": (), "offset": (), "size": (2,), "has_text": ()}
    if {key: one.shape[1:] for key, one in stored.items()} != wanted or any(
        one.shape[0] != len(names) for one in stored.values()
    ):
        raise UserError(f"{folder / INDEX}: does not fit {NAMES}; run codi prepare again")
    arrays = {key: one.read() for key, one in stored.items()}
    outside = arrays["shard"].min(initial=0) < 0 or arrays["shard"].max(initial=0) >= len(paths)
    if outside or arrays["size"].max(initial=0) > MAX_SIDE * 100:
        raise UserError(f"{folder / INDEX}: is damaged; run codi prepare again")
    return Index(
        tuple(str(path.absolute()) for path in paths),
        names=tuple(names),
        fields=tuple(about["fields"]),
        texts=tuple(about["texts"]),
        tokenizer=about["tokenizer"],
        length=about["length"],
        **arrays,
    )


def open_prepared(
    folder: str,
    split: str | None,
    key: str = "image",
    *,
    whole: bool = False,
    heldout_fraction: float = 0.1,
    seed: int = 0,
    max_unreadable: float = 0.01,
) -> Prepared:
    """Open a folder of `codi prepare`.

    Args:
        folder: the folder.
        split: "train", "heldout" or None for all; a hash of the names decides, as in the source.
        key: what conditions are made of, "image" or a companion.
        whole: windows are as large as the image.
        heldout_fraction: the share of "heldout", in [0, 1].
        seed: of the order.
        max_unreadable: the largest share of records that give no crop.

    Raises:
        UserError: see `read_index`; the records have no such companion; none is in the split.
    """
    if split is not None:
        check_split(split)
    index = read_index(folder)
    if key not in index.fields:
        raise UserError(f"{folder}: was prepared without {key}; run codi prepare with --task, for a task of {key}")
    if split is not None:
        heldout = np.array([is_heldout(name, heldout_fraction) for name in index.names], bool)
        chosen = index.chosen(np.flatnonzero(heldout == (split == "heldout")))
    else:
        chosen = index
    check_any(len(chosen.names), f"the {len(index.names)} records of {folder}", split, heldout_fraction)
    return Prepared(chosen, folder, key=key, whole=whole, seed=seed, max_unreadable=max_unreadable)


class Prepared:
    """Windows of records in TFRecord files, read at random places; a `pipeline.Source` without a line of Python.

    Example i is that of a `stream.Stream` of the same records: the same order, the same window, the same pixels. A
    record that is damaged, or smaller than the crop, is replaced by the one at the next place.

    Args:
        index: of the records.
        name: of the source, for messages.
        key: what conditions are made of.
        whole, seed, max_unreadable: see `open_prepared`.

    The examples have the windows, "prompt" and captions if the records have texts, "tokens" if they have tokens, and
    "replaced": int32 [], the number of damaged records in whose place the example stands.
    """

    names: tuple[str, ...] = ()

    def __init__(self, index: Index, name: str, *, key: str, whole: bool, seed: int, max_unreadable: float):
        self.index, self.name, self.whole = index, name, whole
        self.seed, self.max_unreadable = seed, max_unreadable
        self._windows = tuple(dict.fromkeys(("image", key)))
        tokens = ("tokens",) if index.tokenizer else ()
        self.provides = (*self._windows[1:], *index.texts, *tokens, REPLACED)

    def __len__(self) -> int:
        return len(self.index.names)

    @property
    def tokenizer(self) -> str | None:
        """SHA-256 of the tokenizer whose "tokens" examples have; None: they have none."""
        return self.index.tokenizer

    @property
    def missing_prompts(self) -> int:
        """The number of records without a text."""
        return int((self.index.has_text == 0).sum())

    def size(self, i: int) -> tuple[int, int]:
        """(height, width) of image i."""
        height, width = self.index.size[i].tolist()
        return height, width

    def label(self, i: int) -> str:
        """The name of record i in messages."""
        return f"{self.name}: {self.index.names[i]}"

    def chosen(self, numbers: Sequence[int]) -> Prepared:
        """The source of some of the records."""
        other = copy.copy(self)
        other.index = self.index.chosen(np.asarray(numbers, np.int64))
        return other

    def drawer(
        self, *, image_size: Size, augment: bool, recolor: bool, prompts: bool = True
    ) -> Callable[[Tensor, Tensor], dict[str, Tensor]]:
        """(index int64 [], seed int32 [2]) -> an example; see `pipeline.Source`.

        Raises:
            UserError: too many images are smaller than the crop.
        """
        index, count, whole = self.index, len(self), self.whole
        large = np.array([fits(size, image_size) for size in index.size.tolist()], bool)
        small = [f"{self.label(i)}: {too_small(self.size(i), image_size)}" for i in np.flatnonzero(~large).tolist()]
        check_unreadable(small, count, self.max_unreadable)
        kinds = {key: companion(key) for key in self._windows}
        texts = [*(index.texts if prompts else ()), *(("tokens",) if prompts and index.tokenizer else ())]
        with tf.device("CPU:0"):
            paths, usable = tf.constant(index.paths), tf.constant(large)
            shards, offsets = tf.constant(index.shard), tf.constant(index.offset)
            sizes = tf.constant(index.size.astype(np.int64))
        nothing = blank(kinds, image_size)
        nothing |= {key: tf.zeros([index.length], tf.int32) if key == "tokens" else tf.constant("") for key in texts}
        parsed = {key: tf.io.FixedLenFeature([], tf.string) for key in kinds}
        parsed |= {key: tf.io.FixedLenFeature([], tf.string, "") for key in texts}

        def content(record: Tensor) -> tf.data.Dataset:
            variant = tf.raw_ops.TFRecordDatasetV2(
                filenames=paths[shards[record]][tf.newaxis],
                compression_type="",
                buffer_size=BUFFER,
                byte_offsets=offsets[record][tf.newaxis],
            )
            return tf.data.experimental.from_variant(variant, tf.TensorSpec([], tf.string)).take(1)

        def fetch(records: Tensor, number: int) -> dict[str, Tensor]:
            return {"example": fetched([content(records[i]) for i in range(number)])}

        def make(record: Tensor, payload: dict[str, Tensor], u: Tensor, seed: Tensor) -> dict[str, Tensor]:
            fields = tf.io.parse_single_example(payload["example"], parsed)
            size, way = sizes[record], way_of(fields["image"])

            def cut(key: str, box: Tensor, number: Tensor) -> Tensor:
                kind = kinds[key]
                if kind.is_color:
                    own = way_of(fields[key])
                    return window(kind, fields[key], box, way=own, number=number, turn=tf.constant(1))
                values = stored_map(kind, fields[key], size)
                return tf.slice(values, tf.concat([box[:2], [0]], 0), tf.concat([box[2:], [kind.channels]], 0))

            shared = {"image_size": image_size, "whole": whole, "augment": augment}
            found = windows(kinds, cut, size=size, way=way, u=u, seed=seed if recolor else None, **shared)
            for key in texts:
                found[key] = tf.io.decode_raw(fields[key], tf.int32) if key == "tokens" else fields[key]
            return found

        message = f"{self.name}: none of its {count} records can be read; run codi prepare again"
        return Replacing(fetch, make, nothing, usable=usable, seed=self.seed, message=message)
