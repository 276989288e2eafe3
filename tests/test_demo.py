"""`make demo` from end to end, in a short form: the same files, the same checks, figures of this run."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from conftest import make_base
from test_scene_reader import S, tiny_reader
from tiny import tiny_text

import codi_tf
import demo
from codi_tf.checkpoints.folder import save_base
from codi_tf.io.images import read_image
from codi_tf.scenes.reading import save_reader
from codi_tf.tasks import make_task

SHORT = ["train.steps=6", "train.warmup_steps=1", "train.sample_every=0", "data.encode_once=64"]


def test_a_claim_holds_in_the_direction_of_its_metric():
    """Catches a claim that counts a worse figure as better, or one that leaves its share out."""
    rows = {"a": {"psnr": 20.0, "scene_depth": 0.105, "ssim": None}, "b": {"psnr": 21.0, "scene_depth": 0.1, "ssim": 1}}
    said = demo.Claim("it is clearer", "psnr", "a", "b").line(rows)
    assert said.startswith("NO   it is clearer: 20") and " against 21" in said
    assert demo.Claim("", "psnr", "b", "a").line(rows).startswith("yes")
    assert demo.Claim("", "psnr", "a", "b", 0.05).line(rows).startswith("yes")
    assert demo.Claim("", "scene_depth", "a", "b").line(rows).startswith("NO ")
    assert demo.Claim("", "scene_depth", "a", "b", 0.06).line(rows).startswith("yes")
    assert demo.Claim("", "ssim", "a", "b").line(rows) == "NO   : - against 1.000"


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """As `make demo` runs it: a process of its own."""
    out = tmp_path_factory.mktemp("demo") / "demo"
    command = [sys.executable, demo.__file__, "--out", out, "--count", "16", *SHORT]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr[-3000:]
    return out


@pytest.mark.slow
def test_everything_is_there(out):
    for name in ("grid.png", "unlabeled.png", "exported.png"):
        height, width, _ = read_image(out / name).shape
        assert height > 700 and width > 700
    assert (out / "bundle" / "codi.json").is_file()
    for name in demo.FORMATS:
        assert (out / "exports" / name / "manifest.json").is_file()
    report = (out / "report.md").read_text("utf-8")
    assert "CoDi, 4 steps" in report and "fine-tuned, 50 steps" in report and "grid.png" in report


@pytest.mark.slow
def test_figures_are_those_of_the_run(out):
    facts = json.loads((out / "metrics.json").read_text("utf-8"))
    assert {"condition", "CoDi, 1 step", "original", *demo.COMPARED} <= facts["rows"].keys()
    assert any(value != 0 for value in facts["mu"])
    # Six steps teach little: the demo must say so instead of repeating what a longer run showed.
    assert any(line.startswith("NO ") for line in demo._checks(facts))
    assert all(figures["max_error"] <= 1e-3 for figures in facts["parity"].values())


@pytest.fixture
def tiny_assets(tmp_path, monkeypatch):
    """A tiny base, a tiny reader and one bundle to show."""
    assets = tmp_path / "assets"
    (assets / "scenes-base").mkdir(parents=True)
    save_base(make_base(), assets / "scenes-base")
    tiny_text(assets / "scenes-base", 8)
    save_reader(tiny_reader(), assets / "scenes-reader", image_size=S)
    base = codi_tf.load_stable_diffusion(assets / "scenes-base")
    codi_tf.CoDi(base, train="adapter", image_size=S, task=make_task("editing")).save(assets / "scenes-editing")
    monkeypatch.setattr(demo, "ASSETS", assets)


@pytest.mark.slow
@pytest.mark.usefixtures("tiny_assets")
def test_on_tiny_networks(tmp_path):
    """Fine-tuning beside distillation on the same examples, rows with captions, and the bundles that come along."""
    short = [*SHORT, "data.image_size=32", "train.batch_size=4"]
    demo.demo(tmp_path / "demo", count=8, overrides=short)
    out = tmp_path / "demo"
    facts = json.loads((out / "metrics.json").read_text("utf-8"))
    rows = facts["rows"]
    shown = {row + end for row in demo.COMPARED for end in ("", demo.CAPTIONED)}
    assert {*shown, "condition", "original"} <= rows.keys() and set(demo.MEASURES) <= rows["original"].keys()
    assert rows["CoDi, 4 steps"] != rows["CoDi, 4 steps, caption"]
    assert facts["settings"]["method"]["name"] == "codi"
    finetuned = codi_tf.load(out / "finetuning" / "result")
    assert finetuned.settings.drop_prompt == 0.5 and finetuned.task == codi_tf.load(out / "bundle").task
    labeled, plain = read_image(out / "grid.png"), read_image(out / "unlabeled.png")
    assert labeled.shape[0] > plain.shape[0] > 700
    assert read_image(out / "shipped.png").shape[0] > demo.OF_BUNDLE * S
    report = (out / "report.md").read_text("utf-8")
    assert "shipped.png" in report and "with a caption, it shows as many" in report
    demo.check_folder(out, demo.DEMOS)  # the next demo may replace it
