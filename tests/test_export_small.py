"""The small package of docs/export.md: a model that comes with codi_tf, in int8, in less than 10 MB."""

from __future__ import annotations

import json

import pytest
from commands import run_here
from doc_blocks import commands, of_language
from doc_commands import subcommand

from export import __main__ as export
from export.parity.gate import BOUNDS

BUNDLE = "photos-base/undistilled"
MOST = 10e6  # bytes of all files, the report and the manifest included


def lines() -> dict[str, list[str]]:
    """The export commands of the pages that name the model, by their pages: what follows `codi export`."""
    found = [(block.page, subcommand(words)) for block in of_language("sh") for words in commands(block)]
    exports = [(page, one[1]) for page, one in found if one is not None and one[0] == "export"]
    return {page: words for page, words in exports if BUNDLE in words}


def test_the_pages_make_it():
    """Catches a page that leaves a newcomer without a model to export."""
    assert lines().keys() == {"docs/export.md", "docs/android.md", "docs/web.md"}
    for words in lines().values():
        options = dict(zip(words[1::2], words[2::2], strict=True))
        assert options["--weights"] == "int8" and options["--layout"] == "parts"


@pytest.mark.slow
@pytest.mark.parametrize("page", ["docs/android.md", "docs/web.md"])
def test_it_is_small_and_passes_the_gate(page, tmp_path):
    """Catches weights that stay in floats or are stored twice, and steps that are written one after the other."""
    *words, out = lines()[page]
    assert words.pop() == "--out" and out
    done = run_here(export.main, *words, "--out", tmp_path / "small")
    assert done.returncode == 0, done.stderr
    assert sum(file.stat().st_size for file in (tmp_path / "small").rglob("*") if file.is_file()) < MOST
    parity = json.loads((tmp_path / "small" / "report.json").read_text())["parity"]
    assert parity["psnr_db"] > BOUNDS["int8"].psnr and parity["stored_bytes"] < 0.3 * parity["weight_bytes"]
