"""TFRecord files of tf.train.Example messages: the choice of the features that hold image and text."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import tensorflow as tf

from codi_tf.core.errors import UserError
from codi_tf.data.records import Records, Unreadable
from codi_tf.io.companions import COMPANIONS

_EDITED = ("edited_image", "target_image", "target_img", "output_image")
_INSTRUCTION = ("edit_prompt", "instruction", "edit")
# field -> names of the features, or of parquet's columns, that hold it in public data sets, the most likely first.
# Names for edits come first: where they exist, "image" and "text" may belong to the image before the edit.
_FEATURES = {
    "image": (*_EDITED, "image", "image/encoded", "hr", "jpg", "png", "webp"),
    "text": (*_INSTRUCTION, "caption", "captions/text", "image/caption", "text", "txt", "prompt"),
}


def known_features() -> dict[str, tuple[str, ...]]:
    """Field -> names of the features, or of parquet's columns, that hold it, with those of all companions."""
    return {**_FEATURES, **{name: COMPANIONS[name].features for name in COMPANIONS}}


@dataclass(frozen=True)
class Examples:
    """Records whose fields are features of tf.train.Example; a `records.Readable`.

    Attributes:
        records: with the field "example".
        keys: field -> name of the feature. The first of several values is taken.
    """

    records: Records
    keys: dict[str, str]

    def __len__(self) -> int:
        return len(self.records)

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields that have a feature."""
        return tuple(self.keys)

    def read(self, i: int, fields: Collection[str] | None = None) -> dict[str, bytes]:
        """The fields of record i that it has, or some of them. Raises Unreadable."""
        features = _features(self.records.read(i)["example"])
        keys = {field: key for field, key in self.keys.items() if fields is None or field in fields}
        values = {field: features[key].bytes_list.value for field, key in keys.items() if key in features}
        return {field: value[0] for field, value in values.items() if value}

    def without_text(self) -> int:
        """0: what a record holds is known when it is read."""
        return 0

    def name(self, i: int) -> str:
        """Path and position of record i."""
        return self.records.name(i)

    def split_name(self, i: int) -> str:
        """The name that decides the split of record i."""
        return self.records.split_name(i)


def with_features(records: Records, wanted: dict[str, str]) -> Examples:
    """The records with the features of the first one; `wanted` (field -> feature) takes precedence over
    `known_features`.

    Raises:
        UserError: no feature for the image, or a wanted feature is missing; the first record cannot be read.
    """
    try:
        features = _features(records.read(0)["example"])
    except Unreadable as reason:
        raise UserError(f"{records.name(0)}: {reason}; copy the file again") from None
    held = [key for key, feature in features.items() if feature.WhichOneof("kind") == "bytes_list"]
    return Examples(records, choose_features(records.name(0), held, wanted))


def choose_features(name: str, held: Collection[str], wanted: dict[str, str]) -> dict[str, str]:
    """Field -> feature, chosen from those in `held`.

    Raises:
        UserError: no feature for the image, or a wanted feature is missing.
    """
    known = known_features()
    for field, key in wanted.items():
        if field not in known:
            raise UserError(f"{name}: unknown option {field}; use {', '.join(known)} (field=FEATURE)")
        if key not in held:
            raise UserError(f"{name}: no feature {key} that holds bytes for {field}; there are: {', '.join(held)}")
    chosen = {field: next((key for key in names if key in held), None) for field, names in known.items()}
    chosen = {field: key for field, key in {**chosen, **wanted}.items() if key is not None}
    if "image" not in chosen:
        raise UserError(f"{name}: which feature is the image? name it, ?image=FEATURE, of: {', '.join(held) or 'none'}")
    return chosen


def _features(payload: bytes):
    try:
        return tf.train.Example.FromString(payload).features.feature
    except Exception as error:  # protobuf's DecodeError, whose class depends on its implementation
        raise Unreadable(f"it is not a tf.train.Example ({' '.join(str(error).split())})") from None
