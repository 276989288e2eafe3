"""CLIP's tokenizer in operations of TensorFlow, for plain texts: the ids of `checkpoints.tokenizer.Tokenizer`.

A text is plain if it consists of printable characters of ASCII without those of `SPECIAL`. Such texts need no
composition (NFC) and hold no special token.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np
import tensorflow as tf

from codi_tf.checkpoints.tokenizer import END, LENGTH, START, WORD_END, Tokenizer
from codi_tf.core.tensors import Tensor

CUT = "cut"  # key of batches: 1 for a prompt that was cut off, else 0
SPECIAL = "<|>!"  # each special token has one of these characters
_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[a-z]+|[0-9]|[^\sa-z0-9]+"  # in lower case, as `tokenizer` splits
_NONE = np.int64(1 << 40)  # the rank of a pair that is not merged


def is_plain(text: str) -> bool:
    """Whether operations of TensorFlow can tokenize a text."""
    return text.isascii() and (text.isprintable() or not text) and not set(text) & set(SPECIAL)


def can_tokenize(tokenizer: object, source: Any) -> bool:
    """Whether all prompts of a source are plain, and a tokenizer's special tokens are not."""
    if not isinstance(tokenizer, Tokenizer) or tokenizer.added:
        return False
    return bool(getattr(source, "plain_prompts", False)) and all(set(one) & set(SPECIAL) for one in tokenizer.special)


def tokenized_in_graph(tokenizer: Tokenizer) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """A function from plain prompts, string [B], to their tokens, int32 [B, 77], and whether each was cut, bool [B]."""
    ids = tokenizer.vocabulary
    unknown, end, padding = ids[END], ids[END], ids[tokenizer.padding]
    letters = np.array([ids.get(chr(byte), unknown) for byte in range(128)], np.int64)
    last_letters = np.array([ids.get(chr(byte) + WORD_END, unknown) for byte in range(128)], np.int64)
    codes = np.array([ids[a] << 32 | ids[b] for a, b in tokenizer.merges], np.int64)
    order = np.argsort(codes)
    joined = np.array([ids[a + b] for a, b in tokenizer.merges], np.int64)[order]
    codes = codes[order]

    def merge_best(tokens: Tensor, _: Tensor) -> tuple[Tensor, Tensor]:
        """Merge the first of the pairs of lowest rank in each word, int64 [W, L], which is filled up with -1."""
        after = tf.concat([tokens[:, 1:], tf.fill([tf.shape(tokens)[0], 1], np.int64(-1))], axis=1)
        pairs = tf.bitwise.bitwise_or(tf.bitwise.left_shift(tf.maximum(tokens, 0), np.int64(32)), tf.maximum(after, 0))
        flat = tf.reshape(pairs, [-1])
        at = tf.minimum(tf.searchsorted(codes, flat), len(codes) - 1)
        is_pair = tf.logical_and(tf.gather(codes, at) == flat, tf.reshape(after >= 0, [-1]))
        ranks = tf.reshape(tf.where(is_pair, tf.gather(order, at), _NONE), tf.shape(pairs))
        best = tf.argmin(ranks, axis=1)
        merged = tf.gather(tf.reshape(tf.gather(joined, at), tf.shape(pairs)), best, axis=1, batch_dims=1)
        place, best = tf.range(tf.shape(pairs, tf.int64)[1])[tf.newaxis], best[:, tf.newaxis]
        shorter = tf.where(place < best, tokens, tf.where(place == best, merged[:, tf.newaxis], after))
        found = tf.reduce_min(ranks, axis=1, keepdims=True) < _NONE
        return tf.where(found, shorter, tokens), tf.reduce_any(found)

    def tokenize(prompts: Tensor) -> tuple[Tensor, Tensor]:
        spaced = tf.strings.regex_replace(tf.strings.lower(prompts), f"({_WORDS})", r" \1 ")
        words = tf.strings.split(spaced)  # [B, words]
        size = tf.cast(tf.strings.length(words.values), tf.int64)[:, tf.newaxis]
        longest = tf.cast(tf.maximum(tf.reduce_max(size), 1), tf.int32)
        content = tf.cast(tf.io.decode_raw(words.values, tf.uint8, fixed_length=longest), tf.int32)
        place = tf.range(tf.cast(longest, tf.int64))[tf.newaxis]
        tokens = tf.where(place == size - 1, tf.gather(last_letters, content), tf.gather(letters, content))
        tokens = tf.where(place < size, tokens, np.int64(-1))
        if len(codes):
            tokens, _ = tf.while_loop(
                lambda _, changed: changed,
                merge_best,
                (tokens, tf.size(tokens) > 0),
                shape_invariants=(tf.TensorShape([None, None]), tf.TensorShape([])),
            )
        counts = tf.reduce_sum(tf.cast(tokens >= 0, tf.int64), axis=1)
        of_words = cast(Any, tf.RaggedTensor).from_tensor(tokens, lengths=counts)
        found = words.with_values(of_words).merge_dims(1, 2)  # [B, tokens]
        cut = found.row_lengths() > LENGTH - 2
        edge = tf.ones([tf.shape(prompts)[0], 1], tf.int64)
        found = tf.concat([ids[START] * edge, found[:, : LENGTH - 2], end * edge], axis=1)
        padded = found.to_tensor(default_value=np.int64(padding), shape=[None, LENGTH])
        return tf.ensure_shape(tf.cast(padded, tf.int32), [prompts.shape[0], LENGTH]), cut

    return tokenize
