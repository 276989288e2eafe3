"""The name of a place -> a source of examples: folders, shards, patterns."""

from __future__ import annotations

import gzip

import numpy as np
import pytest
from shards import decoded, encoded, example, new_image, write_tar, write_tfrecord

from codi_tf import data
from codi_tf.core.errors import UserError
from codi_tf.data import open_source as opening
from codi_tf.data.open_source import expanded, open_source
from codi_tf.data.splits import is_heldout
from codi_tf.data.stream import Stream

S = 16
IMAGES = {f"{i:02}": encoded(new_image(i)) for i in range(12)}


def write_files(folder, names=IMAGES):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / f"{name}.png").write_bytes(IMAGES[name])
    return folder


def names_of(source):
    """Which of IMAGES a stream's records are."""
    payloads = [source.records.read(i)["image"] for i in range(len(source))]
    return [next(name for name, payload in IMAGES.items() if payload == one) for one in payloads]


def one_example(source):
    return next(iter(data.crops(source, image_size=S, seed=0)))


# --- folders of images


def test_a_folder_that_fits_is_held_in_memory_as_ever(tmp_path):
    folder = write_files(tmp_path / "images")
    source = open_source(str(folder))
    assert isinstance(source, data.Photos) and source.provides == ()
    assert list(source.images) == [f"{name}.png" for name in IMAGES]
    for name, payload in IMAGES.items():
        np.testing.assert_array_equal(source.images[f"{name}.png"], decoded(payload))
    source = data.load_source(str(folder), "heldout", heldout_fraction=0.4)
    assert list(source.images) == [f"{name}.png" for name in IMAGES if is_heldout(f"{name}.png", 0.4)]


def test_captions_in_a_folder(tmp_path):
    folder = write_files(tmp_path / "images", ["00", "01", "02"])
    (folder / "00.txt").write_text("a text\n")
    (folder / "01.json").write_text('{"caption": "of json"}')
    source = open_source(str(folder))
    assert source.provides == ("prompt",)
    assert source.prompts == {"00.png": "a text", "01.png": "of json", "02.png": ""}
    (folder / "02.txt").write_bytes(b"\xff")
    with pytest.raises(UserError, match=r"02\.png: its text is damaged .*; repair or remove them"):
        one_example(open_source(str(folder)))


def test_a_larger_folder_is_read_from_disk(tmp_path, monkeypatch):
    folder = write_files(tmp_path / "images")
    monkeypatch.setattr(opening, "IN_MEMORY", 12 * 20 * 24 * 3)
    assert isinstance(open_source(str(folder)), data.Photos)
    monkeypatch.setattr(opening, "IN_MEMORY", 12 * 20 * 24 * 3 - 1)
    source = open_source(str(folder))
    assert isinstance(source, Stream) and names_of(source) == list(IMAGES)
    splits = [open_source(str(folder), split, heldout_fraction=0.4) for split in ("train", "heldout")]
    monkeypatch.undo()
    in_memory = [open_source(str(folder), split, heldout_fraction=0.4).images for split in ("train", "heldout")]
    found = [
        {f"{name}.png" for name in (names_of(s) if isinstance(s, Stream) else "")} or set(s.images) for s in splits
    ]
    assert found == [set(photos) for photos in in_memory]


def test_a_pair_of_folders_read_from_disk(tmp_path):
    folder = write_files(tmp_path / "pairs", ["00", "01"])
    for name in ("00", "01"):
        (folder / f"{name}.source.png").write_bytes(IMAGES["05"])
    source = open_source(str(folder), condition_key="source")
    assert source.provides == ("source", "replaced") and sorted(names_of(source)) == ["00", "01"]
    assert isinstance(open_source(str(folder)), data.Photos)
    assert list(open_source(str(folder)).images) == ["00.png", "01.png"]


# --- shards


def tars(folder, count=3):
    folder.mkdir(exist_ok=True)
    names = list(IMAGES)
    for i in range(count):
        write_tar(folder / f"train-{i:03}.tar", {f"{name}.png": IMAGES[name] for name in names[4 * i : 4 * i + 4]})
    return folder


def test_a_folder_of_tar_files_and_patterns_of_them(tmp_path):
    folder = tars(tmp_path / "shards")
    (folder / "README.md").write_text("not a shard")
    assert names_of(open_source(str(folder))) == list(IMAGES)
    assert names_of(open_source(f"{folder}/train-{{000..001}}.tar")) == list(IMAGES)[:8]
    assert names_of(open_source(f"{folder}/train-{{002,000}}.tar")) == [*list(IMAGES)[8:], *list(IMAGES)[:4]]
    assert names_of(open_source(f"{folder}/*2.tar")) == list(IMAGES)[8:]
    assert names_of(open_source(f"{folder}/train-001.tar")) == list(IMAGES)[4:8]
    parts = [names_of(open_source(str(folder), split, heldout_fraction=0.4)) for split in ("train", "heldout")]
    assert sorted(sum(parts, [])) == sorted(IMAGES) and all(parts)
    np.testing.assert_array_equal(one_example(open_source(str(folder)))["image"].shape, (S, S, 3))


@pytest.mark.parametrize(
    "name", ["train.tfrecord", "train.tfrecords", "train.tfrecord-00000-of-00001", "train-00000-of-00001"]
)
def test_tfrecord_files(tmp_path, name):
    examples = [
        example(image__encoded=payload, image__caption=f"of {key}".encode(), image__source_id=b"7")
        for key, payload in IMAGES.items()
    ]
    path = write_tfrecord(tmp_path / name, examples)
    for text in (str(path), str(tmp_path)):
        source = open_source(text)
        assert source.provides == ("prompt",) and names_of(source) == list(IMAGES)
        assert source.records.read(3)["text"] == b"of 03"
    assert one_example(source)["prompt"].numpy().decode().startswith("of ")


def test_features_by_name(tmp_path):
    examples = [example(photo=IMAGES["01"], before=IMAGES["02"], words=[b"one", b"two"], image=b"something else")]
    path = write_tfrecord(tmp_path / "a.tfrecord", examples)
    source = open_source(f"{path}?image=photo&text=words&source=before", condition_key="source")
    assert source.provides == ("source", "prompt")
    assert source.records.read(0) == {"image": IMAGES["01"], "source": IMAGES["02"], "text": b"one"}
    assert decoded(source.records.read(0)["image"]).shape == (20, 24, 3)
    for options, expected in (
        ("image=phot", "no feature phot that holds bytes for image; there are: .*photo"),
        ("picture=photo", "unknown option picture; use image, text, source, depth"),
    ):
        with pytest.raises(UserError, match=expected):
            open_source(f"{path}?{options}")
    write_tfrecord(path, [example(photo=IMAGES["01"])])
    with pytest.raises(UserError, match=r"which feature is the image\? name it, \?image=FEATURE, of: photo"):
        open_source(str(path))


def test_records_without_the_feature_or_no_example_at_all(tmp_path):
    payloads = [
        example(image=IMAGES["01"]),
        example(other=b"1"),
        b"\xff\xff no message",
        example(image=IMAGES["02"]),
    ]
    source = open_source(str(write_tfrecord(tmp_path / "a.tfrecord", payloads)), max_unreadable=0.5)
    for i in range(4):
        source.example(i, np.zeros(5, np.float32), S)
    reasons = sorted(line.split(": ")[2] for line in source.unreadable)
    assert len(reasons) == 2 and reasons[0].startswith("it has no image") and "not a tf.train.Example" in reasons[1]
    with pytest.raises(UserError, match=r"a\.tfrecord: record at byte 0: it is not a tf\.train\.Example"):
        open_source(str(write_tfrecord(tmp_path / "a.tfrecord", payloads[2:])))


# --- what is refused


def test_names_of_nothing(tmp_path):
    for text in ("nowhere", "nothing/*.jpg", "nothing/{0..3}.tar"):
        with pytest.raises(UserError, match=r"nothing is at|No such file"):
            open_source(str(tmp_path / text))
    with pytest.raises(UserError, match="no image in folder"):
        open_source(str(tmp_path))
    with pytest.raises(UserError, match="unknown split 'test'"):
        open_source(str(tmp_path), "test")
    folder = write_files(tmp_path / "images", ["00"])
    with pytest.raises(UserError, match=r"none of the 1 images .*falls in split 'heldout' with heldout_fraction 0\.0"):
        open_source(str(folder), "heldout", heldout_fraction=0.0)
    with pytest.raises(UserError, match="options after \\? are for TFRecord files"):
        open_source(f"{folder}?image=photo")


def test_mixtures_and_other_files(tmp_path):
    folder = tars(write_files(tmp_path / "images"))
    with pytest.raises(UserError, match=r"holds images and shards \(train-000\.tar\)"):
        open_source(str(folder))
    with pytest.raises(
        UserError, match=r"holds images and shards \(train-000\.tar\); name the ones to use, by a pattern"
    ):
        open_source(f"{folder}/*")
    (folder / "a.tar.gz").write_bytes(gzip.compress(b""))
    with pytest.raises(UserError, match=r"a\.tar\.gz is compressed"):
        open_source(str(folder / "a.tar.gz"))
    (folder / "a.csv").write_text("")
    with pytest.raises(UserError, match=r"a\.csv is neither an image .* nor a \.tfrecord or \.tar file"):
        open_source(str(folder / "a.csv"))


def test_damaged_shards_are_named(tmp_path):
    folder = tars(tmp_path / "shards")
    bad = folder / "train-001.tar"
    bad.write_bytes(bad.read_bytes()[:3000])
    with pytest.raises(UserError, match=r"1 of 3 shards are damaged, more than .*train-001\.tar: cut off at byte"):
        open_source(str(folder))
    with pytest.warns(UserWarning, match=r"1 of 3 shards are damaged and read up to there: .*train-001\.tar: cut off"):
        source = open_source(str(folder), max_unreadable=0.9)
    assert set(IMAGES) - set(names_of(source)) and {"00", "03", "08"} <= set(names_of(source))


def test_patterns(tmp_path):
    assert expanded("/a/{008..011}.tar") == [f"/a/{i}.tar" for i in ("008", "009", "010", "011")]
    assert expanded("/a/{x,y}-{1..2}.tar") == ["/a/x-1.tar", "/a/x-2.tar", "/a/y-1.tar", "/a/y-2.tar"]
    with pytest.raises(UserError, match=r"\{0\.\.99999999999\} are more than 1,000,000 paths"):
        expanded("/a/{0..99999999999}.tar")
    assert expanded("/a/{one}.jpg") == ["/a/{one}.jpg"]
    for name in ("b/2.jpg", "a/1.jpg", "a/c/3.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert expanded(f"{tmp_path}/*/?.jpg") == [f"{tmp_path}/a/1.jpg", f"{tmp_path}/b/2.jpg"]
    assert expanded(f"{tmp_path}/**/*.jpg") == [f"{tmp_path}/{name}" for name in ("a/1.jpg", "a/c/3.jpg", "b/2.jpg")]
    same = write_files(tmp_path / "x", ["00"]), write_files(tmp_path / "y", ["00"])
    assert len(open_source(f"{tmp_path}/{{x,y}}/*.png").images) == len(same)
