"""Pictures that stay on disk as a source of examples: example i is read when it is needed, in a random order."""

from __future__ import annotations

import contextlib
import json
import re
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np
import tensorflow as tf

from codi_tf.data.decoding import Picture, nearness, pixels, place, window_side
from codi_tf.data.permutation import permuted
from codi_tf.data.records import Unreadable
from codi_tf.data.windows import in_range, recoloured
from codi_tf.errors import UserError

JUDGED = 400  # records: of fewer, a share says little
SHOWN = 3  # so many unreadable records in a message
_KINDS = {"image": tf.uint8, "source": tf.uint8, "depth": tf.float32}  # of windows


class Readable(Protocol):
    """N records that can be read in any order; see `records.Records`."""

    fields: tuple[str, ...]

    def __len__(self) -> int: ...

    def read(self, i: int) -> dict[str, bytes]:
        """The fields of record i that it has: "image", "source", "depth", "text", "json". Raises Unreadable."""

    def name(self, i: int) -> str:
        """How messages call record i."""


class Stream:
    """Square windows of pictures on disk, shrunk to the crop's size; a `pipeline.Source`.

    Example i is from the record at place i mod N of a random order of all N, another order in every epoch. The window's
    side and place are distributed as `windows.Photos` draws them. A record that cannot be read or used is replaced by
    that at the next place, so that an example is still a function of (records, seed, i).

    Args:
        records: what there is to read.
        made_of: "image", or "depth" or "source" to read these too, for tasks that make conditions of them.
        seed: of the order.
        max_unreadable: the share of unreadable records that a run may go on with: of the different records that it has
            read, 400 at least or all that there are.

    Attributes:
        unreadable: one line for each record that could not be used, as they were met: its name and the reason.
    """

    def __init__(self, records: Readable, *, made_of: str = "image", seed: int = 0, max_unreadable: float = 0.01):
        self.records, self.seed, self.max_unreadable = records, seed, max_unreadable
        has_text = {"text", "json"} & set(records.fields)
        self._windows = tuple(dict.fromkeys(("image", made_of) if made_of in records.fields else ("image",)))
        self.provides = (*self._windows[1:], *(("prompt",) if has_text else ()))
        self.names = ()
        self._lock, self._bad, self._tried = threading.Lock(), {}, 0

    def __len__(self) -> int:
        return len(self.records)

    @property
    def unreadable(self) -> list[str]:
        """One line for each record that could not be used so far."""
        with self._lock:
            return [f"{self.records.name(record)}: {reason}" for record, reason in self._bad.items()]

    def drawer(
        self, *, image_size: int, augment: bool, recolour: bool
    ) -> Callable[[tf.Tensor, tf.Tensor], dict[str, tf.Tensor]]:
        """(index int64 [], seed int32 [2]) -> an example; see `pipeline.Source`.

        What goes wrong while it runs reaches the caller of tf.data as an error of TensorFlow; `user_errors` turns it
        back.
        """

        def read(index: np.ndarray, u: np.ndarray) -> list:
            example = self.example(int(index), u, image_size)
            return [*(example[key] for key in self._windows), example["prompt"].encode("utf-8")]

        def draw(index: tf.Tensor, seed: tf.Tensor) -> dict[str, tf.Tensor]:
            u = tf.random.stateless_uniform([5], seed)  # the first is for the photo, which the index tells here
            *cut, prompt = tf.numpy_function(read, [index, u], [*(_KINDS[key] for key in self._windows), tf.string])
            example = {}
            for key, window in zip(self._windows, cut, strict=True):
                window.set_shape([None, None, 1 if key == "depth" else 3])
                value = tf.image.resize(window, [image_size, image_size], "area")
                value = tf.where(u[4] < 0.5, value[:, ::-1], value) if augment else value
                if key != "depth":
                    value = in_range(value)
                    value = recoloured(value, tf.random.fold_in(seed, 1)) if recolour else value
                example[key] = value
            if "prompt" in self.provides:
                prompt.set_shape([])
                example["prompt"] = prompt
            return example

        return draw

    def example(self, index: int, u: np.ndarray, image_size: int) -> dict:
        """The windows of an example, before they are shrunk.

        Args:
            index: the example's number.
            u: float32 [5] in [0, 1): u[1] decides on the window's side, u[2] and u[3] on its place.
            image_size: S, the least side.

        Returns:
            {"image": uint8 [H, H, 3], "prompt": str}, and "source", uint8 [H, H, 3], or "depth", float32 [H, H, 1].

        Raises:
            UserError: too many records are unreadable.
        """
        count = len(self.records)
        epoch, start = divmod(index, count)
        for attempt in range(count):
            record = self.record_at((start + attempt) % count, epoch)
            try:
                example = self._cut(self.records.read(record), u, image_size)
            except Unreadable as reason:
                self._count(record, str(reason))
            else:
                self._count(None, None)
                return example
        raise UserError(f"none of the {count} records can be read: {self._named()}")

    def record_at(self, place: int, epoch: int) -> int:
        """The record at a place of an epoch's order: a permutation of 0 .. N - 1."""
        return permuted(place, len(self.records), seed=self.seed, epoch=epoch)

    def window_side(self, u: float, size: tuple[int, int], image_size: int) -> int:
        """The side of a window of a picture (height, width), drawn by u. Raises Unreadable where it is too small."""
        return window_side(u, size, image_size)

    def _cut(self, fields: dict[str, bytes], u: np.ndarray, image_size: int) -> dict:
        """The same window of all pictures of a record, and the text. Raises Unreadable."""
        opened = {}
        for key in self._windows:
            if key not in fields:
                raise Unreadable(f"it has no {key}")
            opened[key] = Picture(fields[key])
        size = opened["image"].size
        for key, picture in opened.items():
            if picture.size != size:
                sizes = [f"{height}x{width}" for height, width in (picture.size, size)]
                raise Unreadable(f"its {key} is {sizes[0]}, the image {sizes[1]}")
        side = self.window_side(float(u[1]), size, image_size)
        factor = side / image_size if len(opened) == 1 else 1.0  # several stay as they are: their pixels must meet
        example = {"prompt": _text(fields) if "prompt" in self.provides else ""}
        for key, picture in opened.items():
            image = picture.shrunk(factor)
            width, height = image.size
            now = min(max(round(side * width / size[1]), image_size), width, height)  # the side, after shrinking
            left, top = place(float(u[3]), width - now), place(float(u[2]), height - now)
            if key == "depth":
                example[key] = nearness(image)[top : top + now, left : left + now]
            else:
                example[key] = pixels(image.crop((left, top, left + now, top + now)))
        return example

    def _count(self, record: int | None, reason: str | None) -> None:
        """Counts a record that was read, and keeps it if it was unreadable (None: it was not)."""
        with self._lock:
            self._tried += 1
            if record is None:
                return
            self._bad.setdefault(record, reason)
            bad, read = len(self._bad), min(self._tried, len(self.records))
        if bad > self.max_unreadable * max(read, min(JUDGED, len(self.records))):
            raise UserError(
                f"{bad} of {read} records are unreadable, more than max_unreadable {self.max_unreadable:g} allows: "
                f"{self._named()}; repair or remove them"
            )

    def _named(self) -> str:
        lines = self.unreadable
        return "; ".join(lines[:SHOWN]) + (f" and {len(lines) - SHOWN} more" if len(lines) > SHOWN else "")


@contextlib.contextmanager
def user_errors() -> Iterator[None]:
    """Within the block, a UserError that was raised inside tf.data reaches the caller as itself.

    TensorFlow wraps what a Python function raises into an error of its own, with the traceback in the message.
    """
    try:
        yield
    except tf.errors.OpError as error:
        found = re.search(r"UserError: (.+)", error.message)
        if found is None:
            raise
        raise UserError(found[1]) from None


def warn_of_damage(damaged, nbytes: int, max_unreadable: float) -> None:
    """Names shards that are not whole: a warning, or a UserError where more than a share of all bytes is lost.

    Args:
        damaged: `Records.damaged`.
        nbytes: of all shards.
        max_unreadable: the share, in [0, 1].
    """
    if not damaged:
        return
    lost = sum(shard.lost for shard in damaged) / max(nbytes, 1)
    named = "; ".join(f"{shard.path}: {shard.reason}" for shard in damaged[:SHOWN])
    more = f" and {len(damaged) - SHOWN} more" if len(damaged) > SHOWN else ""
    if lost > max_unreadable:
        raise UserError(
            f"damaged shards, {lost:.1%} of all bytes lost, more than max_unreadable {max_unreadable:g} allows: "
            f"{named}{more}; copy them again"
        )
    warnings.warn(f"damaged shards, read up to the damage ({lost:.2%} of all bytes lost): {named}{more}", stacklevel=3)


def read_text(records: Readable, i: int) -> str:
    """The text of record i, "" for none. Raises UserError where it cannot be read."""
    try:
        return _text(records.read(i))
    except Unreadable as reason:
        raise UserError(f"{records.name(i)}: {reason}; repair or remove it") from None


def _text(fields: dict[str, bytes]) -> str:
    """The text of a record, on one line: KEY.txt, or "caption" of KEY.json; "" for none. Raises Unreadable."""
    try:
        text = fields["text"].decode("utf-8") if "text" in fields else json.loads(fields.get("json", b"{}"))
    except ValueError as error:  # of json and of UTF-8
        raise Unreadable(f"its text is damaged ({error})") from None
    if isinstance(text, dict):
        text = text.get("caption", "")
    if not isinstance(text, str):
        raise Unreadable(f"its caption is {text!r}, not a text")
    return " ".join(text.split())
