"""Degraded pairs on disk: reproducible, what the task makes of the crops, and readable again."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import tensorflow as tf
from commands import run_here
from PIL import Image
from shards import encoded, new_image, write_tar
from tiny import tiny_photos

from codi_tf import data
from codi_tf.cli import pairs
from codi_tf.core.errors import UserError
from codi_tf.io.folders import MARKER
from codi_tf.io.images import resize
from codi_tf.tasks import make_task


def make(folder, *arguments):
    return run_here(pairs.main, "--out", folder, *arguments)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    photos = tiny_photos(folder / "photos")
    for name in ("first", "second"):
        done = make(folder / name, "--data", photos, "--split", "all", "--count", 3, "--size", 16, "--seed", 5)
        assert done.returncode == 0, done.stderr
    return folder


def pixels(path):
    return np.asarray(Image.open(path))


def test_the_same_arguments_write_the_same_files(written):
    files = sorted(path.relative_to(written / "first") for path in (written / "first").rglob("*.*"))
    assert [str(file) for file in files] == [
        MARKER,
        *(f"gt/0000{i}.png" for i in range(3)),
        *(f"lq/0000{i}.png" for i in range(3)),
        "pairs.json",
    ]
    for file in files:
        assert (written / "first" / file).read_bytes() == (written / "second" / file).read_bytes()
    assert len({(written / "first" / f"gt/0000{i}.png").read_bytes() for i in range(3)}) == 3
    about = json.loads((written / "first" / "pairs.json").read_text())
    assert {"count": 3, "size": 16, "scale": 4, "seed": 5, "task": "real_world"}.items() <= about.items()


def test_a_pair_is_a_crop_and_what_the_task_makes_of_it(written):
    """The crops are those of an evaluation; enlarged, the low-resolution versions are its conditions."""
    source = data.load_source(str(written / "photos"), None)
    expected = data.evaluation_set(source, make_task("real_world"), image_size=16, count=3, seed=5)
    for i in range(3):
        gt, lq = (pixels(written / "first" / part / f"0000{i}.png") for part in ("gt", "lq"))
        assert lq.shape == (4, 4, 3)
        np.testing.assert_allclose(gt / 127.5 - 1, expected["image"][i], atol=0.6 / 127.5)
        enlarged = tf.image.resize(lq / np.float32(255), (16, 16), "bicubic").numpy()
        np.testing.assert_allclose(np.clip(2 * enlarged - 1, -1, 1), expected["condition"][i], atol=1e-5)


def test_they_are_read_again(written):
    pairs = data.read_pairs(written / "first", 2)
    assert data.is_pairs(written / "first") and not data.is_pairs(written)
    for i in range(2):
        gt, lq = (pixels(written / "first" / part / f"0000{i}.png") / 255 for part in ("gt", "lq"))
        np.testing.assert_allclose(pairs["image"][i], 2 * gt - 1, atol=1e-6)
        np.testing.assert_allclose(pairs["condition"][i], 2 * resize(np.float32(lq), 16, 16) - 1, atol=1e-6)


def test_what_is_wrong_with_pairs_is_named(written, tmp_path):
    with pytest.raises(UserError, match="has pairs of scale 4, not 2"):
        data.read_pairs(written / "first", 2, scale=2)
    with pytest.raises(UserError, match="has 3 pairs, not 4; ask for fewer"):
        data.read_pairs(written / "first", 4)
    Image.fromarray(np.zeros((5, 4, 3), np.uint8)).save(written / "second" / "lq" / "00001.png")
    with pytest.raises(UserError, match="00001.png: 4x5, not 4x4"):
        data.read_pairs(written / "second", 2)
    (written / "second" / "gt" / "00000.png").unlink()
    with pytest.raises(UserError, match="00000.png"):
        data.read_pairs(written / "second", 1)
    (tmp_path / "pairs.json").write_text("{}")
    with pytest.raises(UserError, match="pairs.json: size is missing; make the pairs again"):
        data.read_pairs(tmp_path, 1)


def test_without_a_size_the_embedded_photos_give_crops_of_256_pixels(tmp_path):
    done = make(tmp_path / "pairs", "--count", 4)
    assert done.returncode == 0, done.stderr
    assert {pixels(path).shape for path in (tmp_path / "pairs" / "gt").iterdir()} == {(256, 256, 3)}
    assert json.loads((tmp_path / "pairs" / "pairs.json").read_text())["size"] == 256


def members(count, bad):
    return {f"{i:03}.png": b"no image" if i in bad else encoded(new_image(i)) for i in range(count)}


def test_unreadable_records_end_the_work_in_one_line(tmp_path):
    write_tar(tmp_path / "a.tar", members(36, range(0, 36, 2)))
    done = make(tmp_path / "pairs", "--data", tmp_path / "a.tar", "--split", "all", "--count", 30, "--size", 16)
    lines = done.stderr.splitlines()
    assert done.returncode == 2 and re.match(r"error: \d of \d+ records are unreadable", lines[-1])
    assert "Traceback" not in done.stderr and not (tmp_path / "pairs").exists()


def test_a_few_unreadable_records_are_counted_and_named(tmp_path):
    write_tar(tmp_path / "a.tar", members(120, [7]))
    done = make(tmp_path / "pairs", "--data", tmp_path / "a.tar", "--split", "all", "--count", 120, "--size", 16)
    assert done.returncode == 0, done.stderr
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("warning: "))
    assert re.search(r"warning: 1 of 120 records were unreadable, .*a\.tar: 007: ", line)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--size", 18], "sides that scale 4 divides"),
        (["--task", "inpainting"], "--task is inpainting: use one of"),
        (["--count", 0], "--count is 0"),
        (["--size", 4096], "smaller than image_size 4096"),
        (["scale=0"], "scale must be a whole number"),
        (["scale=["], "override 'scale=[': '[' is not a YAML value"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(tmp_path, arguments, message):
    done = make(tmp_path / "pairs", *arguments)
    assert done.returncode == 2 and message in done.stderr and len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "pairs").exists()
