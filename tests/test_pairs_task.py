"""Any paired task: windows of source and target, colorization and deblurring from their folders to their images."""

from __future__ import annotations

import json
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from commands import run_here
from end_to_end import ROOT, measured
from export_cases import command as export
from PIL import Image
from shards import encoded, example, write_tfrecord
from tiny import tiny_run

import codi_tf
from codi_tf import config, data
from codi_tf.cli import cache, restore, train
from codi_tf.config import places
from codi_tf.core.errors import UserError
from codi_tf.io.color import LUMA
from codi_tf.io.images import resize
from codi_tf.tasks import make_task
from export.runtime import run as export_run

S = 16
NAMES = [f"{i:02}" for i in range(12)]


def target(i: int, height: int = 24, width: int = 32) -> np.ndarray:
    return np.random.default_rng(i).integers(0, 256, (height, width, 3), np.uint8)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """low/, high/: a target and its negative, nested, of other extensions; small/: the negatives, half as large."""
    folder = tmp_path_factory.mktemp("pairs")
    for name in ("low", "high", "small"):
        (folder / name / "more").mkdir(parents=True)
    for i, name in enumerate(NAMES):
        place = f"more/{name}" if i % 2 else name
        Image.fromarray(target(i)).save(folder / "high" / f"{place}.png")
        Image.fromarray(255 - target(i)).save(folder / "low" / f"{place}.bmp")
        small = 255 - np.rint(255 * resize(target(i) / np.float32(255), 12, 16)).astype(np.uint8)
        Image.fromarray(small).save(folder / "small" / f"{place}.png")
    return folder


def drawn(source, task, count: int = 12, **options):
    """Examples as training draws them: mirrored, too."""
    batches = data.batches(source, task, image_size=S, batch_size=count, seed=3, **options)
    batch = next(iter(batches.as_numpy_iterator()))
    return batch["image"], batch["condition"]


def test_source_and_target_are_cut_and_mirrored_together(folders):
    """Catches a source of another pair, another window, or one that is not mirrored along."""
    task, name = make_task("pairs"), f"{folders / 'low'}:{folders / 'high'}"
    source = data.load_source(name, None, task)
    image, condition = drawn(source, task)
    np.testing.assert_allclose(condition, -image, atol=1e-5)
    assert len(source) == 12 and np.ptp(image) > 1
    parts = [data.load_source(name, split, task, heldout_fraction=0.4) for split in ("train", "heldout")]
    assert sorted(len(part) for part in parts) != [0, 12] and sum(map(len, parts)) == 12
    again = drawn(data.load_source(name, None, task), task, start_step=0)
    np.testing.assert_array_equal(again[0], image)


def test_whole_images_and_sources_of_another_size(folders):
    """Catches `crop` and `resize` that do nothing, or resize another way than what a user would give."""
    whole = make_task("pairs", crop=False)
    source = data.load_source(f"{folders / 'low'}:{folders / 'high'}", None, whole)
    u = np.zeros(5, np.float32)
    assert source.example(0, u, S)["image"].shape[0] == 24 and not whole.is_local and make_task("pairs").is_local
    task = make_task("pairs", resize=True, crop=False)
    resized = data.load_source(f"{folders / 'small'}:{folders / 'high'}", None, task)
    for i in range(12):
        found = resized.example(i, u, S)
        (number,) = (n for n in range(12) if np.array_equal(target(n)[:24, :24], found["image"]))
        name = f"more/{NAMES[number]}" if number % 2 else NAMES[number]
        small = np.asarray(Image.open(folders / "small" / f"{name}.png"), np.float32) / 255
        expected = np.rint(255 * resize(small, 24, 32))[:, :24]
        np.testing.assert_array_equal(found["source"], expected)
    with pytest.raises(UserError, match=r"its source is 12x16, the image 24x32"):
        data.load_source(f"{folders / 'small'}:{folders / 'high'}", None, make_task("pairs")).example(0, u, S)


def test_gray_is_the_luma_of_the_source_and_of_a_users_image(folders):
    """Catches colors that leak into the condition of colorization, in training or in use."""
    task, name = make_task("pairs", gray=True), f"{folders / 'high'}:{folders / 'high'}"
    image, condition = drawn(data.load_source(name, None, task), task)
    expected = np.repeat((image @ np.array(LUMA, np.float32))[..., None], 3, axis=-1)
    np.testing.assert_allclose(condition, expected, atol=1e-5)
    np.testing.assert_allclose(task.condition_from_image(image), condition, atol=1e-6)
    np.testing.assert_allclose(task.condition_from_image(expected), expected, atol=1e-6)
    assert not task.keeps_colors and make_task("pairs").keeps_colors


def test_columns_features_and_companions_are_pairs_too(tmp_path):
    """Catches sources that need an instruction, and columns that the user names in vain."""
    task, files = make_task("pairs"), [encoded(target(i)) for i in range(4)]
    negatives = [encoded(255 - target(i)) for i in range(4)]
    pq.write_table(pa.table({"source": negatives, "image": files}), tmp_path / "known.parquet")
    pq.write_table(pa.table({"a": negatives, "b": files}), tmp_path / "own.parquet")
    write_tfrecord(tmp_path / "own.tfrecord", [example(a=a, b=b) for a, b in zip(negatives, files, strict=True)])
    (tmp_path / "beside").mkdir()
    for i in range(4):
        (tmp_path / "beside" / f"{i}.png").write_bytes(files[i])
        (tmp_path / "beside" / f"{i}.source.png").write_bytes(negatives[i])
    for name in ("known.parquet", "own.parquet?source=a&image=b", "own.tfrecord?source=a&image=b", "beside"):
        source = data.load_source(str(tmp_path / name), None, task)
        image, condition = drawn(source, task, 4)
        assert len(source) == 4
        np.testing.assert_allclose(condition, -image, atol=1e-5)
    parts = [data.load_source(str(tmp_path / "known.parquet"), s, task, heldout_fraction=0.5) for s in ("train", None)]
    assert 0 < len(parts[0]) < len(parts[1])
    for name, message in (
        ("own.parquet", r"no column .*\?image=COLUMN"),
        ("own.parquet?source=a&text=b", "unknown option text; use image, source"),
        ("own.tfrecord?image=b", r"has no pairs; name the features .*\?source=FEATURE&image=FEATURE"),
    ):
        with pytest.raises(UserError, match=message):
            data.load_source(str(tmp_path / name), None, task)


def test_what_is_no_pair_is_one_line(folders, tmp_path):
    """Catches a file without a partner that is left out in silence, and a folder whose images are all targets."""
    task = make_task("pairs")
    for name, message in (
        ("photos", "these photos are no pairs; name two folders, SOURCE:TARGET"),
        (str(folders / "high"), r"has no pairs; name two folders, SOURCE:TARGET, or put NAME\.source\.jpg"),
        (f"{folders / 'high'}:{tmp_path / 'gone'}", "no such folder of images: .*gone"),
    ):
        with pytest.raises(UserError, match=message):
            data.load_source(name, None, task)
    (tmp_path / "few").mkdir()
    Image.fromarray(target(0)).save(tmp_path / "few" / "00.png")
    with pytest.raises(UserError, match=r"few has none of the name of .*02\.png and of 10 more; pair them all"):
        data.load_source(f"{tmp_path / 'few'}:{folders / 'high'}", None, task)
    with pytest.raises(UserError, match="high holds pairs, for task pairs and to evaluate on"):
        data.load_source(f"{folders / 'low'}:{folders / 'high'}", None, make_task("bicubic"))
    with pytest.raises(UserError, match="pairs: crop must be true or false, not 1"):
        make_task("pairs", crop=1)


def test_two_folders_in_a_config_are_found_as_one_is(folders, tmp_path, monkeypatch):
    """Catches pairs beside a config that are looked up in the working directory, and a run that cannot resume."""
    values = {"base": "base", "method": {"name": "codi"}, "task": {"name": "pairs"}, "train": {"steps": 1}}
    values["data"] = {"image_size": S, "source": "low:high"}
    for name in ("project", "runs"):
        (tmp_path / name).mkdir()
    for name in ("low", "high"):
        (tmp_path / "project" / name).symlink_to(folders / name)
    path = tmp_path / "project" / "tiny.yaml"
    path.write_text(yaml.safe_dump(values))
    monkeypatch.chdir(tmp_path)
    found = config.load(path, [])
    assert found.data.source == "project/low:project/high"
    assert len(data.load_source(found.data.source, None, make_task("pairs"))) == 12
    written = found.as_dict()
    places.write_down(written, tmp_path / "runs")
    assert written["data"]["source"] == "../project/low:../project/high"
    places.resolve(written, tmp_path / "runs" / "config.yaml")
    assert written["data"]["source"] == "project/low:project/high"
    now = f"{tmp_path / 'project' / 'low'}:{tmp_path / 'project' / 'high'}"
    places.adopt(written, {"data": {"source": now}})
    assert written["data"]["source"] == now


FOLDERS = {"blurred": "low", "sharp": "high", "photos": "high"}  # of the examples: those that stand for them


def overrides(name: str) -> list[str]:
    """What an example of docs/tasks.md adds to its config."""
    text = (ROOT / "docs" / "tasks.md").read_text(encoding="utf-8")
    return re.search(rf"codi train configs/photos_codi\.yaml (.*) --out runs/{name}\n", text)[1].split()


@pytest.mark.usefixtures("eager")
@pytest.mark.slow
@pytest.mark.parametrize("name", ["deblurring", "colorization"])
def test_the_examples_become_models(folders, tmp_path, monkeypatch, name):
    """Encoded, trained, evaluated, loaded, restored, exported, run: catches what any of these refuses of the task."""
    monkeypatch.chdir(tmp_path)
    for link, folder in FOLDERS.items():
        (tmp_path / link).symlink_to(folders / folder)
    source = next(word.partition("=")[2] for word in overrides(name) if word.startswith("data.source="))
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(tiny_run(tmp_path / "tiny", steps=2, sample_every=2)))
    given = (tmp_path / "tiny.yaml", "data.heldout_fraction=0.4", *overrides(name))
    run, encoded_examples = tmp_path / "run", tmp_path / "encoded"
    for main, words in (
        (cache.main, [*given, "--out", encoded_examples, "--examples", 8]),
        (train.main, [*given, f"data.source={encoded_examples}", "--out", run]),
    ):
        done = run_here(main, *words)
        assert done.returncode == 0, done.stderr
    model = codi_tf.load(run / "result")
    assert model.task == make_task("pairs", gray=name == "colorization")
    rows = measured(run / "result", tmp_path / "report", "--data", source)
    assert len(rows) == 4 and all(np.isfinite(row["frechet_photos"]) for row in rows.values())
    image = folders / "low" / "00.bmp"
    out = ("--out", tmp_path / "a.png")
    done = run_here(restore.main, run / "result", "--condition", image, "--steps", 1, "--seed", 3, *out)
    assert done.returncode == 0, done.stderr
    done = export(run / "result", "--format", "onnx", "--steps", 1, "--size", "24x32", "--out", tmp_path / "package")
    assert done.returncode == 0, done.stderr
    manifest = json.loads((tmp_path / "package" / "manifest.json").read_text())
    assert manifest["task"]["name"] == "pairs" and manifest["is_local"]
    done = run_here(
        export_run.main, tmp_path / "package", "--condition", image, "--seed", 3, "--out", tmp_path / "b.png"
    )
    assert done.returncode == 0, done.stderr
    made = [np.asarray(Image.open(tmp_path / f"{name}.png")).astype(int) for name in "ab"]
    assert made[0].shape == (24, 32, 3) and made[0].std() > 5
    assert np.abs(made[0] - made[1]).max() <= 1
