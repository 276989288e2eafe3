"""The tokenizer against transformers' CLIPTokenizer on a small vocabulary that is learned here, number for number."""

from __future__ import annotations

import json
import random
import shutil
import unicodedata
import warnings
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from codi_tf.checkpoints.tokenizer import Tokenizer
from codi_tf.core.errors import UserError

CLIPTokenizer = pytest.importorskip("transformers").CLIPTokenizer

START, END = "<|startoftext|>", "<|endoftext|>"
TEXT = """a photograph of an astronaut riding a horse on the moon, highly detailed, don't look, it's the 1980s and we'll
see the other three theatres in naïve façades!!! the cat sat on that mat... 猫 猫 ああ the café she's he'd they've"""
PROMPTS = {
    "empty": "",
    "blank": " \t\n ",
    "plain": "a photograph of an astronaut riding a horse",
    "case": "The ASTRONAUT On A Horse",
    "numbers": "1980s 12 345.67 x2 ²½٣Ⅷ一",
    "contractions": "don't it's we'll he'd they've I'm you're o'clock 'start ''s !'s DON'T don’t",
    "punctuation": "!!! ... ?!?!,;: -- (a:1.2) [b] {c} _x_ a_b #tag @me $5 50%",
    "white space": "  a\u00a0b\u3000c\u2003d\u0085e\u2028f\r\n\tg  ",
    "no white space": "a\x1cb\x1fc\u200bd\u180ee\ufefff",
    "control characters": "a\x00b\x07c\x1b[0m\x7f\x80",
    "accents": "naïve façades Ünïcödé İstanbul ıßẞ ǅ",
    "composed and decomposed": "caf\u00e9 cafe\u0301 a\u030a \u212b q\u0307\u0323",
    "Greek": "ΟΔΥΣΣΕΥΣ Σ σίσυφος",
    "other letters": "猫があああ 汉字 한국어 हिन्दी ไทย עברית العربية ﬁ ſ",
    "emoji": "🙂👩\u200d👩\u200d👧 🏳️\u200d🌈 ©™ 👍🏽",
    "looks like HTML": "<b>a &amp; b</b> &lt;|endoftext|&gt; <|x|> &#39;s",
    "start and end inside": f"{START}the cat{END}!! {END}{END}",
    "start and end in another case": "the cat!!<|ENDOFTEXT|>!! <|StartOfText|>s<|startoftext |>",
    "padding inside": "hello! the! !!",
    "quotes": "\"quoted\" ‘single’ “double” `back` 'the'",
    "as long as fits": "the " * 75,
    "too long": "the " * 76,
    "one word too long": "q" * 200,
    "too long, cut inside a character": "x " * 73 + "猫猫",
}
# The random characters that Python's tables know; the ones of newer Unicode versions may differ between libraries.
FRAGMENTS = ["the", "THE", "'s", "'re", "'", "!", "!!", "é", "e\u0301", "İ", "ß", "Σ", "ǅ", "n\u0308", "猫", "かな"]
FRAGMENTS += ["हि", "🙂", "½", "٣", "1", "23", "<b>", "&amp;", "—", "_", "a_b", "don't", "I'LL", "|>", "<|", " ", "\n"]
FRAGMENTS += ["\u3000", "\u0085", "\x00", "\x1c", "\u200b", END, "<|ENDOFTEXT|>", START, "<|StartOfText|>"]


def learn(text: str, count: int) -> list[tuple[str, str]]:
    """Byte-pair encoding's merges: `count` times the pair that is most frequent in the text."""
    alphabet = byte_letters()
    words = []
    for word in text.split():
        letters = [alphabet[byte] for byte in word.encode()]
        words.append([*letters[:-1], letters[-1] + "</w>"])
    merges = []
    for _ in range(count):
        best = Counter(pair for word in words for pair in pairwise(word)).most_common(1)[0][0]
        merges.append(best)
        for word in words:
            i = 0
            while i < len(word) - 1:
                if (word[i], word[i + 1]) == best:
                    word[i : i + 2] = ["".join(best)]
                i += 1
    return merges


def byte_letters() -> list[str]:
    """The alphabet of byte-level encoding, by tokenizers' own account of it; in the order of the bytes."""
    pre_tokenizers = pytest.importorskip("tokenizers").pre_tokenizers
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    own = [c for c in alphabet if ord(c) < 256]
    others = iter(sorted(c for c in alphabet if ord(c) >= 256))
    return [chr(byte) if chr(byte) in own else next(others) for byte in range(256)]


def entry(token: str, normalized: bool, **kind) -> dict:
    return {"content": token, "lstrip": False, "normalized": normalized, "rstrip": False, "single_word": False, **kind}


def settings(padding: str, vocabulary: dict) -> dict[str, dict]:
    """The settings' files as they are found beside public checkpoints of Stable Diffusion 1.x and 2.x."""
    added = {
        token: {"__type": "AddedToken", **entry(token, True)} for token in (START, END)
    }  # what transformers 4 wrote at first
    old = {"bos_token": added[START], "eos_token": added[END], "unk_token": added[END], "pad_token": END}
    common = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "do_lower_case": True}
    roles = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": padding}
    decoder = {str(vocabulary[t]): entry(t, t == START, special=True) for t in (START, END, padding)}
    special = {role: entry(token, True) for role, token in roles.items()} | {"pad_token": padding}
    return {
        "old": {"tokenizer_config.json": common | old, "special_tokens_map.json": special},
        "newer": {
            "tokenizer_config.json": common | roles | {"added_tokens_decoder": decoder},
            "special_tokens_map.json": special | {"pad_token": "q"},  # is not looked at
        },
        "config only": {"tokenizer_config.json": common | old | {"pad_token": padding}},
    }


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Tokenizer folders in every form, by name."""
    merges = learn(TEXT, 100)
    letters = byte_letters()
    tokens = ["!", *(letter for letter in letters if letter != "!"), *(letter + "</w>" for letter in letters)]
    tokens += [*map("".join, merges), START, END]
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    root = tmp_path_factory.mktemp("tokenizers")
    bare = root / "bare"
    bare.mkdir()
    (bare / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    lines = "".join(f"{a} {b}\n" for a, b in merges)
    (bare / "merges.txt").write_text("#version: 0.2\n" + lines, encoding="utf-8")
    found = {"bare": bare}
    for version, padding in (("1.x", END), ("2.x", "!")):
        for form, files in settings(padding, vocabulary).items():
            folder = found[f"{version}, {form}"] = root / f"{version}, {form}"
            shutil.copytree(bare, folder)
            for name, content in files.items():
                (folder / name).write_text(json.dumps(content), encoding="utf-8")
        saved = found[f"{version}, tokenizer.json"] = root / f"{version}, saved"
        CLIPTokenizer.from_pretrained(root / f"{version}, old").save_pretrained(saved)
        assert not (saved / "vocab.json").exists()
    return found


FORMS = [f"{v}, {form}" for v in ("1.x", "2.x") for form in ("old", "newer", "config only", "tokenizer.json")] + [
    "bare"
]


def expected(folder, prompts) -> np.ndarray:
    peer = CLIPTokenizer.from_pretrained(folder)
    return peer(prompts, padding="max_length", max_length=77, truncation=True, return_tensors="np").input_ids


def ids(tokenizer, prompts):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return tokenizer(prompts)


@pytest.mark.parametrize("form", FORMS)
def test_the_numbers_are_those_of_transformers(folders, form):
    tokenizer = Tokenizer.load(folders[form])
    found = ids(tokenizer, list(PROMPTS.values()))
    assert found.dtype == np.int32 and found.shape == (len(PROMPTS), 77) and tokenizer.length == 77
    for name, a, b in zip(PROMPTS, found, expected(folders[form], list(PROMPTS.values())), strict=True):
        np.testing.assert_array_equal(a, b, err_msg=name)


@pytest.mark.parametrize("form", ["1.x, old", "2.x, newer"])
def test_the_numbers_of_random_prompts_are_those_of_transformers(folders, form):
    source = random.Random(0)

    def character():
        while True:
            c = chr(source.randrange(source.choice([0x80, 0x250, 0x3000, 0x20000])))
            if unicodedata.category(c) not in ("Cn", "Cs"):
                return c

    prompts = ["".join(source.choices(FRAGMENTS, k=source.randrange(12))) for _ in range(200)]
    prompts += ["".join(character() for _ in range(source.randrange(20))) for _ in range(200)]
    found = ids(Tokenizer.load(folders[form]), prompts)
    for prompt, a, b in zip(prompts, found, expected(folders[form], prompts), strict=True):
        np.testing.assert_array_equal(a, b, err_msg=ascii(prompt))


def test_the_padding_token_is_the_models(folders):
    assert [Tokenizer.load(folders[form]).padding for form in FORMS] == [END] * 4 + ["!"] * 4 + [END]
    tokenizer = Tokenizer.load(folders["2.x, old"])
    end = tokenizer.vocabulary[END]
    np.testing.assert_array_equal(tokenizer("")[0, :4], [tokenizer.vocabulary[START], end, 0, 0])


def test_one_prompt_or_many(folders):
    tokenizer = Tokenizer.load(folders["bare"])
    np.testing.assert_array_equal(tokenizer("the cat"), tokenizer(["the cat"]))
    assert tokenizer([]).shape == (0, 77)


def test_a_prompt_that_fits_gives_no_warning_and_a_longer_one_shows_what_was_cut(folders):
    tokenizer = Tokenizer.load(folders["bare"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        full = tokenizer("the " * 75)
    with pytest.warns(UserWarning) as caught:
        cut = tokenizer(["the " * 75 + "Café\n on  the moon", "short"])
    np.testing.assert_array_equal(full[0], cut[0])
    assert cut[0, -1] == tokenizer.vocabulary[END]
    (warning,) = caught
    assert "'café on the moon'" in str(warning.message) and "75 fit" in str(warning.message)
    assert "\n" not in str(warning.message) and warning.filename == __file__


def test_decoding_gives_the_text_back(folders):
    tokenizer = Tokenizer.load(folders["bare"])
    assert tokenizer.decode(tokenizer.encode("The café,  猫 🙂 don't")) == "the café , 猫 🙂 don 't"


@pytest.mark.parametrize("form", FORMS)
def test_saving_gives_the_files_back_byte_for_byte(folders, form, tmp_path):
    Tokenizer.load(folders[form]).save(tmp_path / "new" / "tokenizer")
    before = {path.name: path.read_bytes() for path in folders[form].iterdir()}
    assert {path.name: path.read_bytes() for path in (tmp_path / "new" / "tokenizer").iterdir()} == before


@pytest.mark.parametrize(
    ("padding", "special"),
    [
        (END, None),
        ("!", None),
        (END, {START: True, END: True, "<Dog>": False}),
        ("!", {START: False, END: True, "!": False}),
    ],
)
def test_a_tokenizer_without_files_writes_ones_that_transformers_reads(folders, padding, special, tmp_path):
    loaded = Tokenizer.load(folders["bare"])
    vocabulary = loaded.vocabulary | {"<Dog>": len(loaded.vocabulary)}
    made = Tokenizer(vocabulary, loaded.merges, padding=padding, special=special)
    made.save(tmp_path)
    prompts = [*PROMPTS.values(), "a <Dog>, a<dog>!"]
    np.testing.assert_array_equal(ids(made, prompts), expected(tmp_path, prompts))
    again = Tokenizer.load(tmp_path)
    np.testing.assert_array_equal(ids(again, prompts), ids(made, prompts))
    assert again.special == made.special and again.padding == padding
    assert CLIPTokenizer.from_pretrained(tmp_path).model_max_length == 77


def test_clips_vocabulary_follows_from_its_merges(folders):
    """The numbers of public checkpoints: "!" is 0, "!</w>" 256, "a</w>" 320; the merges begin at 512."""
    merges = Tokenizer.load(folders["bare"]).merges
    made = Tokenizer.from_merges(merges)
    assert [made.vocabulary[token] for token in ("!", "!</w>", "a</w>", "".join(merges[0]))] == [0, 256, 320, 512]
    assert [made.vocabulary[token] for token in (START, END)] == [len(made.vocabulary) - 2, len(made.vocabulary) - 1]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("vocab.json", None, "vocab.json: no such file"),
        ("merges.txt", None, "merges.txt: no such file"),
        ("vocab.json", "{", "vocab.json: not readable as JSON"),
        ("vocab.json", "[]", "vocab.json: holds no JSON object"),
        ("vocab.json", b"\xff", "vocab.json: not readable as JSON"),
        ("vocab.json", '{"a": "b"}', "ids must be whole numbers"),
        ("vocab.json", '{"a": 1}', "the vocabulary lacks the token '<|startoftext|>'"),
        ("merges.txt", b"\xff", "not the files of a CLIP tokenizer"),
        ("merges.txt", "#version: 0.2\na b c\n", "merge 2 is 'a b c', wanted two tokens"),
        ("merges.txt", "#version: 0.2\nqq qq\n", "the vocabulary lacks the token 'qqqq'"),
        ("special_tokens_map.json", '{"pad_token": "<pad>"}', "the vocabulary lacks the token '<pad>'"),
        ("special_tokens_map.json", '{"pad_token": {"lstrip": false}}', "not the files of a CLIP tokenizer"),
        ("tokenizer_config.json", '{"added_tokens_decoder": []}', "not the files of a CLIP tokenizer"),
        ("tokenizer_config.json", "no", "tokenizer_config.json: not readable as JSON"),
        ("tokenizer.json", "{}", "not the files of a CLIP tokenizer"),
    ],
)
def test_missing_and_broken_files_are_refused_in_one_line(folders, tmp_path, name, content, expected):
    folder = tmp_path / "tokenizer"
    shutil.copytree(folders["bare"], folder)
    if name == "tokenizer.json":
        (folder / "vocab.json").unlink()
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError) as caught:
        Tokenizer.load(folder)
    assert expected in str(caught.value) and str(folder) in str(caught.value) and "\n" not in str(caught.value)


def test_half_a_character_is_refused_in_one_line(folders):
    with pytest.raises(UserError, match="no text that UTF-8 can write"):
        Tokenizer.load(folders["bare"])("a \udcff b")


def test_padding_may_be_given_where_no_settings_tell_it_and_is_then_saved(folders, tmp_path):
    bare = Tokenizer.load(folders["bare"], padding="!")
    assert bare.padding == "!" and bare("")[0, -1] == bare.vocabulary["!"]
    bare.save(tmp_path / "saved")
    assert Tokenizer.load(tmp_path / "saved").padding == "!"
    assert Tokenizer.load(folders["1.x, old"], padding="!").padding == END


# --- tokens that were added, as by textual inversion

ADDED = ("<cat-toy>", "Fluff", "a.b", "é\u0301x")
TOLD = [
    "a <cat-toy> on",
    "a <CAT-TOY> on",
    "a<cat-toy>on",
    "a Fluff b fluff",
    "fluffy a.b A.B a-b",
    "É\u0301X",
    f"{END} x",
]


def with_added(folders, layout, target, flags=()):
    """A copy of a folder in which ADDED were added, in a layout; and the folder that transformers reads."""
    form = {"added_tokens.json": "1.x, old", "bare": "bare"}.get(layout, "1.x, newer")
    shutil.copytree(folders[form], target)
    count = len(json.loads((target / "vocab.json").read_text(encoding="utf-8")))
    numbers = {token: count + i for i, token in enumerate(ADDED)}
    if layout in ("added_tokens.json", "bare"):
        (target / "added_tokens.json").write_text(json.dumps(numbers), encoding="utf-8")
    elif layout == "decoder":
        path = target / "tokenizer_config.json"
        content = json.loads(path.read_text(encoding="utf-8"))
        for i, (token, number) in enumerate(numbers.items()):
            kind = {flag: i % 2 == 1 for flag in flags}
            content["added_tokens_decoder"][str(number)] = entry(token, i != 1, special=i == 2) | kind
        path.write_text(json.dumps(content), encoding="utf-8")
    else:
        peer = CLIPTokenizer.from_pretrained(folders["1.x, old"])
        peer.add_tokens(list(ADDED))
        shutil.rmtree(target)
        peer.save_pretrained(target)
        if layout == "both":
            for name in ("vocab.json", "merges.txt"):
                shutil.copy(folders["1.x, old"] / name, target)
    return target, numbers


@pytest.mark.parametrize("layout", ["added_tokens.json", "bare", "decoder", "tokenizer.json", "both"])
def test_added_tokens_have_the_ids_of_transformers(folders, tmp_path, layout):
    """Fault: an added token becomes pieces, or the folder is refused because its vocabulary "lacks" it."""
    folder, numbers = with_added(folders, layout, tmp_path / "folder")
    tokenizer = Tokenizer.load(folder)
    np.testing.assert_array_equal(tokenizer(TOLD), expected(folder, TOLD))
    assert {token: tokenizer.vocabulary[token] for token in ADDED} == numbers
    assert numbers["<cat-toy>"] in tokenizer.encode("a <cat-toy> on")
    tokenizer.save(tmp_path / "saved")
    np.testing.assert_array_equal(Tokenizer.load(tmp_path / "saved")(TOLD), tokenizer(TOLD))
    np.testing.assert_array_equal(expected(tmp_path / "saved", TOLD), tokenizer(TOLD))
    tokenizer._files = {}  # as where the padding was given
    tokenizer.save(tmp_path / "anew")
    np.testing.assert_array_equal(Tokenizer.load(tmp_path / "anew")(TOLD), tokenizer(TOLD))
    np.testing.assert_array_equal(expected(tmp_path / "anew", TOLD), tokenizer(TOLD))


@pytest.mark.parametrize("flags", [("single_word",), ("lstrip", "rstrip"), ("single_word", "lstrip")])
def test_rules_of_added_tokens_are_those_of_transformers(folders, tmp_path, flags):
    """Fault: an added token is found inside a word although its file forbids it."""
    folder, _ = with_added(folders, "decoder", tmp_path / "folder", flags)
    told = [*TOLD, "a  Fluff  b", "xFluff Fluff. _Fluff Fluff", "Fluff\n Fluff"]
    np.testing.assert_array_equal(Tokenizer.load(folder)(told), expected(folder, told))


def test_a_listed_token_counts_beside_settings_that_lack_it(folders, tmp_path):
    """Fault: settings that name start and end alone hide added_tokens.json, and the token becomes pieces."""
    folder = shutil.copytree(folders["1.x, newer"], tmp_path / "folder")
    number = max(json.loads((folder / "vocab.json").read_text()).values()) + 1
    assert "added_tokens_decoder" in json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "added_tokens.json").write_text(json.dumps({"<cat-toy>": number}))
    assert Tokenizer.load(folder).encode("<cat-toy>") == [number]


@pytest.mark.parametrize(
    ("listed", "said"),
    [
        ({"<x>": 3}, "the added token '<x>' has the id 3, which "),
        ({"<x>": 99999, "<y>": 99999}, "the added token '<y>' has the id 99999, which '<x>' has"),
        ({"<x>": -1}, "the added token '<x>' has the id -1"),
        ({"<x>": "7"}, "the added token '<x>' has the id '7'"),
        ({"": 9999}, "an added token is ''"),
        ([], "holds no JSON object"),
    ],
)
def test_added_tokens_that_cannot_be_are_refused(folders, tmp_path, listed, said):
    """Fault: two tokens share an id, or a trace."""
    folder = shutil.copytree(folders["bare"], tmp_path / "folder")
    (folder / "added_tokens.json").write_text(json.dumps(listed))
    with pytest.raises(UserError) as caught:
        Tokenizer.load(folder)
    assert said in str(caught.value) and str(folder) in str(caught.value) and "\n" not in str(caught.value)
