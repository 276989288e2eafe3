"""Tokens by operations of TensorFlow: those of the tokenizer, number for number."""

from __future__ import annotations

import random

import numpy as np
import pytest
import tensorflow as tf
from shards import new_image

from codi_tf import data
from codi_tf.checkpoints.tokenizer import Tokenizer
from codi_tf.checkpoints.vocabulary import learn
from codi_tf.data.counts import Counts
from codi_tf.data.service import callbacks
from codi_tf.data.tokens_in_graph import CUT, SPECIAL, is_plain, tokenized_in_graph

TEXT = "a large red cube, two small spheres on a wooden floor; it's 3 o'clock (noon) - they've 12 things left of it"
PLAIN = "".join(chr(byte) for byte in range(32, 127) if chr(byte) not in SPECIAL)


@pytest.fixture(scope="module")
def tokenizer():
    return learn([TEXT, "spheres spheres there the theater then"] * 2, 590)


def test_the_tokens_are_those_of_the_tokenizer(tokenizer):
    """Faults: a merge of higher rank first, a contraction that is split, digits as one word, an end that is lost."""
    draw = random.Random(0)
    words = [*TEXT.split(), "thethe", "IT'S", "''s", "12.5", "_x_", "q" * 90, "-" * 7, "ssss"]
    texts = ["", "  ", PLAIN, TEXT, "the " * 75, "the " * 76, "q" * 200]
    texts += [draw.choice(["", " ", "  "]).join(draw.choices(words, k=draw.randrange(1, 30))) for _ in range(40)]
    texts += ["".join(draw.choices(PLAIN, k=40)) for _ in range(20)]
    assert all(map(is_plain, texts))
    for one in (tokenizer, Tokenizer.from_merges([]), Tokenizer.from_merges(tokenizer.merges[::-1], padding="!")):
        expected, long = one.tokenize(texts)
        tokens, cut = tf.function(tokenized_in_graph(one))(tf.constant(texts))
        np.testing.assert_array_equal(tokens, expected)
        assert [text in long for text in texts] == cut.numpy().tolist() and any(long)


def test_what_is_not_plain():
    for text in ("é", "a|b", "<b", "a\tb", "wow!", "\x7f"):
        assert not is_plain(text), text


@pytest.mark.parametrize("name", ["scenes", "photos"])
def test_a_training_with_prompts_needs_no_python(tokenizer, name):
    texts = {"a": "a cube", "b": "theater " * 76}
    source = data.load_source("scenes", "train")
    source = source if name == "scenes" else data.Photos({k: new_image(0) for k in texts}, prompts=texts)
    options = {"image_size": 16, "batch_size": 8, "seed": 0, "tokenizer": tokenizer}
    assert data.counted_keys(source, tokenizer) == (CUT,)
    ours = data.batches(source, None, keys=(CUT,), **options)
    theirs = data.batches(source, None, **options)
    assert callbacks(theirs) and not callbacks(ours)
    found = next(iter(ours))
    np.testing.assert_array_equal(found["tokens"], next(iter(theirs))["tokens"])
    if name == "photos":  # one of the two prompts is too long
        assert 0 < sum(found[CUT].numpy()) < 8


def test_prompts_that_are_cut_are_told(recwarn):
    counts = Counts([])
    for cut in (0.0, 4.0, 5.0, 1.0, 3.0):
        counts.add(8, cut=cut)
    assert [str(one.message).rpartition(": ")[2] for one in recwarn] == ["4", "10"]
