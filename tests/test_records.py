"""Records in shards and folders: found from headers alone, read in any order, damage named."""

from __future__ import annotations

import hashlib
import tarfile
from collections import Counter

import numpy as np
import pytest
import tensorflow as tf
from shards import encoded, example, new_image, write_tar, write_tfrecord

from codi_tf.core.errors import UserError
from codi_tf.data.permutation import permuted
from codi_tf.data.records import Unreadable, index_files, index_tfrecord, index_webdataset
from codi_tf.io.listing import files_below
from codi_tf.io.naming import field_of

JPG = encoded(new_image(0), "JPEG")


# --- permutation


@pytest.mark.parametrize("count", [1, 2, 3, 5, 16, 17, 64, 100, 1000])
def test_a_permutation(count):
    for seed, epoch in ((0, 0), (0, 1), (7, 0), (2**63 - 1, 10**6)):
        order = [permuted(i, count, seed=seed, epoch=epoch) for i in range(count)]
        assert sorted(order) == list(range(count))
        assert count < 10 or order != list(range(count))


def test_every_thing_comes_to_every_place():
    """Over the epochs each of 10 things is at each place equally often: chi-square, and no pair is tied together."""
    orders = np.array([[permuted(i, 10, seed=3, epoch=e) for i in range(10)] for e in range(2000)])
    table = np.array([np.bincount(orders[:, place], minlength=10) for place in range(10)])
    assert ((table - 200) ** 2 / 200).sum() < 81 + 5 * np.sqrt(2 * 81)
    followers = Counter(zip(orders[:, 0], orders[:, 1], strict=True))  # 90 pairs, 22 of each
    assert len(followers) == 90 and max(followers.values()) < 22.2 + 6 * np.sqrt(22.2)
    other_seed = [permuted(i, 10, seed=4, epoch=0) for i in range(10)]
    assert list(orders[0]) != list(orders[1]) and list(orders[0]) != other_seed


def test_a_huge_permutation_needs_no_table():
    count = 3 * 10**12
    places = [permuted(i, count, seed=1, epoch=2) for i in range(200)]
    assert len(set(places)) == 200 and all(0 <= p < count for p in places)
    assert abs(np.mean(places) / count - 0.5) < 5 * 0.29 / np.sqrt(200)


# --- TFRecord files


def payloads(count, seed=0):
    random = np.random.default_rng(seed)
    return [random.bytes(int(random.integers(0, 2000))) for _ in range(count)]


def test_tfrecords_in_any_order(tmp_path):
    parts = [payloads(7, 1), [], payloads(5, 2)]
    paths = [write_tfrecord(tmp_path / f"{i}.tfrecord", part) for i, part in enumerate(parts)]
    records = index_tfrecord(paths)
    assert len(records) == 12 and records.fields == ("example",) and records.damaged == ()
    peer = [record.numpy() for record in tf.data.TFRecordDataset([str(path) for path in paths])]
    assert peer == parts[0] + parts[2]
    for i in np.random.default_rng(0).permutation(12):
        assert records.read(i) == {"example": peer[i]}
    assert records.name(0) == f"{paths[0]}: record at byte 0"
    assert records.name(8) == f"{paths[2]}: record at byte {len(parts[2][0]) + 16}"


def test_a_flipped_bit_is_found_when_it_is_read(tmp_path):
    path = write_tfrecord(tmp_path / "a.tfrecord", [b"one", b"x" * 5000, b"three"])
    data = bytearray(path.read_bytes())
    data[19 + 12 + 2500] ^= 4  # within the second record
    path.write_bytes(data)
    records = index_tfrecord([path])
    assert records.read(0) == {"example": b"one"} and records.read(2) == {"example": b"three"}
    with pytest.raises(Unreadable, match="checksum"):
        records.read(1)


def test_tfrecords_cut_off(tmp_path):
    """Wherever a file is cut, the records that are whole remain, and what is lost is counted."""
    whole = [b"a" * 10, b"b" * 30, b"c" * 3]
    data = write_tfrecord(tmp_path / "whole.tfrecord", whole).read_bytes()
    ends = np.cumsum([len(p) + 16 for p in whole])
    assert ends[-1] == len(data)
    path = tmp_path / "cut.tfrecord"
    for size in range(1, len(data)):
        path.write_bytes(data[:size])
        kept = int((ends <= size).sum())
        if not kept:
            with pytest.raises(UserError, match=r"no TFRecord record .*cut\.tfrecord: cut off at byte 0"):
                index_tfrecord([path])
            continue
        records = index_tfrecord([path])
        assert [records.read(i)["example"] for i in range(len(records))] == whole[:kept]
        if size in ends:
            assert records.damaged == ()
        else:
            (damage,) = records.damaged
            assert damage.reason == f"cut off at byte {ends[kept - 1]}" and damage.intact == kept


def test_a_damaged_length(tmp_path):
    whole = payloads(6)
    path = write_tfrecord(tmp_path / "a.tfrecord", whole)
    data, start = bytearray(path.read_bytes()), sum(len(p) + 16 for p in whole[:2])
    data[start + 1] ^= 1
    path.write_bytes(data)
    records = index_tfrecord([path])
    assert [records.read(i)["example"] for i in range(len(records))] == whole[:2]
    assert f"damaged, or not a TFRecord file, at byte {start}" == records.damaged[0].reason
    assert records.damaged[0].intact == 2


def test_no_tfrecord_file(tmp_path):
    path = tmp_path / "a.tfrecord"
    path.write_bytes(JPG)
    with pytest.raises(UserError, match=r"no TFRecord record .* in .*a\.tfrecord; .*damaged, or not a TFRecord file"):
        index_tfrecord([path])
    with pytest.raises(UserError, match="cannot read TFRecord file .*b.tfrecord: No such file"):
        index_tfrecord([tmp_path / "b.tfrecord"])


def test_a_file_that_changed_since(tmp_path):
    path = write_tfrecord(tmp_path / "a.tfrecord", [b"one", b"two"])
    records = index_tfrecord([path])
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(Unreadable, match="ends before"):
        records.read(1)
    path.unlink()
    with pytest.raises(Unreadable, match="No such file"):
        records.read(0)


# --- tar files

LONG = "folder/" * 30 + "x" * 90
SAMPLES = {
    "a/000.jpg": JPG,
    "a/000.txt": b"a cat",
    "a/000.cls": b"7",
    "a/001.json": b'{"caption": "a dog"}',
    "a/001.PNG": b"png bytes",
    "b/001.jpg": b"of another folder",
    "b/002.txt": b"without an image",
    f"{LONG}.webp": b"long",
    f"{LONG}.source.jpg": b"before",
    f"{LONG}.depth.png": b"depth",
    "README": b"no extension",
    "k\xe4se.v2.jpg": b"dots",
    "z.jpg": b"",
}


@pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_samples_of_a_webdataset(tmp_path, format):
    records = index_webdataset([write_tar(tmp_path / "a.tar", SAMPLES, format)])
    assert records.fields == ("image", "depth", "json", "source", "text") and records.damaged == ()
    assert [records.read(i) for i in range(len(records))] == [
        {"image": JPG, "text": b"a cat"},
        {"image": b"png bytes", "json": b'{"caption": "a dog"}'},
        {"image": b"of another folder"},
        {"image": b"long", "source": b"before", "depth": b"depth"},
        {"image": b"dots"},
        {"image": b""},
    ]
    assert records.left_out.names == ("a/000.cls", "b/002.txt", "README")
    assert records.name(1) == f"{tmp_path / 'a.tar'}: a/001"
    assert records.name(3).endswith(LONG)


def test_members_are_where_tarfile_finds_them(tmp_path):
    paths = [write_tar(tmp_path / f"{i}.tar", {f"{k}.jpg": p for k, p in enumerate(payloads(6, i))}) for i in range(3)]
    records = index_webdataset(paths)
    expected = []
    for path in paths:
        with tarfile.open(path) as tar:
            expected += [tar.extractfile(member).read() for member in tar]
    assert [records.read(i)["image"] for i in range(len(records))] == expected


def test_folders_and_links_in_a_tar_are_left_out(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jpg").write_bytes(JPG)
    (tmp_path / "in" / "b.jpg").symlink_to("a.jpg")
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(tmp_path / "in", "in")
    records = index_webdataset([tmp_path / "a.tar"])
    assert [records.read(i) for i in range(len(records))] == [{"image": JPG}]


def test_a_tar_cut_off(tmp_path):
    """Wherever a file is cut, the samples that are whole remain; with the end mark's first block, nothing is amiss."""
    contents = {"a.jpg": b"a" * 700, "b.jpg": b"b" * 512, "c.jpg": b"c" * 10}
    data = write_tar(tmp_path / "whole.tar", contents).read_bytes()
    ends = np.array([512 + 700, 1536 + 512 + 512, 2560 + 512 + 10])  # of the contents
    path = tmp_path / "cut.tar"
    for size in (*range(100, 3600, 67), 512, 1212, 1536, 2560, 3082, 3584, 4095, 4096, len(data)):
        path.write_bytes(data[:size])
        kept = int((ends <= size).sum())
        if not kept:
            with pytest.raises(UserError, match=r"no WebDataset record with an image in .*cut\.tar; "):
                index_webdataset([path])
            continue
        records = index_webdataset([path])
        assert [records.read(i)["image"] for i in range(len(records))] == list(contents.values())[:kept], size
        assert [damage.intact for damage in records.damaged] == [kept] * (size < 3584 + 512), size


def test_damaged_tar_header(tmp_path):
    """tarfile itself takes a damaged header for the end of the archive."""
    path = write_tar(tmp_path / "a.tar", {"a.jpg": b"a" * 700, "b.jpg": b"b", "c.jpg": b"c"})
    data = bytearray(path.read_bytes())
    data[1536 + 3] ^= 1
    path.write_bytes(data)
    records = index_webdataset([path])
    assert len(records) == 1
    assert records.damaged[0].reason == "damaged at byte 1536" and records.damaged[0].intact == 1


def test_other_files_than_tar(tmp_path):
    path = tmp_path / "a.tar"
    for contents in (b"", JPG, b"x" * 2000):
        path.write_bytes(contents)
        with pytest.raises(UserError, match=r"no WebDataset record with an image in .*a\.tar; .*uncompressed tar"):
            index_webdataset([path])
    write_tar(path, {"a.txt": b"text alone"})
    with pytest.raises(UserError, match="no WebDataset record with an image"):
        index_webdataset([path])


def test_one_damaged_shard_among_others(tmp_path):
    good = write_tar(tmp_path / "good.tar", {"a.jpg": b"a", "a.txt": b"text"})
    bad = tmp_path / "bad.tar"
    bad.write_bytes(b"x" * 600)
    last = write_tar(tmp_path / "last.tar", {"b.jpg": b"b"})
    records = index_webdataset([good, bad, last])
    assert [records.read(i) for i in range(2)] == [{"image": b"a", "text": b"text"}, {"image": b"b"}]
    assert [(damage.path, damage.intact) for damage in records.damaged] == [(str(bad), 0)]


# --- folders


def test_files_and_what_lies_beside_them(tmp_path):
    names = {
        "a.jpg": b"image a",
        "a.txt": b"text a",
        "a.source.png": b"source a",
        "b.v2.PNG": b"image b",
        "b.v2.json": b"json b",
        "b.v2.depth.tif": b"depth b",
        "c.webp": b"image c",
        "notes.txt": b"of nothing",
    }
    for name, payload in names.items():
        (tmp_path / name).write_bytes(payload)
    records = index_files(files_below(tmp_path)[0])
    paths = [str(tmp_path / name) for name in ("a.jpg", "b.v2.PNG", "c.webp")]
    assert records.left_out.names == ("notes.txt",)
    assert records.fields[0] == "image" and set(records.fields) == {"image", "text", "json", "source", "depth"}
    assert [records.read(i) for i in range(3)] == [
        {"image": b"image a", "text": b"text a", "source": b"source a"},
        {"image": b"image b", "json": b"json b", "depth": b"depth b"},
        {"image": b"image c"},
    ]
    assert [records.name(i) for i in range(3)] == paths
    assert field_of("x/a.JPEG") == ("x/a", "image") and field_of("a.depth.npz")[1] is field_of("a.exe")[1] is None


def test_folders_without_images(tmp_path):
    with pytest.raises(UserError, match="no such folder of images"):
        files_below(tmp_path / "nowhere")
    (tmp_path / "a.depth.png").write_bytes(b"")
    with pytest.raises(UserError, match="name that image"):
        index_files(files_below(tmp_path)[0])


# --- splits


def test_splits_are_a_partition_by_name_alone(tmp_path):
    keys = [f"{i:03}" for i in range(60)]
    records = index_webdataset([write_tar(tmp_path / "a.tar", {f"{key}.jpg": key.encode() for key in keys})])
    train, heldout = (records.of_split(split, 0.3) for split in ("train", "heldout"))
    read = [{one.read(i)["image"].decode() for i in range(len(one))} for one in (train, heldout)]
    assert read[0] | read[1] == set(keys) and not read[0] & read[1]
    rule = {key for key in keys if int(hashlib.sha256(key.encode()).hexdigest()[:16], 16) / 2**64 < 0.3}
    assert read[1] == rule and 8 <= len(rule) <= 28
    assert {train.name(i).rpartition(" ")[2] for i in range(len(train))} == read[0]


def test_the_split_of_a_tfrecord_does_not_depend_on_its_folder(tmp_path):
    found = []
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        path = write_tfrecord(tmp_path / folder / "a.tfrecord", [example(image=bytes([i])) for i in range(40)])
        heldout = index_tfrecord([path]).of_split("heldout", 0.3)
        found.append([heldout.read(i)["example"] for i in range(len(heldout))])
    assert found[0] == found[1] and 4 <= len(found[0]) <= 20
