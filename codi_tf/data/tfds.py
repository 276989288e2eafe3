"""Data sets that tensorflow-datasets has prepared on this machine."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np

from codi_tf.core.errors import UserError
from codi_tf.data.examples import Examples, choose_features
from codi_tf.data.records import Records, index_tfrecord
from codi_tf.data.splits import check_split

PREFIX = "tfds:"
HELD_OUT = ("validation", "val", "valid", "test")  # names of held-out splits
_HELD_OUT = re.compile(r"val|test")  # at the start of a name, such as "validation_matched" or "test2007"
_NAME = re.compile(r"(?P<name>[^:]+(?::\d+\.[\d.*]+)?)(?::(?P<split>.+))?")


def open_tfds(text: str, split: str | None, options: dict[str, str], *, heldout_fraction: float = 0.1) -> Examples:
    """The records of a data set's split; its TFRecord files are read in any order, without tensorflow-datasets.

    Args:
        text: "tfds:NAME[/CONFIG][:VERSION][:SPLIT]", for example "tfds:div2k/bicubic_x4:train"; a SPLIT may be sliced
            as tensorflow-datasets writes it, "train[:80%]".
        split: "train", "heldout" or None for all. In a set that has "train", "heldout" is all of a SPLIT called
            "validation...", "val..." or "test..."; without a SPLIT it is the set's own "validation" or "test". In any
            other case a hash of the records' positions decides.
        options: data_dir, the folder of prepared data sets (by default tensorflow-datasets' own), and image, text
            and the names of companions: the features that hold them (by default see `examples.known_features`).
        heldout_fraction: the share of "heldout" if the hash decides.

    Raises:
        UserError: tensorflow-datasets is missing, no such data set is prepared, it has no such split or feature, or it
            is in another format than TFRecord.
    """
    try:
        import tensorflow_datasets as tfds
        from tensorflow_datasets.core import read_only_builder
    except ImportError:
        raise UserError(f"{text} needs the package tensorflow-datasets: pip install tensorflow-datasets") from None
    found = _NAME.fullmatch(text.removeprefix(PREFIX))
    if found is None:
        raise UserError(f"{text} is not the name of a data set; write tfds:NAME[/CONFIG][:SPLIT]")
    wanted = {key: value for key, value in options.items() if key != "data_dir"}
    data_dir = options.get("data_dir")
    name, _, version = found["name"].partition(":")
    given = {"version": version} if version else {}
    name, _, config = name.partition("/")
    given |= {"config": config} if config else {}
    try:
        builder = read_only_builder.builder_from_files(name, data_dir=data_dir, **given)
    except (tfds.core.DatasetNotFoundError, AssertionError, ValueError, OSError):
        where = data_dir or tfds.core.constants.DATA_DIR
        raise UserError(
            f"{text}: no prepared data set {found['name']} in {where}; make it with: tfds build {found['name']} "
            f"--data_dir {where}"
        ) from None
    if builder.info.file_format != tfds.core.FileFormat.TFRECORD:
        kind = builder.info.file_format.value
        raise UserError(f"{text} is stored as {kind}; prepare it with file_format=tfrecord")
    records = _records_of(text, builder.info.splits, found["split"], split, heldout_fraction)
    held = [key for key, feature in _leaves(builder.info.features, tfds) if _holds(feature, tfds)]
    return Examples(records, choose_features(text, held, wanted))


def _records_of(text, splits, named: str | None, split: str | None, heldout_fraction: float) -> Records:
    if split is not None:
        check_split(split)
    hashed = split is not None
    if named is None and split is None:
        named = "+".join(splits)
    elif named is None:
        heldout = next((name for name in HELD_OUT if name in splits), None)
        hashed = heldout is None
        named = "train" if hashed or split == "train" else heldout
    elif split == "heldout" and "train" in splits:
        hashed = not all(_HELD_OUT.match(part.strip()) for part in named.split("+"))
    try:
        parts = splits[named].file_instructions
    except (KeyError, ValueError):
        raise UserError(f"{text}: no split {named!r}; it has: {', '.join(splits)}") from None
    records = index_tfrecord(dict.fromkeys(part.filename for part in parts))
    file = records.places["example"].file
    first = np.searchsorted(file, np.arange(len(records.paths) + 1))  # records are in the order of the files
    begin = {path: (first[i], first[i + 1]) for i, path in enumerate(records.paths)}
    numbers = []
    for part in parts:
        low, high = begin[part.filename]
        numbers.append(np.arange(min(low + part.skip, high), min(low + part.skip + part.take, high)))
    records = records.chosen(np.concatenate(numbers))
    return records.of_split(split, heldout_fraction) if hashed and split is not None else records


def _leaves(feature, tfds, prefix: str = "") -> Iterator[tuple[str, object]]:
    """The features within a feature, by the names that they are stored under."""
    if isinstance(feature, tfds.features.FeaturesDict):
        for key, one in feature.items():
            yield from _leaves(one, tfds, f"{prefix}/{key}" if prefix else key)
    elif isinstance(feature, tfds.features.Sequence):
        yield from _leaves(feature.feature, tfds, prefix)
    else:
        yield prefix, feature


def _holds(feature, tfds) -> bool:
    """Whether a feature is stored as text, or as the bytes of an image file."""
    if isinstance(feature, tfds.features.Image):
        return np.dtype(feature.np_dtype) in (np.uint8, np.uint16)  # floats are stored as if they were colors
    return isinstance(feature, tfds.features.Text)
