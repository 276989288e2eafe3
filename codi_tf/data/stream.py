"""`Stream`: a source of examples from images on disk, read in a random order when they are needed."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from codi_tf.core.errors import UserError
from codi_tf.data import stream_in_graph
from codi_tf.data.decoding import EncodedImage, place, window_size
from codi_tf.data.headers import Headers, is_decoded_in_graph, read_headers
from codi_tf.data.in_memory import resized
from codi_tf.data.permutation import permuted
from codi_tf.data.pipeline import REPLACED
from codi_tf.data.prompts import FIELDS, text_of
from codi_tf.data.records import Readable, Records, Unreadable
from codi_tf.data.unreadable import Tally, first_of, too_small
from codi_tf.data.windows import Size, fits, sides, window_of
from codi_tf.io.companions import companion

CAPTIONS = ("caption", "source_caption")  # fields of records: texts on the image, and on the one before an edit


class Stream:
    """Windows of images on disk, shrunk to the crop's size; a `pipeline.Source`.

    Example i comes from the record at place i mod N of a random order of all N, which differs in every epoch. The side
    and the position of its window are distributed as in `in_memory.Photos`. An unreadable record is replaced by the one
    at the next place, so that an example remains a function of (records, seed, i).

    Operations of TensorFlow read files and members of tar files, where they can decode all of them (`headers`), make
    the companions (`Companion.in_graph`), and no text is in a JSON file. Python reads anything else, and `in_python`.
    Both give the same examples, if their decoders give the same pixels.

    Args:
        records: the records to read.
        condition_key: what the task makes conditions of: the "image", or a companion, which is read along with it.
        seed: of the order.
        max_unreadable: the largest share of unreadable records among the different records read so far, counted as at
            least 400, or all records if there are fewer. Of those that TensorFlow reads, the headers are read first,
            and what they show to be unreadable is a share of all records.

    The examples have the windows, "prompt" if the records have texts, CAPTIONS that they have, and where TensorFlow may
    read them "replaced", int32 [], the number of damaged records in whose place it put the example.

    Attributes:
        whole: windows are as large as the image.
        resizes: a companion of another size becomes as large as its image; else its record is unreadable.
        tally: of unreadable records.
    """

    whole = resizes = False

    def __init__(self, records: Readable, *, condition_key: str = "image", seed: int = 0, max_unreadable: float = 0.01):
        self.records, self.seed, self.max_unreadable = records, seed, max_unreadable
        has_text = set(FIELDS) & set(records.fields)
        self._windows = tuple(
            dict.fromkeys(("image", condition_key) if condition_key in records.fields else ("image",))
        )
        self._captions = tuple(key for key in CAPTIONS if key in records.fields)
        files = isinstance(records, Records) and not records.checked
        self._may_be_in_graph = files and all(is_decoded_in_graph(companion(key)) for key in self._windows)
        counts = (REPLACED,) if self._may_be_in_graph else ()
        self.provides = (*self._windows[1:], *(("prompt",) if has_text else ()), *self._captions, *counts)
        self.names = ()
        self._headers: list[Headers | None] = []  # when they are known, one item
        self._looked_at: set[str] = set()  # the fields that TensorFlow reads
        self.tally = Tally(records.name, len(records), max_unreadable)

    def __len__(self) -> int:
        return len(self.records)

    @property
    def missing_prompts(self) -> int:
        """The number of records that are known to have no prompt; see `pipeline.Source`."""
        return self.records.without_text()

    @property
    def unreadable(self) -> list[str]:
        """One line for each record that was unreadable so far, in the order of reading: its name and the reason."""
        return self.tally.lines

    def in_python(self) -> Stream:
        """The same source, which Python reads: of few examples no headers of others are read."""
        other = copy.copy(self)
        other._may_be_in_graph = False
        return other

    def drawer(
        self, *, image_size: Size, augment: bool, recolor: bool, prompts: bool = True
    ) -> Callable[[tf.Tensor, tf.Tensor], dict[str, tf.Tensor]]:
        """(index int64 [], seed int32 [2]) -> an example; see `pipeline.Source`.

        tf.data turns the UserError of `example` into an error of TensorFlow; `errors.user_errors` turns it back.

        Raises:
            UserError: headers show too many records to be unreadable.
        """
        prompts = prompts and "prompt" in self.provides
        kinds = {key: companion(key) for key in self._windows}
        in_json = prompts and "json" in self.records.fields
        headers = self.headers() if self._may_be_in_graph and not in_json else None
        if headers is not None and isinstance(self.records, Records):
            large = np.array([fits(size, image_size) for size in headers.size.tolist()], bool)
            large[list(headers.bad)] = False
            unfit = np.flatnonzero(~large).tolist()
            self.tally.know({i: headers.bad.get(i) or too_small(self.size(i), image_size) for i in unfit})
            self._looked_at = {*self._windows, *(FIELDS if prompts else ())}
            settings = {"image_size": image_size, "augment": augment, "recolor": recolor, "prompts": prompts}
            message = f"none of the {len(self)} records of {self.records.paths[0]} and others can be read; repair them"
            given = {"usable": large, "seed": self.seed, "whole": self.whole, "message": message, **settings}
            return stream_in_graph.drawer(self.records, headers, kinds, **given)
        texts = ("prompt", *self._captions) if prompts else ()
        dtypes = [*(tf.as_dtype(kind.dtype) for kind in kinds.values()), *(tf.string for _ in texts)]

        def read(index: np.ndarray, u: np.ndarray) -> list:
            example = self.example(int(index), u, image_size, prompts=prompts)
            return [*(example[key] for key in kinds), *(example[key].encode("utf-8") for key in texts)]

        def draw(index: tf.Tensor, seed: tf.Tensor) -> dict[str, tf.Tensor]:
            u = tf.random.stateless_uniform([5], seed)  # the first is unused: the index determines the image
            found = dict(zip((*kinds, *texts), tf.numpy_function(read, [index, u], dtypes), strict=True))
            example, colors = {}, seed if recolor else None
            for key, kind in kinds.items():
                found[key].set_shape([None, None, kind.channels])
                example[key] = resized(kind, found[key], image_size, u[4] < 0.5 if augment else None, colors)
            example |= {key: tf.ensure_shape(found[key], []) for key in texts}
            return example | ({REPLACED: tf.constant(0)} if REPLACED in self.provides else {})

        return draw

    def headers(self) -> Headers | None:
        """The headers of all files, which are read once; None where Python reads the records."""
        if not isinstance(self.records, Records):
            return None
        if not self._headers:

            def mismatch(key: str, size: tuple[int, int], whole: tuple[int, int]) -> str | None:
                return None if self.resizes else other_size(key, size, whole)

            self._headers.append(read_headers(self.records, self._windows, mismatch))
        return self._headers[0]

    def look_at(self, first: int, count: int) -> int:
        """Find out which records TensorFlow replaced in some examples, and why.

        Args:
            first: the first example.
            count: how many there are.

        Returns:
            How many records Python finds unreadable, too, as often as they were replaced.

        Raises:
            UserError: too many records are unreadable.
        """
        found, self.tally.tried = 0, max(self.tally.tried, first)  # the examples before these were read, too
        for index in range(first, first + count):
            epoch, start = divmod(index, len(self))
            for attempt in range(len(self)):
                record = self.record_at((start + attempt) % len(self), epoch)
                if record in self.tally.known:
                    continue
                try:
                    self._cut(self.records.read(record, self._looked_at), np.zeros(5), 1)
                except Unreadable as reason:
                    found += 1
                    self.tally.count(record, str(reason))
                else:
                    self.tally.count()
                    break
        return found

    def example(self, index: int, u: np.ndarray, image_size: Size, *, prompts: bool = True) -> dict:
        """The windows of an example, before they are shrunk.

        Args:
            index: the example's number.
            u: float32 [5] in [0, 1): u[1] gives the window's size, u[2] and u[3] its position.
            image_size: the smallest window, S or (height, width).
            prompts: whether texts are read; otherwise the prompt is "".

        Returns:
            {"image": uint8 [H, W, 3], "prompt": str}, the companion, of its kind's `dtype` [H, W, channels], and the
            captions that the records have, str. H = W for squares.

        Raises:
            UserError: too many records are unreadable.
        """
        count, fields = len(self.records), {*self._windows, *((*FIELDS, *self._captions) if prompts else ())}
        epoch, start = divmod(index, count)
        for attempt in range(count):
            record = self.record_at((start + attempt) % count, epoch)
            try:
                example = self._cut(self.records.read(record, fields), u, image_size)
            except Unreadable as reason:
                self.tally.count(record, str(reason))
            else:
                self.tally.count()
                return example
        raise UserError(f"none of the {count} records can be read: {first_of(self.unreadable)}")

    def record_at(self, place: int, epoch: int) -> int:
        """The record at a place of an epoch's order: a permutation of 0 .. N - 1."""
        return permuted(place, len(self.records), seed=self.seed, epoch=epoch)

    def window_size(self, u: float, size: tuple[int, int], image_size: Size) -> tuple[int, int]:
        """A window of an image, (height, width), drawn by u. Raises Unreadable if the image is too small."""
        return window_size(u, size, image_size)

    def size(self, i: int) -> tuple[int, int]:
        """(height, width) of the image of record i, of which only the header is decoded. Raises Unreadable."""
        if self._headers and (headers := self._headers[0]) is not None:
            if i in headers.bad:
                raise Unreadable(headers.bad[i])
            height, width = headers.size[i].tolist()
            return height, width
        fields = self.records.read(i, {"image"})
        if "image" not in fields:
            raise Unreadable("it has no image")
        return EncodedImage(fields["image"]).size

    def label(self, i: int) -> str:
        """The name of record i in messages."""
        return self.records.name(i)

    def chosen(self, numbers: Sequence[int]) -> Stream | None:
        """The source of some of the records; None where they cannot be chosen."""
        if not isinstance(self.records, Records):
            return None
        other = copy.copy(self)
        other.records = self.records.chosen(np.asarray(numbers, np.int64))
        other._headers = [one and one.chosen(numbers) for one in self._headers]
        other.tally = Tally(other.records.name, len(other.records), self.max_unreadable)
        return other

    def fitted(self, key: str, encoded: EncodedImage, size: tuple[int, int]) -> EncodedImage:
        """A companion of another size than its image's (height, width), in that size. Raises Unreadable."""
        raise Unreadable(other_size(key, encoded.size, size))

    def _cut(self, fields: dict[str, bytes], u: np.ndarray, image_size: Size) -> dict:
        """The same window of all images of a record, and the text. Raises Unreadable."""
        opened = {}
        for key in self._windows:
            if key not in fields:
                raise Unreadable(f"it has no {key}")
            opened[key] = EncodedImage(fields[key])
        size = opened["image"].size
        opened = {key: one if one.size == size else self.fitted(key, one, size) for key, one in opened.items()}
        high, _ = self.window_size(float(u[1]), size, image_size)
        # Several are not shrunk: their pixels must match.
        factor = high / sides(image_size)[0] if len(opened) == 1 else 1.0
        example: dict[str, str | np.ndarray] = {"prompt": text_of(fields)}
        example |= {key: fields.get(key, b"").decode("utf-8") for key in self._captions}
        for key, encoded in opened.items():
            image = encoded.shrunk(factor)
            width, height = image.size
            tall, wide = window_of(high * width / size[1], (height, width), image_size)  # after shrinking
            left, top = place(float(u[3]), width - wide), place(float(u[2]), height - tall)
            try:
                example[key] = companion(key).window(image, (left, top, left + wide, top + tall))
            except UserError as error:
                raise Unreadable(str(error)) from None
        return example


def other_size(key: str, size: tuple[int, int], whole: tuple[int, int]) -> str:
    """The reason why a companion of another size, (height, width), than its image's makes a record unreadable."""
    sizes = [f"{height}x{width}" for height, width in (size, whole)]
    return f"its {key} is {sizes[0]}, the image {sizes[1]}"


def warn_of_unreadable(source: object) -> None:
    """One warning for each `Stream` in the source, with its number of unreadable records and the first of them."""
    for part in getattr(source, "sources", (source,)):
        if isinstance(part, Stream) and (lines := part.unreadable):
            warnings.warn(
                f"{len(lines)} of {len(part)} records were unreadable, others replaced them: {first_of(lines)}",
                stacklevel=2,
            )
