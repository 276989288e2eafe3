"""Triplets on disk: three layouts give the same examples, in an order that a seed decides."""

from __future__ import annotations

import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image
from shards import example, write_tfrecord
from triplet_checks import error_of, examples, near
from triplets import EDITS, S, encoded, flat_image, triplet, write_parquet, write_plain, write_prompt_folders

from codi_tf import data
from codi_tf.data.open_source import open_source
from codi_tf.data.triplets import open_triplets
from codi_tf.tasks.editing import Editing


def expected(count):
    return sorted(triplet(i) for i in range(count))


# --- layouts


def test_prompt_folders(tmp_path):
    source = open_triplets(write_prompt_folders(tmp_path / "ip2p"))
    assert set(source.provides) == {"source", "prompt", "caption", "source_caption"} and len(source) == 8
    wanted = sorted((*triplet(i)[:2], EDITS[i // 2 % 4]) for i in range(8))
    near(sorted(examples(source, 8)), wanted)
    assert examples(source, 24)[8:16] != examples(source, 8)  # another order in another epoch
    near(sorted(examples(source, 24)[8:16]), wanted)


def test_captions_of_prompt_folders(tmp_path):
    """ "output" is the caption of the edited image, "input" that of the image before; only where the first has both."""
    folder = write_prompt_folders(tmp_path / "ip2p")
    options = {"image_size": S, "count": 3, "seed": 0, "keys": ("caption", "source_caption")}
    found = data.evaluation_set(open_triplets(folder), Editing(), **options)
    assert found["caption"].tolist() == ["b"] * 3 and found["source_caption"].tolist() == ["a"] * 3
    without = data.evaluation_set(open_triplets(folder), Editing(), **{**options, "keys": (), "prompts": False})
    assert set(without) == {"image", "condition"}
    for file in sorted(folder.glob("*/prompt.json")):
        about = json.loads(file.read_text())
        file.write_text(json.dumps({"edit": about["edit"], "input": "a"}))
    assert set(open_triplets(folder).provides) == {"source", "prompt"}


@pytest.mark.parametrize("struct", [True, False])
@pytest.mark.parametrize(
    "columns",
    [
        ("original_image", "edit_prompt", "edited_image"),
        ("input_image", "edit_prompt", "edited_image"),
        ("source_img", "instruction", "target_img"),
        ("input_image", "edit", "output_image"),
    ],
)
def test_parquet(tmp_path, columns, struct):
    for number in range(2):
        names = range(10 * number, 10 * number + 10)
        write_parquet(tmp_path / f"train-{number}.parquet", names, columns=columns, struct=struct)
    for name in (tmp_path, tmp_path / "train-{0..1}.parquet", tmp_path / "*.parquet"):
        source = open_triplets(name)
        assert len(source) == 20
    near(sorted(examples(source, 20)), expected(20))
    assert len(open_triplets(tmp_path / "train-1.parquet")) == 10


def test_a_plain_folder(tmp_path):
    source = open_triplets(write_plain(tmp_path / "plain"))
    near(sorted(examples(source, 8)), expected(8))


def test_shards(tmp_path):
    plain = write_plain(tmp_path / "plain")
    with tarfile.open(tmp_path / "shard.tar", "w") as tar:
        for file in sorted(plain.iterdir()):
            tar.add(file, file.name)
    near(sorted(examples(open_triplets(tmp_path / "shard.tar"), 8)), expected(8))


def write_examples(path, features):
    """The eight triplets as tf.train.Example, their features called so: before, instruction, after."""
    payloads = []
    for before, after, text in map(triplet, range(8)):
        values = (encoded(flat_image(before)), text.encode(), encoded(flat_image(after)))
        payloads.append(example(**dict(zip(features, values, strict=True))))
    return write_tfrecord(path, payloads)


@pytest.mark.parametrize(
    "features", [("original_image", "edit_prompt", "edited_image"), ("source_img", "instruction", "target_img")]
)
def test_tfrecords(tmp_path, features):
    path = write_examples(tmp_path / "edits.tfrecord", features)
    near(sorted(examples(open_triplets(path), 8)), expected(8))


def test_tfrecords_with_names_of_their_own(tmp_path):
    path = write_examples(tmp_path / "edits.tfrecord", ("old", "order", "image"))
    for options, missing in (("", "images before the edits"), ("?source=old", "instructions")):
        message = error_of(f"{path}{options}")
        assert f"has no {missing}" in message and "?source=FEATURE&image=FEATURE&text=FEATURE" in message
    near(sorted(examples(open_triplets(f"{path}?source=old&image=image&text=order"), 8)), expected(8))


def test_a_pattern_catches_what_stands_beside_images(tmp_path):
    folder = write_plain(tmp_path / "plain")
    (folder / "00.depth.png").write_bytes(encoded(flat_image(0), "PNG"))
    source = open_triplets(folder / "*.*g")
    assert len(source) == 8
    near(sorted(examples(source, 8)), expected(8))
    assert sorted(open_source(f"{folder}/*.*g").images) == [f"{i:02d}.jpg" for i in range(8)]
    assert "00.source.png is a companion of an image" in error_of(folder / "*.source.png")


def test_examples_are_functions_of_seed_and_number(tmp_path):
    path = write_parquet(tmp_path / "t.parquet", range(30))
    source = open_triplets(path)
    assert examples(source, 12) == examples(open_triplets(path), 12)
    resumed = data.crops(open_triplets(path), image_size=S, seed=0, start=7, augment=False).take(1)
    whole = list(data.crops(source, image_size=S, seed=0, augment=False).take(8).as_numpy_iterator())
    for key, value in next(resumed.as_numpy_iterator()).items():
        np.testing.assert_array_equal(value, whole[7][key])
    assert examples(source, 12) != examples(open_triplets(path, seed=1), 12)


def test_batches_for_editing(tmp_path):
    """The condition is the image before; the same square of both, mirrored together."""
    ramp = np.linspace(0, 255, 40 * 24 * 3).reshape(24, 40, 3).astype(np.uint8)
    plain = tmp_path / "plain"
    plain.mkdir()
    Image.fromarray(ramp).save(plain / "a.source.png")
    Image.fromarray(255 - ramp).save(plain / "a.png")
    (plain / "a.txt").write_text("invert it")
    batches = data.batches(open_triplets(plain), Editing(), image_size=S, batch_size=8, seed=0).take(2)
    for batch in batches.as_numpy_iterator():
        np.testing.assert_allclose(batch["condition"], -batch["image"], atol=1e-5)
        assert len(np.unique(batch["image"], axis=0)) > 4  # other places, and mirrored ones


# --- splits


@pytest.mark.parametrize("layout", ["folders", "parquet", "plain"])
def test_splits_are_disjoint_and_complete(tmp_path, layout):
    name = {
        "folders": lambda: write_prompt_folders(tmp_path / "x", 40),
        "parquet": lambda: write_parquet(tmp_path / "x.parquet", range(40)),
        "plain": lambda: write_plain(tmp_path / "x", 40),
    }[layout]()
    train, heldout = (open_triplets(name, split, heldout_fraction=0.4) for split in ("train", "heldout"))
    drawn = [sorted(examples(source, len(source))) for source in (train, heldout)]
    assert min(map(len, drawn)) > 0
    assert len(set(drawn[0] + drawn[1])) == 40
    if layout == "parquet":  # an instruction is on one side
        assert not {text for *_, text in drawn[0]} & {text for *_, text in drawn[1]}


def test_empty_splits_and_unknown_ones_are_an_error(tmp_path):
    path = write_parquet(tmp_path / "x.parquet", range(4))
    assert "none of the triplets" in error_of(path, "heldout", heldout_fraction=0.0)
    assert "unknown split 'test'" in error_of(path, "test")


# --- the order of parquet's rows


def order(rows, epoch, seed=0):
    return [rows.at(place, seed=seed, epoch=epoch) for place in range(len(rows))]


def test_row_groups_are_read_once_an_epoch(tmp_path, monkeypatch):
    """Blocks of neighbors in the order fit into memory; within one the rows of its groups are mixed."""
    paths = [write_parquet(tmp_path / f"{n}.parquet", range(20), group=4) for n in range(3)]
    monkeypatch.setattr("codi_tf.data.parquet.IN_MEMORY", 1)
    smallest = open_triplets(tmp_path).records
    monkeypatch.setattr("codi_tf.data.parquet.IN_MEMORY", int(6.5 * smallest.groups[0, 3]))
    rows = open_triplets(tmp_path).records
    assert len(paths) * 5 == len(rows.groups)
    for epoch in range(2):
        drawn = order(rows, epoch)
        assert sorted(drawn) == list(range(60))
        groups = [row // 4 for row in drawn]
        seen = {group: [place for place, one in enumerate(groups) if one == group] for group in groups}
        assert max(max(places) - min(places) for places in seen.values()) < 4 * 4  # at most four groups at a time
        assert any(max(places) - min(places) > 3 for places in seen.values())  # and not one after another
    assert order(rows, 0) != order(rows, 1) and order(rows, 0) != order(rows, 0, seed=1)
    assert order(rows, 0) == order(open_triplets(tmp_path).records, 0)


def test_rows_of_a_split_keep_to_their_groups(tmp_path):
    write_parquet(tmp_path / "x.parquet", range(40), group=5)
    rows = open_triplets(tmp_path, "train", heldout_fraction=0.5).records
    assert sorted(order(rows, 3)) == list(range(len(rows))) and 0 < len(rows) < 40
    for i in range(len(rows)):
        before, after, text = triplet(int(rows.rows[i]))
        fields = rows.read(i)
        assert fields["text"].decode() == rows.texts[i] == text
        for field, level in (("source", before), ("image", after)):
            assert abs(np.asarray(Image.open(io.BytesIO(fields[field]))).mean() - level) < 2
        assert rows.name(i) == f"{tmp_path / 'x.parquet'}: row {rows.rows[i]}"


def test_examples_come_in_this_order_and_show_the_whole_image(tmp_path):
    rows = write_parquet(tmp_path / "x.parquet", range(40), group=5)
    source = open_triplets(rows)
    near(examples(source, 40), [triplet(i) for i in order(source.records, 0)])
    plain = tmp_path / "plain"
    plain.mkdir()
    ramp = np.broadcast_to(np.linspace(0, 255, 4 * S)[:, None, None], (4 * S, 4 * S, 3)).astype(np.uint8)
    for name in ("a.png", "a.source.png"):
        Image.fromarray(ramp).save(plain / name)
    (plain / "a.txt").write_text("change nothing")
    for drawn in data.crops(open_triplets(plain), image_size=S, seed=0, augment=False).take(5).as_numpy_iterator():
        np.testing.assert_allclose(drawn["image"][[0, -1]].mean(axis=(1, 2)), (-1, 1), atol=0.06)


def test_memory_is_bounded(tmp_path, monkeypatch):
    write_parquet(tmp_path / "x.parquet", range(40), group=2)
    rows = open_triplets(tmp_path).records
    monkeypatch.setattr("codi_tf.data.parquet.IN_MEMORY", 3 * rows._group(0).nbytes)
    for i in range(40):
        near([(0, 0, rows.read(i)["text"].decode())], [(0, 0, triplet(i)[2])])
        assert 1 <= len(rows._cached) <= 4
    assert 0 not in rows._cached
