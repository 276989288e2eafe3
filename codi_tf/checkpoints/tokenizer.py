"""CLIP's tokenizer: a prompt becomes 77 numbers by byte-pair encoding (Radford et al. 2021; Sennrich et al. 2016).

The numbers are those of transformers' CLIPTokenizer, without its optional clean-up by ftfy: composed characters (NFC),
white space as one space, lower case. Letters and numbers are told apart by Python's Unicode tables, so that a character
newer than they are counts as punctuation.
"""

from __future__ import annotations

import json
import re
import unicodedata
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from codi_tf.core.errors import UserError

LENGTH = 77
START, END = "<|startoftext|>", "<|endoftext|>"
VOCABULARY, MERGES, BOTH = "vocab.json", "merges.txt", "tokenizer.json"
SETTINGS, SPECIAL = "tokenizer_config.json", "special_tokens_map.json"
_WORD_END = "</w>"
_SPACE = re.compile("[\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+")  # Unicode's White_Space
# Words, sought in a copy of the text in which one ASCII character stands for each kind of other ones.
_WORDS = r"'(?:s|t|re|ve|m|ll|d)|[a-z]+|[0-9]|[^a-z0-9 ]+"
_PIECES = re.compile(rf"<\|(?:start|end)oftext\|>|{_WORDS}"), re.compile(_WORDS)


def _byte_letters() -> dict[int, str]:
    """A printable character for each byte: itself, or one from U+0100 on for those that are blank or control bytes."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}


_LETTER = _byte_letters()
_BYTE = {letter: bytes([byte]) for byte, letter in _LETTER.items()}


class Tokenizer:
    """Prompts -> token ids, int32 [B, 77]: start, at most 75 tokens, end, then padding.

    Args:
        vocabulary: token -> id. A token that ends in `</w>` ends a word.
        merges: pairs of tokens, the ones to merge first in front.
        padding: the token after the end: `<|endoftext|>` (Stable Diffusion 1.x) or `!` (2.x).
        special: the tokens that stand for themselves when they are written inside of a prompt, and whether upper case
            and lower case are the same there. By default start, end and padding, written exactly so.

    Raises:
        UserError: the vocabulary lacks a special token or a merged one.
    """

    length = LENGTH

    def __init__(
        self,
        vocabulary: Mapping[str, int],
        merges: Sequence[tuple[str, str]],
        *,
        padding: str = END,
        special: Mapping[str, bool] | None = None,
    ):
        special = {START: False, END: False, padding: False} if special is None else special
        for token in (START, END, padding, *special, *map("".join, merges)):
            if token not in vocabulary:
                raise UserError(f"the vocabulary lacks the token {token!r}: its files do not belong together")
        self.vocabulary, self.padding, self.special = dict(vocabulary), padding, dict(special)
        self.ranks = {pair: rank for rank, pair in enumerate(merges)}
        self._tokens = {number: token for token, number in vocabulary.items()}
        self._exact = _splitter(token for token, any_case in special.items() if not any_case)
        self._any_case = _splitter(token for token, any_case in special.items() if any_case)
        self._known: dict[str, list[int]] = {}
        self._files: dict[str, bytes] = {}

    @classmethod
    def load(cls, folder: str | Path, *, padding: str = END) -> Tokenizer:
        """Read a folder with `vocab.json` and `merges.txt`, or with the `tokenizer.json` that newer versions of
        transformers write in their place.

        Args:
            folder: with these files; the padding token is read from the settings beside them.
            padding: where there are no such settings.

        Raises:
            UserError: for a missing or broken file.
        """
        folder = Path(folder)
        files = {
            name: (folder / name).read_bytes()
            for name in (VOCABULARY, MERGES, BOTH, SETTINGS, SPECIAL)
            if (folder / name).is_file()
        }
        settings, special = (_json(folder / name, files.get(name, b"{}")) for name in (SETTINGS, SPECIAL))
        try:
            if VOCABULARY in files and MERGES in files:
                vocabulary = _json(folder / VOCABULARY, files[VOCABULARY])
                merges = files[MERGES].decode("utf-8").splitlines()
            elif BOTH in files:
                whole = _json(folder / BOTH, files[BOTH])
                vocabulary, merges = whole["model"]["vocab"], whole["model"]["merges"]
                settings["added_tokens_decoder"] = {token["id"]: token for token in whole["added_tokens"]}
            else:
                missing = MERGES if VOCABULARY in files else VOCABULARY
                raise UserError(f"{folder / missing}: no such file; name the tokenizer's folder or copy it again")
            if not all(type(number) is int and 0 <= number < 2**31 for number in vocabulary.values()):
                raise ValueError("ids must be whole numbers")
            told = {"pad_token": padding, **settings}
            tokenizer = cls(vocabulary, _pairs(merges), **_special_tokens(told, special))
        except UserError as error:
            raise error if str(folder) in str(error) else UserError(f"{folder}: {error}") from None
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise UserError(f"{folder}: not the files of a CLIP tokenizer ({error}); copy them again") from None
        if tokenizer.padding == _special_tokens(settings, special)["padding"]:
            tokenizer._files = files  # which would otherwise say something else
        return tokenizer

    @classmethod
    def from_merges(cls, merges: Sequence[tuple[str, str]], *, padding: str = END) -> Tokenizer:
        """A tokenizer with CLIP's vocabulary: the letters, the letters at a word's end, the merged, start and end."""
        letters = [*_LETTER.values(), *(letter + _WORD_END for letter in _LETTER.values())]
        tokens = dict.fromkeys([*letters, *map("".join, merges), START, END])
        return cls({token: i for i, token in enumerate(tokens)}, merges, padding=padding)

    def save(self, folder: str | Path) -> None:
        """Write the files into a folder, which is made: byte for byte where they were read from files."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in (self._files or self._new_files()).items():
            (folder / name).write_bytes(content)

    def __call__(self, prompts: str | Sequence[str]) -> np.ndarray:
        """Warns, with what was cut, where a prompt has more than 75 tokens."""
        prompts = [prompts] if isinstance(prompts, str) else prompts
        ids = np.full((len(prompts), LENGTH), self.vocabulary[self.padding], "int32")
        for row, prompt in zip(ids, prompts, strict=True):
            tokens = self.encode(prompt)
            if len(tokens) > LENGTH - 2:
                cut = self.decode(tokens[LENGTH - 2 :])
                warnings.warn(f"prompt of {len(tokens)} tokens, {LENGTH - 2} fit: cut off {cut!r}", stacklevel=2)
            tokens = [self.vocabulary[START], *tokens[: LENGTH - 2], self.vocabulary[END]]
            row[: len(tokens)] = tokens
        return ids

    def encode(self, text: str) -> list[int]:
        """The token ids of a text of any length, without start, end and padding.

        Raises:
            UserError: the text holds half of a character (a lone surrogate).
        """
        ids = []
        for part in self._exact.split(text):
            if self.special.get(part) is False:
                ids.append(self.vocabulary[part])
                continue
            for piece in self._any_case.split(_normal(part)):
                if self.special.get(piece):
                    ids.append(self.vocabulary[piece])
                    continue
                for word in _words(piece):
                    ids.extend(self._word_ids(word))
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, in lower case, with a space after each word."""
        text = "".join(self._tokens[number] for number in ids).replace(_WORD_END, " ")
        return b"".join(_BYTE[c] if c in _BYTE else c.encode() for c in text).decode("utf-8", "replace").strip()

    def _word_ids(self, word: str) -> list[int]:
        if word not in self._known:
            try:
                letters = [_LETTER[byte] for byte in word.encode("utf-8")]
            except UnicodeEncodeError:
                raise UserError(f"prompt: {word!r} is no text that UTF-8 can write; type it again") from None
            letters[-1] += _WORD_END
            unknown = self.vocabulary[END]
            self._known[word] = [self.vocabulary.get(token, unknown) for token in self._merged(letters)]
        return self._known[word]

    def _merged(self, tokens: list[str]) -> list[str]:
        """Merge the pair of lowest rank wherever it stands, from left to right, until none is left."""
        while True:
            pairs = [pair for pair in zip(tokens, tokens[1:], strict=False) if pair in self.ranks]
            if not pairs:
                return tokens
            best, merged = min(pairs, key=self.ranks.__getitem__), []
            for token in tokens:
                if merged and not merged[-1][1] and (merged[-1][0], token) == best:
                    merged[-1] = (merged[-1][0] + token, True)
                else:
                    merged.append((token, False))
            tokens = [token for token, _ in merged]

    def _new_files(self) -> dict[str, bytes]:
        merges = "".join(f"{first} {second}\n" for first, second in self.ranks)
        plain = {"lstrip": False, "rstrip": False, "single_word": False, "special": True}
        added = {
            str(self.vocabulary[token]): {"content": token, "normalized": any_case, **plain}
            for token, any_case in self.special.items()
        }
        roles = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": self.padding}
        settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": LENGTH, **roles}
        return {
            VOCABULARY: json.dumps(self.vocabulary, ensure_ascii=False).encode("utf-8"),
            MERGES: ("#version: 0.2\n" + merges).encode("utf-8"),
            SETTINGS: json.dumps({**settings, "added_tokens_decoder": added}, indent=2).encode("utf-8"),
        }


def _splitter(tokens: Iterator[str]) -> re.Pattern:
    """A pattern whose `split` puts every one of the tokens into a part of its own."""
    return re.compile("(" + ("|".join(map(re.escape, sorted(tokens, key=len, reverse=True))) or "(?!)") + ")")


def _normal(text: str) -> str:
    text = _SPACE.sub(" ", unicodedata.normalize("NFC", text))
    return "".join(c.lower() for c in text)  # one by one: a sigma at a word's end is no special case


def _stand_in(c: str) -> str:
    if c.isascii():
        return c
    kind = unicodedata.category(c)[0]
    return "q" if kind == "L" else "0" if kind == "N" else " " if _SPACE.match(c) else "!"


def _words(text: str) -> Iterator[str]:
    """The words of a normalised text: contractions, runs of letters, single numbers, runs of anything else."""
    kinds = "".join(map(_stand_in, text))
    pieces, words = _PIECES
    for piece in pieces.finditer(kinds):  # a special token's text that was not taken for one is a piece of its own
        for word in words.finditer(piece.group()):
            yield text[piece.start() + word.start() : piece.start() + word.end()]


def _json(path: Path, content: bytes) -> dict:
    try:
        value = json.loads(content.decode("utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not readable as JSON ({error}); copy or make it again") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: holds no JSON object; copy or make it again")
    return value


def _pairs(merges: Sequence[str | list[str]]) -> list[tuple[str, str]]:
    """Pairs from the lines of merges.txt (its first line is a remark) or from the entries of tokenizer.json."""
    pairs = []
    for number, merge in enumerate(merges, 1):
        pair = tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge)
        if isinstance(merge, str) and (merge.startswith("#version") or not merge):
            continue
        if len(pair) != 2:
            raise ValueError(f"merge {number} is {merge!r}, wanted two tokens")
        pairs.append(pair)
    return pairs


def _special_tokens(settings: dict, special: dict) -> dict:
    """The padding token and all special ones, from transformers' two files of settings, by its order of precedence."""
    added = settings.get("added_tokens_decoder", {})
    roles = {**settings, **({} if added else special)}
    tokens: dict[str, bool] = {}
    content = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END}
    for role in content:
        token = roles.get(role) or content[role]
        content[role] = token["content"] if isinstance(token, dict) else token
        tokens[content[role]] = token.get("normalized", True) if isinstance(token, dict) else False
    for token in added.values():
        tokens[token["content"]] = token.get("normalized", False)
    return {"padding": content["pad_token"], "special": tokens}
