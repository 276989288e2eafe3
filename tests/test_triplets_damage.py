"""Triplets that are damaged, incomplete or of wrong types: left out and named, or refused in one line."""

from __future__ import annotations

import shutil
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from triplet_checks import error_of, examples, near
from triplets import S, encoded, flat_image, triplet, write_parquet, write_plain, write_prompt_folders

from codi_tf import data
from codi_tf.core.errors import UserError
from codi_tf.data.parquet import ParquetRows
from codi_tf.data.triplets import open_triplets
from codi_tf.tasks.editing import Editing


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "not readable as JSON"),
        ('{"a": 1}', "holds no JSON list"),
        ("[]", "must be a list"),
        ('[["a", ["1"]], ["b"]]', "an entry is ['b']"),
        ('[[5, ["1"]]]', "an entry is [5, ['1']]"),
        ('[["a", "1"]]', "an entry is ['a', '1']"),
        ('[["a", [null]]]', "an entry is ['a', [None]]"),
        ('[["a", [true]]]', "an entry is ['a', [True]]"),
        ('[["/etc", ["1"]]]', "names '/etc', which is no file in its folder"),
        ('[["../a", ["1"]]]', "names '../a', which is no file in its folder"),
        ('[["a", ["/../1"]]]', "names '/../1', which is no file in its folder"),
        ("[" * 200_000, "nested more than 64 levels deep"),
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
        (lambda folder: (folder / "prompt.json").write_text("{"), "prompt.json: not readable"),
        (lambda folder: (folder / "prompt.json").write_text('{"edit": 5}'), '"edit" is 5, not a text'),
        (lambda folder: (folder / "prompt.json").write_text('{"edit": " "}'), "not a text"),
        (lambda folder: (folder / "prompt.json").write_text("[]"), "prompt.json: holds no JSON object"),
        (lambda folder: (folder / "3004_0.jpg").write_bytes(b"no image"), "3004"),
        (
            lambda folder: (folder / "3004_0.jpg").write_bytes(encoded(flat_image(9, 20, 20))),
            "20x20, the image 16x16",
        ),
        (
            lambda folder: [(folder / f"3004_{k}.jpg").write_bytes(encoded(flat_image(9, 8, 20))) for k in (0, 1)],
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
    good = [encoded(flat_image(level)) for level in (0, 50, 100, 150)]
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
    (tmp_path / "a.png").write_bytes(encoded(flat_image(1), "PNG"))
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
