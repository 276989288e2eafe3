"""Learning the vocabulary of a tokenizer from texts, for a base that is trained anew."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from itertools import pairwise

from codi_tf.checkpoints.tokenizer import WORD_END, Tokenizer
from codi_tf.core.errors import UserError

Pair = tuple[str, str]


def learn(texts: Iterable[str], size: int) -> Tokenizer:
    """The tokenizer of CLIP's kind that byte-pair encoding learns from texts (Sennrich et al. 2016, algorithm 1).

    The most frequent pair of neighboring tokens becomes a token, of equally frequent pairs the first in the order of
    their characters, until the vocabulary is full or each word is one token. So the result depends on nothing but the
    words and how often they occur. If each of them is one token in the end, they are the tokenizer's `known_words`.

    Args:
        texts: the texts.
        size: the most tokens of the vocabulary, with the 512 of bytes, start and end.

    Raises:
        UserError: the size leaves no room for the bytes, start and end.
    """
    plain = Tokenizer.from_merges([])
    known = set(plain.vocabulary)
    if size < len(known):
        raise UserError(f"a vocabulary of {size} tokens is too small: it must have at least {len(known)}")
    counted = Counter(word for text in texts for word in plain.words(text))
    words = {word: [*word[:-1], word[-1] + WORD_END] for word in counted}
    counts: Counter[Pair] = Counter()  # how often a pair stands in the texts
    holders: defaultdict[Pair, set[str]] = defaultdict(set)  # the words that have it, or had it
    for word, tokens in words.items():
        for pair in pairwise(tokens):
            counts[pair] += counted[word]
            holders[pair].add(word)
    merges: list[Pair] = []
    while len(known) < size and counts:
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        merges.append(best)
        known.add("".join(best))
        for word in holders.pop(best):
            before, words[word] = words[word], _merged(words[word], best)
            for pair in pairwise(before):
                counts[pair] -= counted[word]
            for pair in pairwise(words[word]):
                counts[pair] += counted[word]
                holders[pair].add(word)
        counts = +counts  # without those that are gone
    whole = all(len(tokens) == 1 for tokens in words.values())
    return Tokenizer.from_merges(merges, known_words=words if whole else None)


def _merged(tokens: list[str], pair: Pair) -> list[str]:
    """The tokens with each occurrence of a pair, from the left, as one token."""
    result: list[str] = []
    for token in tokens:
        if result and (result[-1], token) == pair:
            result[-1] += token
        else:
            result.append(token)
    return result
