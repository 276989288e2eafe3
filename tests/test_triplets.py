"""Triplets on disk: three layouts give the same examples; wrong types and missing files are named in one line."""

from __future__ import annotations

import io
import shutil
import sys
import tarfile
import warnings

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from PIL import Image
from shards import example, write_tfrecord
from triplets import EDITS, S, encoded, picture, triplet, write_parquet, write_plain, write_prompt_folders

from codi_tf import data
from codi_tf.core.errors import UserError, user_errors
from codi_tf.data.open_source import open_source
from codi_tf.data.parquet import ParquetRows
from codi_tf.data.triplets import open_triplets
from codi_tf.tasks.editing import Editing


def examples(source, count, seed=0):
    """The first examples as (level before, level after, instruction)."""
    dataset = data.crops(source, image_size=S, seed=seed, augment=False).take(count)
    with user_errors():
        drawn = list(dataset.as_numpy_iterator())
    levels = [[np.rint(127.5 * (one[key].mean() + 1)) for key in ("source", "image")] for one in drawn]
    return [(*map(int, pair), one["prompt"].decode()) for pair, one in zip(levels, drawn, strict=True)]


def expected(count):
    return sorted(triplet(i) for i in range(count))


def near(found, wanted):
    """Whether the examples are these, to the levels that JPEG takes or adds."""
    assert [text for *_, text in found] == [text for *_, text in wanted]
    np.testing.assert_allclose([one[:2] for one in found], [one[:2] for one in wanted], atol=2)


def error_of(name, *arguments, **options):
    with warnings.catch_warnings(), pytest.raises(UserError) as caught:
        warnings.simplefilter("ignore")
        open_triplets(name, *arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- layouts


def test_prompt_folders(tmp_path):
    source = open_triplets(write_prompt_folders(tmp_path / "ip2p"))
    assert set(source.provides) == {"source", "prompt"} and len(source) == 8
    wanted = sorted((*triplet(i)[:2], EDITS[i // 2 % 4]) for i in range(8))
    near(sorted(examples(source, 8)), wanted)
    assert examples(source, 24)[8:16] != examples(source, 8)  # another order in another epoch
    near(sorted(examples(source, 24)[8:16]), wanted)


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
        values = (encoded(picture(before)), text.encode(), encoded(picture(after)))
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


def test_a_pattern_catches_what_stands_beside_pictures(tmp_path):
    folder = write_plain(tmp_path / "plain")
    (folder / "00.depth.png").write_bytes(encoded(picture(0), "PNG"))
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
    """The condition is the picture before; the same square of both, mirrored together."""
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
    """Blocks of neighbours in the order fit into memory; within one the rows of its groups are mixed."""
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


def test_examples_come_in_this_order_and_show_the_whole_picture(tmp_path):
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
        assert 1 <= len(rows._kept) <= 4
    assert 0 not in rows._kept


# --- bad input


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "cannot read"),
        ('{"a": 1}', "must be a list"),
        ("[]", "must be a list"),
        ('[["a", ["1"]], ["b"]]', "an entry is ['b']"),
        ('[[5, ["1"]]]', "an entry is [5, ['1']]"),
        ('[["a", "1"]]', "an entry is ['a', '1']"),
        ('[["a", [null]]]', "an entry is ['a', [None]]"),
    ],
)
def test_wrong_lists_are_an_error(tmp_path, content, said):
    (tmp_path / "seeds.json").write_text(content)
    message = error_of(tmp_path)
    assert said in message and "seeds.json" in message


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: (folder / "3004_1.jpg").unlink(), "3004_1.jpg: No such file"),
        (lambda folder: (folder / "prompt.json").unlink(), "prompt.json: No such file"),
        (lambda folder: (folder / "prompt.json").write_text("{"), "prompt.json is damaged"),
        (lambda folder: (folder / "prompt.json").write_text('{"edit": 5}'), '"edit" is 5, not a text'),
        (lambda folder: (folder / "prompt.json").write_text('{"edit": " "}'), "not a text"),
        (lambda folder: (folder / "prompt.json").write_text("[]"), '"edit" is None'),
        (lambda folder: (folder / "3004_0.jpg").write_bytes(b"no picture"), "3004"),
        (lambda folder: (folder / "3004_0.jpg").write_bytes(encoded(picture(9, 20, 20))), "20x20, the image 16x16"),
        (
            lambda folder: [(folder / f"3004_{k}.jpg").write_bytes(encoded(picture(9, 8, 20))) for k in (0, 1)],
            "smaller",
        ),
    ],
)
def test_damaged_triplets_are_left_out_and_named(tmp_path, damage, said):
    folder = write_prompt_folders(tmp_path / "ip2p", seeds=1)
    damage(folder / "0000004")
    source = open_triplets(folder, max_unreadable=0.2)
    drawn = examples(source, 8)
    wanted = {triplet(i) for i in range(8) if i != 4}
    near(sorted(set(drawn)), sorted(wanted))
    (line,) = source.unreadable
    assert said in line and "0000004: 3004" in line and "\n" not in line


def test_too_much_damage_is_an_error(tmp_path):
    folder = write_prompt_folders(tmp_path / "ip2p", seeds=1)
    (folder / "0000004" / "prompt.json").unlink()
    with pytest.raises(UserError, match="0000004: 3004: prompt.json: No such file") as caught:
        examples(open_triplets(folder), 8)
    assert "\n" not in str(caught.value)


def test_nothing_readable_is_an_error(tmp_path):
    folder = write_prompt_folders(tmp_path / "ip2p")
    for inside in folder.iterdir():
        if inside.is_dir():
            shutil.rmtree(inside)
    with pytest.raises(UserError, match="No such file") as caught:
        examples(open_triplets(folder), 1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"original_image": [b"x"], "edited_image": [b"x"]}, "no column edit_prompt"),
        ({"original_image": [b"x"], "edited_image": [b"x"], "edit_prompt": [5]}, "edit_prompt is of type int64"),
        ({"original_image": [b"x"], "edited_image": [b"x"], "edit_prompt": [["a"]]}, "edit_prompt is of type list"),
        (
            {"original_image": ["x.jpg"], "edited_image": [b"x"], "edit_prompt": ["a"]},
            "original_image is of type string",
        ),
        ({"edited_image": [b"x"], "edit_prompt": ["a"]}, "no column original_image"),
        ({"original_image": [{"path": "x"}], "edited_image": [b"x"], "edit_prompt": ["a"]}, "is of type struct"),
    ],
)
def test_wrong_columns_are_an_error(tmp_path, table, said):
    pq.write_table(pa.table(table), tmp_path / "x.parquet")
    message = error_of(tmp_path)
    assert said in message and "x.parquet" in message


def test_rows_that_cannot_be_used(tmp_path):
    good = [encoded(picture(level)) for level in (0, 50, 100, 150)]
    table = {
        "original_image": [good[0], None, good[2], good[3]],
        "edited_image": good,
        "edit_prompt": ["a", "b", None, "d"],
    }
    pq.write_table(pa.table(table), tmp_path / "x.parquet")
    with pytest.warns(UserWarning, match="rows without an instruction are left out: 1"):
        source = open_triplets(tmp_path, max_unreadable=0.4)
    assert {text for *_, text in examples(source, 6)} == {"a", "d"}
    assert source.unreadable == [f"{tmp_path / 'x.parquet'}: row 1: original_image is empty"]


def test_damaged_parquet_files(tmp_path):
    for number in range(3):
        write_parquet(tmp_path / f"{number}.parquet", range(10 * number, 10 * number + 10))
    whole = (tmp_path / "1.parquet").read_bytes()
    (tmp_path / "1.parquet").write_bytes(whole[:-20])
    message = error_of(tmp_path)
    assert "1.parquet" in message and "1 of 3 shards are damaged" in message
    with pytest.warns(UserWarning, match=r"shards are damaged.*1\.parquet"):
        source = open_triplets(tmp_path, max_unreadable=0.5)
    near(sorted(examples(source, 20)), sorted(triplet(i) for i in (*range(10), *range(20, 30))))
    assert source.records.name(10) == f"{tmp_path / '2.parquet'}: row 0"
    for number in range(3):
        (tmp_path / f"{number}.parquet").write_bytes(b"PAR1 no")
    assert "no row can be read" in error_of(tmp_path)


def spoil(path, column):
    """Overwrites a column of the second row group."""
    content = bytearray(path.read_bytes())
    with pq.ParquetFile(path) as file:
        group = file.metadata.row_group(1)
        chunks = (group.column(k) for k in range(group.num_columns))
        chunk = next(chunk for chunk in chunks if chunk.path_in_schema.startswith(column))
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    content[start : start + chunk.total_compressed_size] = bytes(chunk.total_compressed_size)
    path.write_bytes(content)


def test_files_with_damaged_instructions_are_left_out(tmp_path):
    for number in range(3):
        write_parquet(tmp_path / f"{number}.parquet", range(10 * number, 10 * number + 10), group=5)
    spoil(tmp_path / "1.parquet", "edit_prompt")
    with pytest.warns(UserWarning, match=r"shards are damaged.*1\.parquet"):
        source = open_triplets(tmp_path, max_unreadable=0.5)
    near(sorted(examples(source, 20)), sorted(triplet(i) for i in (*range(10), *range(20, 30))))


def test_damaged_row_groups_are_left_out(tmp_path):
    path = write_parquet(tmp_path / "x.parquet", range(20), group=5)
    spoil(path, "original_image")
    source = open_triplets(path, max_unreadable=0.5)
    drawn = set(examples(source, 30))
    assert {5 * (one[0] // 5) for one in drawn} <= {*range(0, 25, 5), *range(45, 105, 5)}
    assert source.unreadable and all("the row group is damaged" in line for line in source.unreadable)


def test_lonely_files_of_a_plain_folder_are_named(tmp_path):
    folder = write_plain(tmp_path / "plain")
    (folder / "01.source.png").unlink()
    (folder / "02.txt").unlink()
    with pytest.warns(UserWarning) as caught:
        source = open_triplets(folder)
    lines = [str(one.message) for one in caught]
    assert any("without a NAME.source image are left out: 1 (01.jpg)" in line for line in lines)
    assert any("without an instruction, NAME.txt, are left out: 1 (02.jpg)" in line for line in lines)
    assert len(source) == 6
    for i in range(8):
        (folder / f"{i:02d}.txt").unlink(missing_ok=True)
    assert "has no triplet" in error_of(folder)


def test_what_holds_no_edits_is_an_error(tmp_path):
    (tmp_path / "a.png").write_bytes(encoded(picture(1), "PNG"))
    assert "has no images before the edits" in error_of(tmp_path)
    assert "no such parquet file" in error_of(tmp_path / "none.parquet")
    assert str(tmp_path / "none") in error_of(tmp_path / "none")


def test_parquet_is_read_by_several_threads(tmp_path):
    write_parquet(tmp_path / "x.parquet", range(40), group=3)
    batches = data.batches(open_triplets(tmp_path), Editing(), image_size=S, batch_size=10, seed=0, augment=False)
    levels = np.concatenate([batch["condition"].mean(axis=(1, 2, 3)) for batch in batches.take(4).as_numpy_iterator()])
    np.testing.assert_allclose(np.sort(127.5 * (levels + 1)), [5 * i for i in range(40)], atol=2)
    assert isinstance(open_triplets(tmp_path).records, ParquetRows)
    assert tf.data.experimental.cardinality(batches).numpy() != 0


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    write_parquet(tmp_path / "x.parquet", range(4))
    monkeypatch.setitem(sys.modules, "pyarrow", None)  # as if it were not installed
    assert "pip install pyarrow" in error_of(tmp_path)
