"""Vocabularies that are learned from texts: by hand, and by transformers from the files that are saved."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
from tiny import tiny_base

from codi_tf.checkpoints.tokenizer import Tokenizer
from codi_tf.checkpoints.vocabulary import learn
from codi_tf.core.errors import UserError

BYTES = 514  # with start and end
CAPTIONS = ["a small red cube on a wooden floor", "a big red ball, and a cone at night", "the cone isn't red!"]


@pytest.mark.parametrize(
    ("texts", "merges"),
    [
        # the most frequent pair of neighbors, counted once for each time its word occurs
        (["aab AAB", "ab b"], [("a", "b</w>"), ("a", "ab</w>")]),
        # the first of equally frequent ones, in the order of their characters
        (["zw xy"], [("x", "y</w>"), ("z", "w</w>")]),
        # from the left, each letter once
        (["aaaa"], [("a", "a"), ("a", "a</w>"), ("aa", "aa</w>")]),
        # a pair that is gone from a word counts there no more
        (["abc abc bc ab"], [("b", "c</w>"), ("a", "bc</w>"), ("a", "b</w>")]),
        ([], []),
    ],
)
def test_pairs_are_merged_as_by_hand(texts, merges):
    """Catches counts that are wrong after a merge, ties that depend on the order, and merges across words."""
    tokenizer = learn(texts, 10_000)
    assert tokenizer.merges == merges
    assert learn(texts[::-1], 10_000).vocabulary == tokenizer.vocabulary
    assert len(tokenizer.vocabulary) == BYTES + len({"".join(pair) for pair in merges})


def test_each_word_of_the_captions_ends_as_one_token():
    tokenizer = learn(CAPTIONS, 10_000)
    words = "a small red cube on wooden floor big ball , and cone at night the isn 't !"
    assert tokenizer.known_words == frozenset(words.split(" "))
    for caption in CAPTIONS:
        assert len(tokenizer.encode(caption)) == len(tokenizer.words(caption))


def test_a_full_vocabulary_knows_its_first_merges_and_no_words():
    """Catches one token too many, which the text encoder has no embedding for."""
    whole = learn(CAPTIONS, 10_000)
    for size in (BYTES, BYTES + 7):
        part = learn(CAPTIONS, size)
        assert len(part.vocabulary) == size and part.merges == whole.merges[: len(part.merges)]
        assert part.known_words is None and part.unknown_words("a dragon") == []
    with pytest.raises(UserError, match="a vocabulary of 513 tokens is too small: it must have at least 514"):
        learn(CAPTIONS, 513)


def test_transformers_reads_its_files_and_gives_the_same_ids(tmp_path):
    """Catches files that only our own reader understands."""
    transformers = pytest.importorskip("transformers")
    tokenizer = learn([*CAPTIONS, "naïve 猫 façades"], BYTES + 60)
    tokenizer.save(tmp_path)
    texts = [*CAPTIONS, "", "A Dragon's café; 12 cubes 猫猫", "red " * 90]
    expected = transformers.CLIPTokenizer.from_pretrained(tmp_path)(
        texts, padding="max_length", max_length=77, truncation=True, return_tensors="np"
    ).input_ids
    again = Tokenizer.load(tmp_path)
    assert again.vocabulary == tokenizer.vocabulary and again.merges == tokenizer.merges
    for one in (tokenizer, again):
        np.testing.assert_array_equal(one.tokenize(texts)[0], expected)


def test_unknown_words_are_named_in_one_line(tmp_path):
    """Catches words that are lost on the way through a file, and a warning for each prompt or for known words."""
    learn(CAPTIONS, 10_000).save(tmp_path)
    base = tiny_base()
    base.tokenizer = Tokenizer.load(tmp_path)
    with pytest.warns(UserWarning) as caught:
        base.warn_of_unknown_words(["A RED dragon", "the café's dragon"])
    (line,) = [str(one.message) for one in caught]
    assert line == "the base was trained without these words of the prompt: 'dragon', 'café', \"'s\""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        base.warn_of_unknown_words([*CAPTIONS, ""])
        base.tokenizer = Tokenizer.from_merges([])
        base.warn_of_unknown_words(["a dragon"])  # of other vocabularies nothing is known
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**settings, "known_words": [1]}))
    with pytest.raises(UserError, match="known_words must be a list of words"):
        Tokenizer.load(tmp_path)
