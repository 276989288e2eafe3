"""The prompts of images: from the bytes of caption files to tokens, and warnings of missing and long ones."""

from __future__ import annotations

import codecs
import json
import threading
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np
import tensorflow as tf

from codi_tf.checkpoints.tokenizer import Tokenizer
from codi_tf.core.errors import UserError
from codi_tf.core.showing import clipped, shown
from codi_tf.data.in_memory import Prompts
from codi_tf.data.records import Readable, Unreadable
from codi_tf.data.unreadable import JUDGED
from codi_tf.io.hashing import text_sha256
from codi_tf.io.json_files import parse_value

FIELDS = ("text", "json")  # of a record
KEYS = ("caption", "text", "prompt")  # of a JSON object, the first that is there
SHOWN = 60  # characters of a prompt in a message
MARKS = (  # byte order marks; that of UTF-32 begins like that of UTF-16
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


def text_of(fields: Mapping[str, bytes]) -> str:
    """The prompt of a record, on one line: NAME.txt, or else "caption", "text" or "prompt" of NAME.json; "" for none.

    Files are UTF-8, or UTF-16 or UTF-32 with a byte order mark. Of a list of captions the first is taken.

    Raises:
        Unreadable: another encoding, no JSON, or a caption that is no text.
    """
    try:
        text = " ".join(_decoded(fields.get("text", b"")).split())
        return text or " ".join(_caption(parse_value(_decoded(fields.get("json", b"{}")), "JSON")).split())
    except ValueError as error:  # of decoders; a UserError is one
        raise Unreadable(f"its text is damaged ({error})") from None


def _decoded(content: bytes) -> str:
    """The text of bytes. Raises ValueError."""
    mark, encoding = next((one for one in MARKS if content.startswith(one[0])), (b"", "utf-8"))
    text = content[len(mark) :].decode(encoding)
    if "\0" in text:
        raise ValueError("it holds NUL characters; UTF-16 needs a byte order mark")
    return text


def _caption(value: object) -> str:
    """The caption in what a JSON file holds. Raises Unreadable, and ValueError for half of a character."""
    if isinstance(value, dict):
        value = next((value[key] for key in KEYS if value.get(key)), "")
    if isinstance(value, list) and value and all(isinstance(one, str) for one in value):
        value = value[0]
    if not isinstance(value, str):
        raise Unreadable(f"its caption is {shown(value)}, not a text")
    value.encode("utf-8")
    return value


def prompts_of(records: Readable, numbers: Mapping[str, int]) -> Callable[[], Prompts] | None:
    """A function that reads the prompts of images in memory; None for records without texts.

    Args:
        records: the records.
        numbers: name -> number of its record.
    """
    if not set(FIELDS) & set(records.fields):
        return None

    def read() -> Prompts:
        prompts = Prompts({}, {})
        for name, number in numbers.items():
            try:
                prompts.texts[name] = text_of(records.read(number, FIELDS))
            except Unreadable as reason:
                prompts.damaged[name] = str(reason)
        return prompts

    return read


def check_prompts(missing: int, count: int) -> None:
    """Say how many of the images that a run trains on have no prompt. Raises UserError if none has one."""
    if missing and missing == count:
        raise UserError(
            f"none of these {count} images has a prompt: add NAME.txt, or NAME.json with "
            f'"caption", or train without prompts'
        )
    if missing:
        warnings.warn(f"{missing} of {count} images have no prompt, and take the empty one", stacklevel=3)


def tokenized(
    tokenizer: Callable[[Sequence[str]], np.ndarray], *, counted: bool
) -> Callable[[dict[str, tf.Tensor]], dict[str, tf.Tensor]]:
    """A function that replaces "prompt" of a batch, string [B], by "tokens", int32 [B, M].

    Prompts that are cut off are counted, and named when there are 1, 10, 100, ... of them.

    Args:
        tokenizer: texts -> int32 [B, M].
        counted: whether empty prompts were counted before (`check_prompts`). If not, they are counted here, too, and a
            UserError is raised when all of the first 400 are empty.
    """
    length, said = len(tokenizer([""])[0]), _Said(counted)

    def tokens_of(prompts: np.ndarray) -> np.ndarray:
        texts = [prompt.decode("utf-8") for prompt in prompts]
        if isinstance(tokenizer, Tokenizer):
            ids, cut = tokenizer.tokenize(texts)
        else:
            ids, cut = tokenizer(texts), {}
        said.count(texts, cut)
        return np.asarray(ids, np.int32)

    def tokenize(batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        prompts = batch["prompt"]
        tokens = tf.numpy_function(tokens_of, [prompts], tf.int32, stateful=False)
        others = {name: value for name, value in batch.items() if name != "prompt"}
        return others | {"tokens": tf.ensure_shape(tokens, (prompts.shape[0], length))}

    return tokenize


def tokenizer_sha256(tokenizer: Tokenizer) -> str:
    """SHA-256 of everything that determines the token ids of a text."""
    parts = [sorted(tokenizer.vocabulary.items()), tokenizer.merges, tokenizer.padding, tokenizer.special]
    parts += [tokenizer.added] if tokenizer.added else []  # without any, the digest is that of 0.1.0
    return text_sha256(json.dumps(parts))


class _Said:
    """Counts of the prompts that were read so far, across the threads of a dataset."""

    def __init__(self, counted: bool):
        self.counted = counted
        self.read, self.empty, self.long, self.lock = 0, 0, set(), threading.Lock()

    def count(self, texts: Collection[str], cut: Mapping[str, int]) -> None:
        """Count the prompts of a batch; `cut` is: prompt -> the number of its tokens, of those that are too long."""
        with self.lock:
            before = self.empty, len(self.long)
            self.read += len(texts)
            self.empty += sum(not text for text in texts)
            self.long |= {hash(text) for text in cut}
            now, read = (self.empty, len(self.long)), self.read
        if not self.counted and now[0] == read >= JUDGED:
            raise UserError(f"none of the first {read} prompts has a word: name other data, or train without prompts")
        if not self.counted and has_reached_a_power_of_ten(before[0], now[0]):
            warnings.warn(f"{now[0]} of {read} prompts read so far are empty", stacklevel=2)
        if has_reached_a_power_of_ten(before[1], now[1]):
            text, tokens = next(iter(cut.items()))
            warnings.warn(
                f"prompts cut off so far, because they are too long: {now[1]}, for example one of {tokens} tokens, "
                f"{clipped(text, SHOWN)!r}",
                stacklevel=2,
            )


def has_reached_a_power_of_ten(before: int, now: int) -> bool:
    """Whether a count that is now another has reached 1, 10, 100, ... on its way."""
    return len(str(now)) > len(str(before)) or before == 0 < now
