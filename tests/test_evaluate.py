"""The evaluation: rows whose values are known, samplers of models, the report."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import codi_tf
from codi_tf import data, metrics
from codi_tf.errors import UserError
from codi_tf.evaluate import _labels, _load_network, _main, evaluate, model_sampler
from codi_tf.features import FeatureNetwork, save_features
from codi_tf.images import to_uint8
from codi_tf.tasks import make_task
from codi_tf.weights import save_network

S, COUNT = 16, 34  # more than a batch
ROOT = Path(codi_tf.__file__).parents[1]


def quadrants(images):
    """A feature extractor that can be checked by hand: the mean colours of the four quarters, [B, 12]."""
    return tf.reshape(tf.nn.avg_pool2d(images, S // 2, S // 2, "VALID"), (-1, 12))


@pytest.fixture(scope="module")
def model(bundle):
    return codi_tf.load(bundle)


@pytest.fixture(scope="module")
def examples():
    task = make_task("super_resolution")
    return data.evaluation_set(data.load_photos("heldout"), task, image_size=S, count=COUNT, seed=0)


@pytest.fixture(scope="module")
def known(model, examples):
    """Latents and reconstructions of the originals."""
    x = np.array(model.base.encode(examples["image"]))
    return x, np.clip(np.array(model.base.decode(x)), -1, 1)


@pytest.fixture(scope="module")
def rows(model, examples, known):
    x, reconstructions = known
    samplers = {
        "perfect": lambda conditions: (examples["image"], x),
        "reconstructing": lambda conditions: (reconstructions, x + 0.5),
        "copying": lambda conditions: (conditions, np.array(model.base.encode(conditions))),
    }
    done = []
    rows = evaluate(samplers, examples["image"], examples["condition"], model.base, quadrants, report=done.append)
    assert done == [1, 2, 3]
    return rows


def assert_equal_rows(row, expected, *, except_for=()):
    assert row.keys() == expected.keys()
    for key in row.keys() - set(except_for):
        if expected[key] is None:
            assert row[key] is None
        else:
            np.testing.assert_allclose(row[key], expected[key], rtol=1e-3, atol=1e-6, err_msg=key)


def test_rows_that_must_agree(rows):
    assert list(rows) == ["bicubic", "perfect", "reconstructing", "copying", "autoencoder", "original"]
    assert_equal_rows(rows["perfect"], rows["original"])
    assert_equal_rows(rows["copying"], rows["bicubic"])
    assert_equal_rows(rows["reconstructing"], rows["autoencoder"], except_for=["latent_error"])


def test_values(rows, examples, known):
    images, conditions = examples["image"], examples["condition"]
    x, reconstructions = known
    original = rows["original"]
    assert original["psnr"] is None and original["latent_error"] == pytest.approx(0, abs=1e-9)
    assert original["ssim"] == pytest.approx(1) and original["sharpness"] == pytest.approx(1)
    seen = [np.array(quadrants(pictures)) for pictures in (images, reconstructions, conditions)]
    assert original["frechet_photos"] == pytest.approx(metrics.frechet_distance(seen[0], seen[1]), rel=1e-4)
    assert rows["autoencoder"]["frechet_photos"] == pytest.approx(0, abs=1e-6)
    assert rows["reconstructing"]["latent_error"] == pytest.approx(0.25, rel=1e-4)
    bicubic, unit = rows["bicubic"], [(pictures.astype(float) + 1) / 2 for pictures in (conditions, images)]
    assert bicubic["psnr"] == pytest.approx(metrics.psnr(*unit).mean(), rel=1e-5)
    assert bicubic["ssim"] == pytest.approx(metrics.ssim(*unit).mean(), rel=1e-5)
    energies = [metrics.sharpness(pictures).mean() for pictures in unit]
    assert bicubic["sharpness"] == pytest.approx(energies[0] / energies[1], rel=1e-5) and bicubic["sharpness"] < 0.9
    assert bicubic["frechet_photos"] == pytest.approx(metrics.frechet_distance(seen[2], seen[1]), rel=1e-4)
    low, high = bicubic["frechet_photos_interval"]
    assert low < bicubic["frechet_photos"] < high


def test_diverged_model(model, examples):
    def diverged(conditions):
        return np.full_like(conditions, np.nan), np.zeros((COUNT, 4, 4, 4))

    with pytest.raises(UserError, match="x, 1 step: made pictures that are not finite"):
        evaluate({"x, 1 step": diverged}, examples["image"], examples["condition"], model.base, quadrants)


def test_model_sampler_makes_what_generate_makes(model, examples):
    """Of the first pictures too: the noise of a picture does not depend on how many follow."""
    conditions = examples["condition"]
    sampler = model_sampler(model, 2, seed=3)
    images, latents = sampler(conditions)
    assert images.shape == (COUNT, S, S, 3) and latents.shape == (COUNT, 4, 4, 4)
    expected = model.generate((conditions + 1) / 2, steps=2, seed=3)
    np.testing.assert_allclose(to_uint8((images + 1) / 2).astype(int), expected, atol=1)
    np.testing.assert_allclose(np.clip(model.base.decode(latents), -1, 1), images, atol=1e-5)
    first, _ = sampler(conditions[:3])
    np.testing.assert_allclose(first, images[:3], atol=1e-5)


def test_model_sampler_refuses(model):
    for steps in (0, 1001):
        with pytest.raises(UserError, match=f"--steps has {steps}: it must be from 1 to 1000"):
            model_sampler(model, steps)


# --- the command line


@pytest.fixture(scope="module")
def feature_folder(tmp_path_factory):
    keras.utils.set_random_seed(0)
    network = FeatureNetwork(num_photos=4, name="features")
    network.build()
    folder = tmp_path_factory.mktemp("features") / "features"
    save_features(network, folder)
    return folder


@pytest.fixture(scope="module")
def second_bundle(bundle, tmp_path_factory):
    """The first bundle with another adapter: it shares task, size and autoencoder."""
    folder = tmp_path_factory.mktemp("second") / "runs" / "other" / "result"
    shutil.copytree(bundle, folder)
    other = codi_tf.load(bundle)
    other.student.adapter.mu.assign(-other.student.adapter.mu)
    save_network(other.student.adapter, folder / "adapter")
    return folder


def test_report(bundle, second_bundle, feature_folder, tmp_path, capsys):
    out = tmp_path / "new" / "report"
    options = ["--steps", "1", "--count", "8", "--features", str(feature_folder), "--seed", "5", "--out", str(out)]
    _main([str(bundle), str(second_bundle), *options])
    assert sorted(path.name for path in out.iterdir()) == ["grid.png", "metrics.json", "report.md"]
    assert [path.name for path in out.parent.iterdir()] == ["report"]
    written = json.loads((out / "metrics.json").read_text())
    names = ["bicubic", "bundle, 1 step", "other, 1 step", "autoencoder", "original"]
    assert list(written["rows"]) == names
    assert written["settings"]["count"] == 8 and written["settings"]["seed"] == 5
    assert list(written["settings"]["bundles"]) == ["bundle", "other"]
    first, second = (written["rows"][name] for name in names[1:3])
    assert first["latent_error"] != second["latent_error"]  # two models indeed
    table = (out / "report.md").read_text()
    assert [line.split("|")[1].strip() for line in table.splitlines() if line.startswith("|")] == ["", "---", *names]
    assert f"{first['psnr']:.2f}" in table and table in capsys.readouterr().out
    # The grid shows the same inputs: a condition, two models and the original, six times, each pixel eight times.
    grid = np.asarray(Image.open(out / "grid.png"))
    assert grid.shape[0] > 6 * 8 * S and grid.shape[1] > 4 * 8 * S
    condition = data.evaluation_set(
        data.load_photos("heldout"), make_task("super_resolution"), image_size=S, count=8, seed=5
    )["condition"][0]
    column, row = 8, grid.shape[0] - 6 * (8 * S + 8)
    cell = grid[row : row + 8 * S : 8, column : column + 8 * S : 8]
    np.testing.assert_allclose(cell, to_uint8((condition + 1) / 2), atol=1)


def test_features_are_made_where_they_are_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(data.PHOTOS, "train", data.PHOTOS["heldout"][:2])
    monkeypatch.setattr("codi_tf.features.TRAINING_STEPS", 2)
    monkeypatch.setattr("codi_tf.features.CROPS_PER_PHOTO", 2)
    made = _load_network(tmp_path / "features", S)
    monkeypatch.setitem(data.PHOTOS, "train", ())  # nothing could be trained any more
    read = _load_network(tmp_path / "features", S)
    x = np.linspace(-1, 1, 2 * S * S * 3, dtype="float32").reshape(2, S, S, 3)
    np.testing.assert_array_equal(read.features(x), made.features(x))
    assert read.num_photos == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--steps", "0"], "at least 1 and differ"),
        (["--steps", "1,1"], "at least 1 and differ"),
        (["--steps", "1,x"], "write whole numbers"),
        (["--steps", "1001"], "from 1 to 1000"),
        (["--count", "1"], "--count is 1"),
        (["--seed", "-1"], "--seed is -1"),
        (["--data", "none"], "no such folder"),
        (["--out", "file"], "that is a file"),
        (["--out", "full"], "other files than a report"),
        (["--out", "file/report"], "choose another place"),
        (["--features", "full"], "no such file"),
        (["none"], "no such bundle"),
        (["full"], "no such bundle"),
        (["bundle"], "named twice"),
        (["foreign"], "differ in their autoencoder"),
    ],
)
def test_mistakes(bundle, feature_folder, tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("years of work")
    (tmp_path / "bundle").symlink_to(bundle)
    if options == ["foreign"]:
        shutil.copytree(bundle, tmp_path / "foreign")
        other = codi_tf.load(bundle)
        other.base.vae.variables[0].assign_add(other.base.vae.variables[0] + 1)
        save_network(other.base.vae, tmp_path / "foreign" / "vae")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=message) as caught:
        usual = {"--steps": "1", "--count": "2", "--features": str(feature_folder), "--out": "report"}
        _main([str(bundle), *options, *(x for pair in usual.items() if pair[0] not in options for x in pair)])
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_labels():
    assert _labels([Path("runs/a/result"), Path("runs/b/result"), Path("c")]) == ["a", "b", "c"]
    assert _labels([Path("x/a"), Path("y/a")]) == ["x/a", "y/a"]


def test_mistakes_are_told_before_tensorflow_is_loaded(tmp_path):
    program = (
        "import sys; from codi_tf.cli import run_command; from codi_tf.evaluate import _main; "
        "status = run_command(_main); assert not {'tensorflow', 'keras'} & sys.modules.keys(); sys.exit(status)"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "none"), "--out", str(tmp_path / "report")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 2, done.stderr
    assert done.stderr == f"error: {tmp_path / 'none'}: no such bundle; train one or name another\n"
