"""Tokens that were added to a tokenizer, as textual inversion does, from the three layouts of their files.

transformers writes them into `tokenizer.json`, into `added_tokens_decoder` of `tokenizer_config.json`, or, before 4.34,
into `added_tokens.json`. Tokens that only the last one names count, too (docs/deviations.md).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple


class AddedToken(NamedTuple):
    """A token that is recognized as a whole inside a prompt; the names are those of the library `tokenizers`.

    Attributes:
        content: the token.
        id: its id.
        normalized: whether it is found in upper as well as in lower case.
        lstrip, rstrip: whether white space to its left or right belongs to it.
        single_word: whether it is found only where no letter, number or _ is next to it.
    """

    content: str
    id: int
    normalized: bool = True
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False


def added_tokens(whole: Mapping, settings: Mapping, listed: Mapping, vocabulary: Collection[str]) -> list[AddedToken]:
    """The tokens that the vocabulary does not have itself.

    Args:
        whole: the contents of tokenizer.json.
        settings: of tokenizer_config.json.
        listed: of added_tokens.json.
        vocabulary: the tokens of vocab.json.

    Raises:
        AttributeError, KeyError, TypeError, ValueError: other contents.
    """
    decoder = settings.get("added_tokens_decoder") or {}
    entries = {entry["content"]: {**entry, "id": entry["id"]} for entry in whole.get("added_tokens") or []}
    entries |= {entry["content"]: {**entry, "id": int(number)} for number, entry in decoder.items()}
    taken = {entry["id"] for entry in entries.values()}
    entries |= {
        content: {"id": number} for content, number in listed.items() if content not in entries and number not in taken
    }
    return [_token(content, entry) for content, entry in entries.items() if content not in vocabulary]


def _token(content: str, entry: Mapping) -> AddedToken:
    if not content or not isinstance(content, str):
        raise ValueError(f"an added token is {content!r}")
    if type(entry["id"]) is not int or not 0 <= entry["id"] < 2**31:
        raise ValueError(f"the added token {content!r} has the id {entry['id']!r}")
    flags = {name: bool(entry.get(name, False)) for name in ("lstrip", "rstrip", "single_word")}
    return AddedToken(content, entry["id"], bool(entry.get("normalized", not entry.get("special", False))), **flags)
