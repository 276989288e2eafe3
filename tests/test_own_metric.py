"""A metric from outside the package: declared here, and measured, shown and chosen like the built-in ones."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import make_base

from codi_tf.cli.evaluate_options import metric_arguments, parse
from codi_tf.core.errors import UserError
from codi_tf.evaluation import METRICS
from codi_tf.evaluation.loading import load_metrics, metrics_with
from codi_tf.evaluation.measuring import Evaluator, measure
from codi_tf.evaluation.metric import Column, Metric, Option
from codi_tf.evaluation.report import write_figures
from codi_tf.evaluation.tables import columns_of, legend, markdown_table

S, N = 16, 4


@METRICS.register("worst")
class Worst(Metric):
    """The largest difference to the original."""

    column = Column("worst pixel", "{:.1f}", "lower", "largest difference to the original", place=15)

    def measure(self, made, originals, reference):
        return np.abs(made.images - originals.images).max(axis=(1, 2, 3))


@METRICS.register("palette")
class Palette(Metric):
    """The distance of an image's mean color to one in a file of the user."""

    column = Column("palette", better="lower", note="distance of the mean color to a given one")
    option = Option("--palette", "JSON file of a color", "name a file of three numbers")

    def __init__(self, color):
        self.color = np.array(color)

    @classmethod
    def load(cls, argument, image_size):
        return None if argument is None else cls(json.loads(open(argument).read()))

    def measure(self, made, originals, reference):
        return np.linalg.norm(made.images.mean(axis=(1, 2)) - self.color, axis=1)


@pytest.fixture(scope="module", autouse=True)
def gone_afterward():
    yield
    for name in ("worst", "palette"):
        METRICS._entries.pop(name)


def bundle(folder):
    """Enough of one for the options to be read."""
    folder.mkdir()
    (folder / "codi.json").write_text("{}")
    return folder


def test_it_is_measured_and_shown(tmp_path):
    """Rows, JSON, values of every image, the table in the column's place, the curves' columns and the legend."""
    images, conditions = np.random.default_rng(0).uniform(-1, 1, (2, N, S, S, 3)).astype("float32")
    evaluator = Evaluator(images, conditions, make_base(), metrics_with(lambda x: x[:, 0, :2, 0]))
    measured = measure({"off": lambda c: (images + 0.25, evaluator.latents)}, evaluator)
    rows = write_figures(tmp_path, measured, {"off": {1: "off"}}, {})
    assert rows["off"]["worst"] == pytest.approx(0.25, abs=1e-6) and rows["original"]["worst"] == 0
    assert rows["off"]["worst_interval"] == pytest.approx((0.25, 0.25), abs=1e-6)
    assert json.loads((tmp_path / "metrics.json").read_text())["rows"]["off"]["worst"] == rows["off"]["worst"]
    with np.load(tmp_path / "metrics.npz") as values:
        assert values["worst"].shape == (len(rows), N)
    assert columns_of(rows.values())[:3] == ["psnr", "worst", "ssim"]
    assert markdown_table(rows).startswith("|  | PSNR, dB | worst pixel | SSIM |")
    assert "- **worst pixel** (lower is better): largest difference to the original." in legend(rows)


def test_its_option_is_an_option_of_the_command(tmp_path):
    """It is measured where the file is named, and a file that is missing is one line."""
    (tmp_path / "color.json").write_text("[0, 0, 1]")
    arguments = [str(bundle(tmp_path / "bundle")), "--out", str(tmp_path / "report")]
    options = metric_arguments(parse([*arguments, "--palette", str(tmp_path / "color.json")], "codi evaluate"))
    assert options["palette"] == str(tmp_path / "color.json") and options["lpips"] is None
    metric = METRICS["palette"].load(options["palette"], S)
    blue = SimpleNamespace(images=np.broadcast_to([0.0, 0.0, 1.0], (N, S, S, 3)))
    np.testing.assert_allclose(metric.measure(blue, None, None), 0)
    assert METRICS["palette"].load(None, S) is None
    with pytest.raises(UserError, match="--palette is none.json: no such file; name a file of three numbers"):
        parse([*arguments, "--palette", "none.json"], "codi evaluate")


def test_metrics_that_were_not_asked_for_are_left_out(monkeypatch, tmp_path):
    monkeypatch.setattr("codi_tf.evaluation.features.load_features", lambda folder: SimpleNamespace(features=len))
    arguments = {"features": str(tmp_path), "lpips": None, "clip": None, "inception": None, "palette": None}
    arguments |= dict.fromkeys(("reader", "depth_network"))
    metrics = load_metrics(arguments, image_size=S, prompted=True)
    assert list(metrics) == ["psnr", "worst", "ssim", "frechet_photos", "sharpness", "latent_error"]
