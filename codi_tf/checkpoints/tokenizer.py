"""CLIP's tokenizer: a prompt becomes 77 token ids by byte-pair encoding (Radford et al. 2021; Sennrich et al. 2016).

The ids are those of transformers' CLIPTokenizer without its optional clean-up by ftfy. The text is composed (NFC), its
white space becomes single spaces, and it is lowercased; the library `tokenizers` does that and the encoding.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

from codi_tf.checkpoints.added_tokens import AddedToken, added_tokens
from codi_tf.core.errors import UserError
from codi_tf.core.paths import as_path
from codi_tf.core.showing import clipped
from codi_tf.io.json_files import MOST_BYTES, parse_json
from codi_tf.io.plain_files import read_plain

LENGTH = 77
LONGEST = 10_000  # characters of a prompt that are encoded
START, END = "<|startoftext|>", "<|endoftext|>"
VOCABULARY, MERGES, BOTH = "vocab.json", "merges.txt", "tokenizer.json"
SETTINGS, SPECIAL = "tokenizer_config.json", "special_tokens_map.json"
ADDED = "added_tokens.json"
KNOWN_WORDS = "known_words"  # key of ours in the settings
WORD_END = "</w>"
_WORDS = (
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d"  # special tokens as text, and contractions
    r"|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"  # runs of letters, single numbers, runs of anything else
)


def _byte_letters() -> list[str]:
    """The printable character that stands for each byte, in the order of CLIP's vocabulary.

    It is the byte's own character, or one from U+0100 on where that is blank or a control character.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    return [*map(chr, printable), *(chr(256 + i) for i in range(256 - len(printable)))]


class Tokenizer:
    """Prompts -> token ids, int32 [B, 77]: start, at most 75 tokens, end, then padding.

    Args:
        vocabulary: token -> id. A token that ends in `</w>` ends a word.
        merges: pairs of tokens to merge, in the order of their priority.
        padding: the token after the end: `<|endoftext|>` (Stable Diffusion 1.x) or `!` (2.x).
        special: tokens that are recognized as a whole inside a prompt -> whether in upper or lower case. By default
            start, end and padding, in exactly their spelling.
        added: tokens that were added to the vocabulary, as by textual inversion. One that the vocabulary has keeps its
            id there.
        known_words: all words of the captions that a base was trained with, as `words` gives them; None if there are
            too many, or they are not known.

    Attributes:
        vocabulary: with the added tokens.

    Raises:
        UserError: the vocabulary lacks a special token or one that `merges` names; two tokens have one id.
    """

    length = LENGTH

    def __init__(
        self,
        vocabulary: Mapping[str, int],
        merges: Sequence[tuple[str, str]],
        *,
        padding: str = END,
        special: Mapping[str, bool] | None = None,
        added: Sequence[AddedToken] = (),
        known_words: Collection[str] | None = None,
    ):
        special = {START: False, END: False, padding: False} if special is None else special
        parts = (token for pair in merges for token in ("".join(pair), *pair))
        known = {**vocabulary, **{one.content: one.id for one in added}}
        for token in (START, END, padding, *special, *parts):
            if token not in known:
                raise UserError(f"the vocabulary lacks the token {token!r}: its files do not belong together")
        self.vocabulary, self.padding, self.special = dict(vocabulary), padding, dict(special)
        self.added = [one._replace(id=vocabulary.get(one.content, one.id)) for one in added]
        holders = {number: token for token, number in vocabulary.items()}
        for one in self.added:
            if holders.setdefault(one.id, one.content) != one.content:
                raise UserError(f"the added token {one.content!r} has the id {one.id}, which {holders[one.id]!r} has")
            self.vocabulary[one.content] = one.id
        self.merges = list(dict.fromkeys(merges))
        self.known_words = None if known_words is None else frozenset(known_words)
        self._encoder = _encoder(self.vocabulary, self.merges, self.special, self.added)
        self._files: dict[str, bytes] = {}

    @classmethod
    def load(cls, folder: str | Path, *, padding: str = END) -> Tokenizer:
        """Read a folder with `vocab.json` and `merges.txt`, or with the `tokenizer.json` of newer transformers.

        Tokens that were added, as by textual inversion, are read from any layout, see `added_tokens`.

        Args:
            folder: the folder, whose settings (`tokenizer_config.json`) name the padding token.
            padding: the padding token of a folder without these settings.

        Raises:
            UserError: a missing or broken file.
        """
        folder = as_path(folder)
        files = {
            name: _content(folder / name)
            for name in (VOCABULARY, MERGES, BOTH, SETTINGS, SPECIAL, ADDED)
            if (folder / name).is_file()
        }
        settings, special, listed, whole = (
            parse_json(files.get(name, b"{}"), folder / name) for name in (SETTINGS, SPECIAL, ADDED, BOTH)
        )
        try:
            if VOCABULARY in files and MERGES in files:
                vocabulary = parse_json(files[VOCABULARY], folder / VOCABULARY)
                merges = files[MERGES].decode("utf-8").splitlines()
            elif BOTH in files:
                vocabulary, merges = whole["model"]["vocab"], whole["model"]["merges"]
                settings["added_tokens_decoder"] = {token["id"]: token for token in whole["added_tokens"]}
            else:
                missing = MERGES if VOCABULARY in files else VOCABULARY
                raise UserError(f"{folder / missing}: no such file; name the tokenizer's folder or copy it again")
            if not all(type(number) is int and 0 <= number < 2**31 for number in vocabulary.values()):
                raise ValueError("ids must be whole numbers")
            named = _special_tokens({"pad_token": padding, **settings}, special)
            added = added_tokens(whole, settings, listed, vocabulary)
            named["special"] = _without(named["special"], added)
            known = settings.get(KNOWN_WORDS)
            if known is not None and not (isinstance(known, list) and all(isinstance(word, str) for word in known)):
                raise ValueError(f"{KNOWN_WORDS} must be a list of words")
            tokenizer = cls(vocabulary, _pairs(merges), **named, added=added, known_words=known)
        except UserError as error:
            raise error if str(folder) in str(error) else UserError(f"{folder}: {error}") from None
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise UserError(f"{folder}: not the files of a CLIP tokenizer ({error}); copy them again") from None
        if tokenizer.padding == _special_tokens(settings, special)["padding"]:
            tokenizer._files = files  # only then: otherwise the files name another padding token
        return tokenizer

    @classmethod
    def from_merges(
        cls, merges: Sequence[tuple[str, str]], *, padding: str = END, known_words: Collection[str] | None = None
    ) -> Tokenizer:
        """A tokenizer with CLIP's vocabulary: bytes, bytes at the end of a word, merged tokens, start and end."""
        letters = _byte_letters()
        ends = [letter + WORD_END for letter in letters]
        tokens = dict.fromkeys([*letters, *ends, *map("".join, merges), START, END])
        vocabulary = {token: i for i, token in enumerate(tokens)}
        return cls(vocabulary, merges, padding=padding, known_words=known_words)

    def save(self, folder: str | Path) -> None:
        """Write the files into a folder, which is made if it is missing. Files that were read stay byte for byte."""
        folder = as_path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in (self._files or self._new_files()).items():
            (folder / name).write_bytes(content)

    def __call__(self, prompts: str | Sequence[str]) -> np.ndarray:
        """Token ids of prompts, int32 [B, 77].

        Warns once if there are prompts of more than 75 tokens: of their number, the first, and what is cut off of it.

        Raises:
            UserError: see `encode`.
        """
        ids, long = self.tokenize([prompts] if isinstance(prompts, str) else prompts)
        if long:
            prompt, count = next(iter(long.items()))
            cut = clipped(self.decode(self.encode(_beginning(prompt))[LENGTH - 2 :]), 200)
            first = f"prompt of {count} tokens, {LENGTH - 2} fit: cut off {cut!r}"
            others = f" (the first of {len(long)} that are cut off)" if len(long) > 1 else ""
            warnings.warn(first + others, stacklevel=2)
        return ids

    def tokenize(self, prompts: Sequence[str]) -> tuple[np.ndarray, dict[str, int]]:
        """Token ids of prompts, int32 [B, 77]; and of each prompt of more than 75 tokens, how many it has.

        Raises:
            UserError: see `encode`.
        """
        ids, long = np.full((len(prompts), LENGTH), self.vocabulary[self.padding], "int32"), {}
        for row, prompt in zip(ids, prompts, strict=True):
            tokens = self.encode(_beginning(prompt))
            if len(tokens) > LENGTH - 2:
                long[prompt] = len(tokens)
            tokens = [self.vocabulary[START], *tokens[: LENGTH - 2], self.vocabulary[END]]
            row[: len(tokens)] = tokens
        return ids, long

    def encode(self, text: str) -> list[int]:
        """The token ids of a text of any length, without start, end and padding.

        Raises:
            UserError: the text holds half of a character (a lone surrogate).
        """
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            raise UserError(f"prompt: {text!r} is no text that UTF-8 can write; type it again") from None
        return self._encoder.encode(text, add_special_tokens=False).ids

    def words(self, text: str) -> list[str]:
        """The words of a text before they are split into tokens, each byte as its letter; no special tokens."""
        normal = self._encoder.normalizer.normalize_str(text)
        return [word for word, _ in self._encoder.pre_tokenizer.pre_tokenize_str(normal) if word not in self.special]

    def unknown_words(self, text: str) -> list[str]:
        """The words of a text that are not among the `known_words`, in lower case; [] where these are None."""
        if self.known_words is None:
            return []
        strange = [word for word in self.words(_beginning(text)) if word not in self.known_words]
        return [self._encoder.decoder.decode([word]) for word in strange]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, in lower case, with a space after each word."""
        return self._encoder.decode(list(ids), skip_special_tokens=False).replace(WORD_END, " ").strip()

    def _new_files(self) -> dict[str, bytes]:
        merges = "".join(f"{first} {second}\n" for first, second in self.merges)
        names = {one.content for one in self.added}
        plain = {"lstrip": False, "rstrip": False, "single_word": False, "special": True}
        added = {
            str(self.vocabulary[token]): {"content": token, "normalized": any_case, **plain}
            for token, any_case in self.special.items()
        }
        added |= {str(one.id): {**one._asdict(), "special": False} for one in self.added}
        vocabulary = {token: number for token, number in self.vocabulary.items() if token not in names}
        roles = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": self.padding}
        settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": LENGTH, **roles}
        settings |= {} if self.known_words is None else {KNOWN_WORDS: sorted(self.known_words)}
        return {
            VOCABULARY: json.dumps(vocabulary, ensure_ascii=False).encode("utf-8"),
            MERGES: ("#version: 0.2\n" + merges).encode("utf-8"),
            SETTINGS: json.dumps({**settings, "added_tokens_decoder": added}, indent=2).encode("utf-8"),
        }


def _encoder(
    vocabulary: dict[str, int],
    merges: list[tuple[str, str]],
    special: Mapping[str, bool],
    added: Sequence[AddedToken],
) -> tokenizers.Tokenizer:
    """Byte-pair encoding as transformers' CLIPTokenizer sets it up; unknown bytes become the end token."""
    model = models.BPE(vocab=vocabulary, merges=merges, end_of_word_suffix=WORD_END, unk_token=END, fuse_unk=False)
    encoder = tokenizers.Tokenizer(model)
    encoder.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(tokenizers.Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    words = pre_tokenizers.Split(tokenizers.Regex(_WORDS), behavior="removed", invert=True)
    encoder.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    encoder.decoder = decoders.ByteLevel()
    encoder.add_special_tokens(
        [tokenizers.AddedToken(token, normalized=any_case) for token, any_case in special.items()]
    )
    for one in added:
        flags = {name: value for name, value in one._asdict().items() if name not in ("content", "id")}
        encoder.add_tokens([tokenizers.AddedToken(one.content, special=False, **flags)])
    return encoder


def _beginning(prompt: str) -> str:
    """As much of a prompt as 75 tokens can hold: encoding a megabyte takes seconds, and nearly all of it is cut off."""
    return prompt if len(prompt) <= LONGEST else " ".join(prompt.split())[:LONGEST]


def _content(path: Path) -> bytes:
    try:
        return read_plain(path, MOST_BYTES)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}); copy it again") from None


def _pairs(merges: Sequence[str | list[str]]) -> list[tuple[str, str]]:
    """The pairs in the lines of merges.txt, whose first line is a comment, or in the entries of tokenizer.json."""
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
    """The padding token and all special tokens, from transformers' two settings files and with its precedence."""
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


def _without(special: Mapping[str, bool], added: Sequence[AddedToken]) -> dict[str, bool]:
    """The special tokens that the vocabulary has itself."""
    names = {one.content for one in added}
    return {token: any_case for token, any_case in special.items() if token not in names}
