"""Names of files that hold anything: they are read, and shown on one line without control characters."""

from __future__ import annotations

import os
import warnings

import pytest
import yaml
from commands import run_here
from shards import encoded, new_image
from tiny import tiny_run

from codi_tf import data
from codi_tf.cli import pairs, train
from codi_tf.core.errors import Interrupted, UserError
from codi_tf.core.showing import printable
from codi_tf.io.images import read_image

STRANGE = [b"caf\xe9", b"two\nlines", b"\x1b[31mred", b"\x07bell", "right\u202eto left".encode(), b"tab\there"]
SHOWN = ["caf\\xe9", "two\\nlines", "\\x1b[31mred", "\\x07bell", "right\\u202eto left", "tab\\there"]


def test_what_is_shown():
    """Fault: a name moves the cursor, or cannot be written at all."""
    assert [printable(os.fsdecode(name)) for name in STRANGE] == SHOWN
    for text in ("ä 猫 a\u00a0b 🙂 C:\\x", ""):
        assert printable(text) == text
    assert printable("\u2028\ud800\x7f\x85") == "\\u2028\\ud800\\x7f\\x85"
    for kind in (UserError, Interrupted):
        assert str(kind("a\nb\x1b")) == "a\\nb\\x1b" and str(kind()) == ""


@pytest.mark.parametrize(("name", "shown"), zip(STRANGE, SHOWN, strict=True))
def test_names_that_hold_anything_are_read_and_shown_on_one_line(tmp_path, name, shown):
    """Fault: UnicodeEncodeError for a Latin-1 name; newlines and escapes reach the terminal."""
    folder = tmp_path / "data"
    folder.mkdir()
    for i in range(12):
        (folder / f"{i}.png").write_bytes(encoded(new_image(i)))
    strange = os.path.join(os.fsencode(folder), name + b".png")
    with open(strange, "wb") as file:
        file.write(encoded(new_image(0)))
    splits = [data.load_source(str(folder), split, heldout_fraction=0.4) for split in ("train", "heldout", None)]
    assert len(splits[0]) + len(splits[1]) == len(splits[2]) == 13 and f"{shown}.png" in splits[2].names
    for path, content in ((strange, b"broken"), (strange[:-3] + b"heic", b"")):
        with open(path, "wb") as file:
            file.write(content)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        data.load_source(str(folder), None, max_unreadable=0.5)
    said = [str(one.message) for one in caught]
    assert len(said) == 2 and all(shown in line and line.isprintable() for line in said)
    with pytest.raises(UserError) as failed:
        read_image(os.fsdecode(strange))
    assert shown in str(failed.value) and str(failed.value).isprintable()
    done = run_here(pairs.main, "--out", tmp_path / "out", "--data", os.fsdecode(strange))
    assert done.returncode == 2 and shown in done.stderr and done.stderr.strip().isprintable()
    out = os.path.join(os.fsencode(tmp_path), name)
    options = ("--count", 1, "--size", 16, "--task", "bicubic", "scale=2")
    os.remove(strange)
    done = run_here(pairs.main, "--out", os.fsdecode(out), "--data", folder, "--split", "all", *options)
    assert done.returncode == 0 and shown in done.stdout and os.path.isdir(out)


def test_a_run_from_and_to_folders_whose_names_are_no_utf8(eager, tmp_path):
    """Fault: TensorBoard's writer and the override refuse the name with a trace, or as no YAML."""
    values = tiny_run(tmp_path, steps=1)
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(values))
    photos, out = (tmp_path / os.fsdecode(name) for name in (b"caf\xe9", b"run\xe9"))
    os.rename(values["data"]["source"], photos)
    for _ in range(2):
        done = run_here(train.main, path, "--out", out, f"data.source={photos}")
        assert done.returncode == 0, done.stderr
    assert (out / "result" / "codi.json").is_file()
