"""The metrics that read scenes: their figures by hand, what is true of the images, and the command."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import make_base
from test_scene_reader import S, tiny_reader
from tiny_pipeline import save_pipeline

import codi_tf
from codi_tf import data
from codi_tf.cli.evaluate import main
from codi_tf.core.errors import UserError
from codi_tf.evaluation.loading import load_metrics, truth_keys
from codi_tf.evaluation.measuring import Evaluator
from codi_tf.evaluation.metrics.scene_variety import variety_distance
from codi_tf.evaluation.numerics import aligned_error
from codi_tf.evaluation.scenes import true_statements
from codi_tf.evaluation.tables import legend
from codi_tf.scenes.captions import parse
from codi_tf.scenes.classes import class_names
from codi_tf.scenes.reading import save_reader
from codi_tf.scenes.statements import occurrences
from codi_tf.tasks import make_task

NONE = dict.fromkeys(("features", "lpips", "clip", "inception", "reader", "depth_network"))
OF_IMAGES = ["scene_accuracy", "scene_count", "scene_attributes", "scene_floor", "scene_light", "scene_depth"]


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reader")
    save_reader(tiny_reader(), folder, image_size=S)
    return folder


def table(*captions: str) -> np.ndarray:
    return np.array([occurrences(parse(text)) for text in captions], float)


def test_the_distance_of_shares():
    """By hand: half of the lights and half of the colors are others, floors and shapes are the same."""
    true = table("a red cube on sand at noon", "a red cube on sand at night")
    made = table("a red cube on sand at noon", "a blue cube on sand at noon")
    assert variety_distance(true, true) == 0.0
    assert variety_distance(made, true) == pytest.approx((0 + 0.5 + 0.5 + 0) / 4)
    other = table("a white cone on wood at sunset", "a white cone on wood at sunset")
    assert variety_distance(other, true) == pytest.approx(1.0)


def test_the_error_of_depth_knows_neither_scale_nor_shift():
    """0 for the same map in other units, at a quarter of the size; the deviation over the range for a flat one."""
    true = np.random.default_rng(0).uniform(0.1, 0.7, (2, 16, 16)).astype("float32")
    small = true.reshape(2, 4, 4, 4, 4).mean(axis=(2, 4))
    np.testing.assert_allclose(aligned_error(3 * small + 5, true), 0, atol=1e-5)
    flat = small.std(axis=(1, 2)) / np.ptp(small, axis=(1, 2))
    np.testing.assert_allclose(aligned_error(np.ones_like(small), true), flat, rtol=1e-5)
    upside_down = aligned_error(small[:, ::-1], true)
    assert np.all((upside_down > 0.1) & (upside_down <= flat + 1e-6))


def originals(prompts=None, **truth) -> SimpleNamespace:
    return SimpleNamespace(prompts=prompts, truth=truth)


def test_what_is_true_of_the_images():
    """Captions among the prompts come first, then the source's; instructions are no captions."""
    caption = "a red cube on sand at noon"
    assert true_statements(originals([caption], caption=["at night"])) == [parse(caption)]
    assert true_statements(originals(["make it noon"], caption=[caption])) == [parse(caption)]
    assert true_statements(originals(None, caption=[caption])) == [parse(caption)]
    for prompts in (None, ["a photo of a cat"]):
        with pytest.raises(UserError, match="nothing states what these images show: evaluate with --data scenes"):
            true_statements(originals(prompts))


def test_they_are_measured_where_a_reader_is_named(reader, monkeypatch):
    """Which ones, what they take of the source, and that all share one reader, which reads an image once."""
    monkeypatch.setattr("codi_tf.evaluation.features.load_features", lambda folder: SimpleNamespace(features=len))
    named = NONE | {"reader": str(reader), "features": str(reader)}
    assert truth_keys(NONE) == [] and truth_keys(named) == ["caption", "depth"]
    metrics = {k: m for k, m in load_metrics(named, image_size=S, prompted=False).items() if "scene" in k}
    of_sets = ["scene_variety", "scene_depth", "frechet_scenes", "scene_score", "scene_precision", "scene_recall"]
    assert list(metrics) == [*OF_IMAGES[:5], *of_sets]
    assert "edit_success" in load_metrics(named, image_size=S, prompted=True, instructed=True)
    assert len({id(metrics[name].eye) for name in OF_IMAGES}) == 1
    with pytest.raises(UserError, match="--reader is .*: the reader of scenes was trained on images of 32x32"):
        load_metrics(named, image_size=64, prompted=False)

    examples = data.evaluation_set(
        data.load_source("scenes", "heldout", None), None, image_size=S, count=4, seed=0, keys=("caption", "depth")
    )
    truth = {key: examples[key] for key in ("caption", "depth")}
    evaluator = Evaluator(examples["image"], examples["image"], make_base(), metrics, truth=truth)
    measured = evaluator.measure(evaluator.images, evaluator.latents)
    eye = metrics["scene_accuracy"].eye
    read = eye.reader.read(examples["image"])
    seen, classes = read.statements, class_names()
    leftmost = [one.objects[0] for one in seen]
    assert [classes[i] for i in read.classes.argmax(-1)] == [f"{one['color']} {one['shape']}" for one in leftmost]
    count = np.mean([len(a.objects) == len(parse(b).objects) for a, b in zip(seen, examples["caption"], strict=True)])
    row = measured.row()
    assert row["scene_count"] == count and 0 < row["scene_accuracy"] < 1 and row["frechet_scenes"] < 1e-3
    assert 0 < row["scene_depth"] < 1 and row["scene_variety_interval"][0] <= row["scene_variety"]
    assert row["scene_precision"] == row["scene_recall"] == 1 and 1 <= row["scene_score"] <= len(classes)
    assert eye.seen(evaluator._originals) is eye.seen(evaluator._originals)
    assert "- **statements** (higher is better): share of the caption's statements" in legend({"original": row})


@pytest.mark.slow
@pytest.mark.parametrize("task", ["super_resolution", "editing"])
def test_the_command(task, reader, feature_folder, tmp_path, monkeypatch):
    """The exact truth of rendered scenes, without --prompts; the reader's own error is the row of the originals."""
    monkeypatch.setattr("codi_tf.cli.evaluate.PROCESS_STEPS", (1, 2))
    base = codi_tf.load_stable_diffusion(save_pipeline(tmp_path / "sd", "1.x"))
    codi_tf.CoDi(base, image_size=S, task=make_task(task)).save(tmp_path / "bundle")
    options = ["--features", str(feature_folder), "--data", "scenes", "--count", "4", "--steps", "1"]
    main([str(tmp_path / "bundle"), "--out", str(tmp_path / "report"), *options, "--reader", str(reader)])
    written = json.loads((tmp_path / "report" / "metrics.json").read_text())
    row = written["rows"]["original"]
    assert ("edit_success" in row) == (task == "editing")
    assert {*OF_IMAGES, "scene_variety", "frechet_scenes"} <= row.keys()
    assert len(written["settings"]["reader"]["sha256"]) == 64
