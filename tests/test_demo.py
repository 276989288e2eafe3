"""`make demo` from end to end, in a short form: the same files, the same checks, figures of this run."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import demo
from codi_tf.io.images import read_image

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """As `make demo` runs it: a process of its own."""
    out = tmp_path_factory.mktemp("demo") / "demo"
    short = ["train.steps=6", "train.warmup_steps=1", "train.sample_every=0", "data.encode_once=64"]
    command = [sys.executable, demo.__file__, "--out", out, "--count", "16", *short]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr[-3000:]
    return out


def test_everything_is_there(out):
    for name in ("grid.png", "exported.png"):
        height, width, _ = read_image(out / name).shape
        assert height > 700 and width > 700
    assert (out / "bundle" / "codi.json").is_file()
    for name in demo.FORMATS:
        assert (out / "exports" / name / "manifest.json").is_file()
    report = (out / "report.md").read_text("utf-8")
    assert "CoDi, 4 steps" in report and "fine-tuned, 50 steps" in report and "grid.png" in report


def test_figures_are_those_of_the_run(out):
    facts = json.loads((out / "metrics.json").read_text("utf-8"))
    assert set(facts["rows"]) >= {"bicubic", "fine-tuned, 4 steps", "fine-tuned, 50 steps", "CoDi, 1 step", "original"}
    assert any(value != 0 for value in facts["mu"])
    # Six steps teach little: the demo must say so instead of repeating what a longer run showed.
    assert facts["rows"]["CoDi, 1 step"]["latent_error"] > facts["rows"]["fine-tuned, 4 steps"]["latent_error"]
    assert any(line.startswith("NO ") for line in demo._checks(facts))
    assert all(figures["max_error"] <= 1e-3 for figures in facts["parity"].values())
