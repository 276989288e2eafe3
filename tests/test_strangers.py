"""Files of strangers: JSON, YAML, names and headers are read strictly, within bounds, and refused in one short line."""

from __future__ import annotations

import gzip
import json
import os
import re
import time
from pathlib import Path

import numpy as np
import pytest

from codi_tf.core.errors import LONGEST, UserError
from codi_tf.core.showing import shown
from codi_tf.io import json_files, yaml_files
from codi_tf.io.bundle_files import BUNDLE, read_about
from codi_tf.io.depth_files import read_depth
from codi_tf.io.hashing import folder_sha256
from codi_tf.io.images import read_image
from codi_tf.io.inside import is_name, named_file
from codi_tf.io.json_files import parse_json, read_json, read_json_list
from codi_tf.io.plain_files import read_plain
from codi_tf.io.schema import FLAG, Each, Keyed, Misfit, Nullable, Number, OneOf, Record, Text, Whole
from codi_tf.io.tensor_files import read_header
from codi_tf.io.yaml_files import Problem, parse_yaml, read_yaml, yaml_text

ROOT = Path(__file__).parent.parent


def refusal(call, *arguments) -> str:
    with pytest.raises(UserError) as caught:
        call(*arguments)
    line = str(caught.value)
    assert "\n" not in line and len(line) < 700
    return line


# JSON

BROKEN_JSON = [
    ("[" * 200_000, "nested more than 64 levels deep"),
    ('{"a":' * 200_000, "nested more than 64 levels deep"),
    ('{"a": ' + "[" * 65 + "]" * 65 + "}", "nested more than 64 levels deep"),
    ('{"a": 1, "b": 2, "a": 3}', "'a' stands there twice"),
    ('{"x": {"a": 1, "a": 1}}', "'a' stands there twice"),
    ('{"a": NaN}', "'NaN' is no finite number"),
    ('{"a": -Infinity}', "'-Infinity' is no finite number"),
    ('{"a": 1e999}', "'1e999' is no finite number"),
    ('{"a": ' + "9" * 5000 + "}", "is no finite number"),
    ('{"a": "\\ud800"}', "half of a character"),
    ("[]", "holds no JSON object"),
    ("null", "holds no JSON object"),
    ('{"a": 1} {}', "not readable as JSON"),
    ('{"' + "x" * 100_000 + '": 1, "' + "x" * 100_000 + '": 1}', "stands there twice"),
]


@pytest.mark.parametrize(("text", "said"), BROKEN_JSON, ids=[str(i) for i in range(len(BROKEN_JSON))])
def test_broken_json_is_refused(text, said, tmp_path):
    """Catches a RecursionError, a key that wins silently, and numbers and texts that fail elsewhere."""
    (tmp_path / "a.json").write_text(text)
    line = refusal(read_json, tmp_path / "a.json")
    assert line.startswith(str(tmp_path / "a.json")) and said in line


def test_json_that_is_fine():
    no_limit = 1000000000000000019884624838656  # that of transformers
    text = f'{{"a": [1, 2.5, true, null, "\\ud83d\\ude00"], "b": {no_limit}}}'
    assert parse_json(text, "it") == {"a": [1, 2.5, True, None, "\U0001f600"], "b": no_limit}
    assert parse_json(b'\xef\xbb\xbf{"a": 1}', "it") == {"a": 1}  # as editors of Windows write it
    assert parse_json('{"a": ' + "[" * 63 + "]" * 63 + "}", "it")


def test_a_large_file_is_not_read(tmp_path):
    with open(tmp_path / "a.json", "wb") as file:
        file.truncate(1 << 40)  # of zeros, which take no room
    assert "has 1,099,511,627,776 bytes, more than 16,777,216" in refusal(read_json, tmp_path / "a.json")
    assert "more than 100" in refusal(lambda path: read_json_list(path, most_bytes=100), tmp_path / "a.json")


def test_what_is_no_file_is_not_waited_for(tmp_path):
    """Catches a reader that opens a pipe, which waits for its writer, or a device, which never ends."""
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "device.json").symlink_to("/dev/zero")
    (tmp_path / "folder.json").mkdir()
    for name, said in (("pipe", "pipe or a device"), ("device", "pipe or a device"), ("folder", "it is a folder")):
        path = tmp_path / f"{name}.json"
        for call in (read_json, read_yaml, read_header, read_image):
            assert said in refusal(call, path) or call is read_image
        with pytest.raises(OSError):
            read_plain(path, 10)
    path = tmp_path / "pipe.npy"
    os.mkfifo(path)
    assert "cannot read depth map" in refusal(read_depth, path)
    (tmp_path / "folder.json").rmdir()
    with pytest.raises(OSError, match="pipe or a device"):
        folder_sha256(tmp_path)


def test_every_reader_is_the_shared_one():
    """Catches a module that reads JSON or YAML past `json_files` and `yaml_files`."""
    own = {"codi_tf/io/json_files.py", "codi_tf/io/yaml_files.py", "export/parity/report.py"}  # of its own process
    for path in (path for room in ("codi_tf", "export") for path in (ROOT / room).rglob("*.py")):
        if (name := path.relative_to(ROOT).as_posix()) not in own:
            found = re.findall(r"json\.loads?\((?!json\.dumps)|\byaml\.\w+|\bimport yaml\b", path.read_text("utf-8"))
            assert found == [], name


# YAML

BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
TRAPS = ["010", "1:30", "190:20:30", "1:30.5", "0b11", "1_000", "08", "00", "-07", "1_0.5", "<<"]
TRAPS += ["on", "off", "yes", "No", "ON"]


@pytest.mark.parametrize("word", TRAPS)
def test_what_versions_of_yaml_read_differently_is_refused(word):
    """Catches 010 that becomes 8, 1:30 that becomes 90, and `on` that becomes true."""
    with pytest.raises(Problem, match="means different things in versions of YAML"):
        parse_yaml(f"a: {word}" if word != "<<" else "<<: {a: 1}")
    assert parse_yaml(f"a: '{word}'") == {"a": word}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (BOMB, "more than 10,000 values"),
        ("&a [*a, *a]", "nested more than 32 levels deep"),
        ("[" * 200_000, "nested more than 32 levels deep"),
        ("a: 1\nb: 2\na: 3", "the key 'a' stands there twice"),
        ("a: {b: 1, b: 2}", "the key 'b' stands there twice"),
        ("1: a", "the key 1 is no text"),
        ("? [a]\n: b", "the key ['a'] is no text"),
        ("a: .inf", ".inf is no finite number"),
        ("a: .NaN", ".NaN is no finite number"),
        ("a: 1e999", "beyond the range of numbers"),
        ("a: " + "9" * 5000, "beyond the range of numbers"),
        ("a: !!int '5'", "begins with !"),
        ("a: 1\n---\nb: 2", "another document"),
    ],
    ids=range(13),
)
def test_broken_yaml_is_refused(text, said, tmp_path):
    """Catches an alias bomb with its error line of 28 MB, a RecursionError, and a key that wins silently."""
    (tmp_path / "a.yaml").write_text(text)
    assert said in refusal(read_yaml, tmp_path / "a.yaml")


def test_yaml_that_is_fine():
    text = "a: [1, -2, 0x1F, 1e-4, 1E3, .5, 1.5, true, False, null, ~, y, 1.0.0, 2026-01-02, '010', \"on\"]\n"
    text += "b: &b {c: 1}\nd: *b"
    plain = [1, -2, 31, 1e-4, 1e3, 0.5, 1.5, True, False, None, None, "y", "1.0.0", "2026-01-02", "010", "on"]
    assert parse_yaml(text) == {"a": plain, "b": {"c": 1}, "d": {"c": 1}}
    assert parse_yaml("") is None


def test_yaml_that_is_written_is_read_again():
    """Catches a text without quotes that would be read as a number: a folder called 08 or 1e5."""
    texts = [*TRAPS, "1e5", "5", "0x1F", "true", "null", "", "~", ".inf", "2026-01-02", "a: b", "!x", "two\nlines", "é"]
    value = {"texts": texts, "numbers": [1, 1e-5, 3e-4, 1e22, True, None, -0.5], "same": [texts, texts]}
    assert parse_yaml(yaml_text(value)) == value


# Schemas

SCHEMA = Record(
    {"n": Whole(1, 9)},
    {
        "x": Number(0, 1),
        "t": Text(5, "[a-z]+", "a word"),
        "flag": FLAG,
        "list": Each(Whole(0, 1), 1, 3),
        "keyed": Keyed(Nullable(Whole(0, 1)), most=2),
        "one": OneOf(("a", 1, None)),
    },
)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([], "it is []: it must be an object"),
        ({}, "n is missing"),
        ({"n": 0}, "n is 0: it must be a whole number from 1 to 9"),
        ({"n": True}, "n is True"),
        ({"n": 1.0}, "n is 1.0"),
        ({"n": "1"}, "n is '1'"),
        ({"n": 1, "x": 1.5}, "x is 1.5: it must be a finite number from 0 to 1"),
        ({"n": 1, "x": float("nan")}, "x is nan"),
        ({"n": 1, "x": True}, "x is True"),
        ({"n": 1, "t": "abcdef"}, "t is 'abcdef': it must be a word of at most 5 characters"),
        ({"n": 1, "t": "A"}, "t is 'A'"),
        ({"n": 1, "flag": 1}, "flag is 1: it must be True or False"),
        ({"n": 1, "list": []}, "list is []: it must be a list of 1 to 3"),
        ({"n": 1, "list": [0, 2]}, "list[1] is 2"),
        ({"n": 1, "keyed": {"a": None, "b": 5}}, "keyed.b is 5"),
        ({"n": 1, "keyed": {"a": 0, "b": 0, "c": 0}}, "keyed is"),
        ({"n": 1, "one": True}, "one is True: it must be 'a' or 1 or None"),
        ({"n": "x" * 10**6}, "n is 'xxx"),
    ],
    ids=range(18),
)
def test_a_schema_names_what_does_not_fit(value, said):
    with pytest.raises(Misfit) as caught:
        SCHEMA.check(value, "")
    assert str(caught.value).startswith(said) and len(str(caught.value)) < 200


def test_a_schema_takes_what_fits():
    SCHEMA.check(
        {"n": 9, "x": 1, "t": "abc", "flag": False, "list": [0], "keyed": {"a": None}, "one": 1, "new": {}}, ""
    )


# codi.json

ABOUT = json.loads((ROOT / "tests" / "data" / "0.1.0" / "bundle" / BUNDLE).read_text())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": True}, "format"),
        ({"format": "1"}, "format '1' is not known"),
        ({"seed": "x"}, "seed is 'x'"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**63}, "seed is 9223372036854775808"),
        ({"image_size": -1}, "image_size is -1"),
        ({"image_size": 100_000}, "image_size is 100000: it must be a whole number from 1 to 8192"),
        ({"image_size": 64.0}, "image_size is 64.0"),
        ({"ema_decay": "0.9"}, "ema_decay is '0.9'"),
        ({"ema_decay": 7}, "ema_decay is 7"),
        ({"adaptation": {**ABOUT["adaptation"], "train": "some"}}, "adaptation.train is 'some'"),
        ({"adaptation": {**ABOUT["adaptation"], "mu_rate": None}}, "adaptation.mu_rate is None"),
        ({"base": "folder"}, "base is 'folder'"),
        ({"base": {"path": "/", "sha256": "0"}}, "base.sha256 is '0'"),
        ({"base": {"path": ["/"], "sha256": "0" * 64}}, "base.path is ['/']"),
        ({"method": {"name": ["codi"]}}, "method.name is ['codi']"),
        ({"task": None}, "task is None"),
        ({"provenance": []}, "provenance is []"),
    ],
    ids=range(18),
)
def test_codi_json_is_checked(tmp_path, change, said):
    """Catches a size, a seed or a type in codi.json that is believed: image_size 1e5 took 22 GB."""
    (tmp_path / BUNDLE).write_text(json.dumps(ABOUT))
    assert read_about(tmp_path) == ABOUT
    (tmp_path / BUNDLE).write_text(json.dumps({**ABOUT, **change}))
    line = refusal(read_about, tmp_path)
    assert said in line and BUNDLE in line


# Names

BAD_NAMES = ["", ".", "..", "/etc/passwd", "../a", "a/../b", "a/..", "./a", "a/./b", "a//b", "a/", "/", "\\a", "..\\a"]
BAD_NAMES += ["C:a", "a\0", "a\n", "%2e%2e/a", "a?b", "a#b", "x" * 256, "/".join("a" * 17), None, 5, ["a"], b"a"]


@pytest.mark.parametrize("name", BAD_NAMES, ids=range(len(BAD_NAMES)))
def test_names_that_lead_elsewhere(name, tmp_path):
    assert not is_name(name)
    assert "which is no file in its folder" in refusal(named_file, tmp_path, name, "list.json")


def test_names_of_files_in_the_folder(tmp_path):
    for name in ("a", "a.bin", "a/b.bin", "...", "a..b", ".hidden", "with space", "ü.png", "-a"):
        assert named_file(tmp_path, name, "list.json") == tmp_path / name


def test_links_lead_out_or_in_circles(tmp_path):
    folder, outside = tmp_path / "folder", tmp_path / "outside"
    folder.mkdir()
    outside.mkdir()
    (folder / "out").symlink_to(outside)
    (folder / "up").symlink_to("..")
    (folder / "circle").symlink_to("circle")
    (folder / "gone").symlink_to("/nowhere/at/all")
    (folder / "device").symlink_to("/dev/zero")
    for name in ("out/a", "up/outside/a", "gone", "device"):
        assert "is a link that leads out of" in refusal(named_file, folder, name, "list.json")
    assert "which is no file" in refusal(named_file, folder, "circle", "list.json")
    (folder / "real").write_text("")
    (folder / "alias").symlink_to("real")
    assert named_file(folder, "alias", "list.json").exists()
    (tmp_path / "linked").symlink_to(folder)  # the folder itself may be reached by a link
    assert named_file(tmp_path / "linked", "real", "list.json").exists()


# Headers

ENTRY = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


@pytest.mark.parametrize(
    "header",
    [
        "[" * 100_000,
        '{"a": 1, "a": 1}',
        "[]",
        '{"a": 5}',
        {"a": {**ENTRY, "shape": [-1]}},
        {"a": {**ENTRY, "shape": [-1, -1]}},
        {"a": {**ENTRY, "shape": [1.0]}},
        {"a": {**ENTRY, "shape": [True]}},
        {"a": {**ENTRY, "shape": "1"}},
        {"a": {**ENTRY, "shape": [10**30], "data_offsets": [0, 4 * 10**30]}},
        {"a": {**ENTRY, "shape": [10**12], "data_offsets": [0, 4 * 10**12]}},
        {"a": {**ENTRY, "shape": [1] * 100}},
        {"a": {**ENTRY, "dtype": ["F32"]}},
        {"a": {**ENTRY, "data_offsets": [0, 4, 8]}},
        {"a": {**ENTRY, "data_offsets": [4, 8]}},
        {"a": {key: ENTRY[key] for key in ("dtype", "shape")}},
        {"a": ENTRY, "__metadata__": 5},
        {"a": ENTRY, "__metadata__": {"x": 5}},
    ],
    ids=range(18),
)
def test_headers_of_safetensors_are_checked(tmp_path, header):
    """Catches shapes that no array has, and sizes that the file does not hold."""
    path = tmp_path / "a.safetensors"

    def write(text: str) -> None:
        path.write_bytes(len(text).to_bytes(8, "little") + text.encode() + bytes(4))

    write(json.dumps({"a": ENTRY}))
    assert read_header(path)[0]["a"].read().shape == (1,)
    write(header if isinstance(header, str) else json.dumps(header))
    line = refusal(read_header, path)
    assert line.startswith(str(path)) and "truncated or no safetensors file" in line


def test_a_header_as_large_as_the_file_is_not_read(tmp_path):
    with open(tmp_path / "a.safetensors", "wb") as file:
        file.write((1 << 39).to_bytes(8, "little"))
        file.truncate(1 << 40)
    assert "do not hold the header" in refusal(read_header, tmp_path / "a.safetensors")


@pytest.mark.parametrize("shape", ["(1000000, 1000000)", "(" * 4000])
def test_a_header_of_numpy_is_not_believed(tmp_path, shape):
    """Catches memory that is asked for before the file is seen to be short, and a parser that overflows."""
    np.save(tmp_path / "a.npy", np.ones((2, 2), np.float32))
    assert read_depth(tmp_path / "a.npy").shape == (2, 2)
    text = ("{'descr': '<f4', 'fortran_order': False, 'shape': " + shape + "}").encode()
    (tmp_path / "a.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + bytes(16))
    assert "no array of numbers, or damaged" in refusal(read_depth, tmp_path / "a.npy")


# Messages


def test_messages_are_short():
    """Catches a value of megabytes in an error line, and the time that writing it takes."""
    deep: list = []
    for _ in range(100):
        deep = [deep] * 100  # 100^100 values, in 100 lists
    began = time.process_time()
    for value in (deep, "x" * 10**7, {str(i): "y" * 1000 for i in range(1000)}, 10**300, [None] * 10**6):
        assert len(shown(value)) <= 80
    assert time.process_time() - began < 5
    assert shown([1, "a", None]) == "[1, 'a', None]"
    assert len(str(UserError("x" * 10**6))) <= LONGEST and str(UserError("short")) == "short"


def test_bounds_leave_room_for_real_files():
    """The limits that were stated: a tokenizer.json of 4 MB, and a config of 100 kB."""
    assert json_files.MOST_BYTES >= 16_000_000 and yaml_files.MOST_BYTES >= 200_000
    big = json.dumps({f"token{i}</w>": i for i in range(100_000)})
    assert len(parse_json(big, "it")) == 100_000


def test_packed_merges_unpack_within_bounds(tmp_path):
    from codi_tf.checkpoints.keras_cv import BPE, _tokenizer

    (tmp_path / BPE).write_bytes(gzip.compress(bytes(30_000_000)))
    assert "unpacks to more than 16,777,216 bytes" in refusal(_tokenizer, None, tmp_path, "!")
