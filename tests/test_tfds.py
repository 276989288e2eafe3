"""Data sets of tensorflow-datasets: a real one, built here, read in any order."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from shards import decoded, encoded, new_image

from codi_tf import data
from codi_tf.core.errors import UserError
from codi_tf.data.open_source import open_source
from codi_tf.data.triplets import open_triplets

tfds = pytest.importorskip("tensorflow_datasets")

S = 16
COUNTS = {"train": 23, "validation": 6}


class SmallPairs(tfds.core.GeneratorBasedBuilder):
    """A set of the shape of DIV2K's: a large and a small image, with texts and a label."""

    VERSION = tfds.core.Version("1.2.0")

    def _info(self):
        features = {
            "lr": tfds.features.Image(),
            "hr": tfds.features.Image(encoding_format="jpeg"),
            "mask": tfds.features.Image(shape=(None, None, 1), dtype=np.float32),
            "captions": tfds.features.Sequence({"text": tfds.features.Text(), "id": np.int64}),
            "label": tfds.features.ClassLabel(num_classes=3),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(split, count) for split, count in COUNTS.items()}

    def _generate_examples(self, split, count):
        for i in range(count):
            captions = [{"text": f"{split} {i} {k}", "id": k} for k in range(2)]
            hr = new_image(i + 100 * (split == "train"))
            yield (
                i,
                {
                    "lr": hr[::4, ::4],
                    "hr": hr,
                    "mask": np.ones((4, 4, 1), np.float32),
                    "captions": captions,
                    "label": i % 3,
                },
            )


class SmallEdits(tfds.core.GeneratorBasedBuilder):
    """A set of edits, named as public ones are."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {
            "source_img": tfds.features.Image(),
            "mask_img": tfds.features.Image(),
            "instruction": tfds.features.Text(),
            "target_img": tfds.features.Image(),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(5)}

    def _generate_examples(self, count):
        for i in range(count):
            before, after = new_image(i), new_image(100 + i)
            yield i, {"source_img": before, "mask_img": before, "instruction": f"edit {i}", "target_img": after}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    config = tfds.download.DownloadConfig(num_shards=3)
    SmallPairs(data_dir=str(folder)).download_and_prepare(download_config=config)
    return folder


def own(data_dir, split):
    """What tensorflow-datasets itself reads: first text -> bytes of the image."""
    builder = tfds.builder_from_directory(str(data_dir / "small_pairs" / "1.2.0"))
    dataset = builder.as_dataset(split=split, decoders={"hr": tfds.decode.SkipDecoding()})
    return {e["captions"]["text"][0]: e["hr"] for e in tfds.as_numpy(dataset)}


def read(source):
    records = [source.records.read(i) for i in range(len(source))]
    assert all(set(record) == {"image", "text"} for record in records)
    return {record["text"]: record["image"] for record in records}


@pytest.mark.parametrize(
    ("named", "split", "expected"),
    [
        ("", "train", "train"),
        ("", "heldout", "validation"),
        ("", None, "train+validation"),
        (":validation", None, "validation"),
        (":train[:40%]", None, "train[:40%]"),
        (":train[5:17]+validation[-2:]", None, "train[5:17]+validation[-2:]"),
    ],
)
def test_splits_hold_what_tfds_reads(data_dir, named, split, expected):
    source = open_source(f"tfds:small_pairs{named}?data_dir={data_dir}", split)
    assert source.provides == ("prompt",)
    assert read(source) == own(data_dir, expected)
    assert len(source) == len(own(data_dir, expected))


def test_a_named_split_is_divided_by_a_hash(data_dir):
    texts = [
        set(read(open_source(f"tfds:small_pairs:train?data_dir={data_dir}", split, heldout_fraction=0.3)))
        for split in ("train", "heldout")
    ]
    assert all(texts) and not texts[0] & texts[1] and texts[0] | texts[1] == set(own(data_dir, "train"))


@pytest.mark.parametrize("named", ["validation", "validation[1:4]", "validation[:2]+validation[-1:]"])
def test_a_named_split_that_is_held_out_is_all_held_out(data_dir, named):
    name = f"tfds:small_pairs:{named}?data_dir={data_dir}"
    assert read(open_source(name, "heldout")) == read(open_source(name)) == own(data_dir, named)


def test_of_a_split_with_training_records_only_the_share_is_held_out(data_dir):
    name = f"tfds:small_pairs:validation+train?data_dir={data_dir}"
    found = read(open_source(name, "heldout", heldout_fraction=0.3))
    assert 0 < len(found) < len(own(data_dir, "train+validation"))


def test_examples(data_dir):
    """In several shards, in an order of its own, with the texts of their images."""
    source = open_source(f"tfds:small_pairs:1.2.0:train?data_dir={data_dir}", "train", heldout_fraction=0.0)
    assert len(source.records.records.paths) == 3
    examples = next(data.crops(source, image_size=S, seed=0).batch(23).as_numpy_iterator())
    assert examples["image"].shape == (23, S, S, 3)
    assert set(examples["prompt"]) == set(own(data_dir, "train"))


def test_features_by_name(data_dir):
    name = f"tfds:small_pairs:train?data_dir={data_dir}"
    small = decoded(open_source(f"{name}&image=lr").records.read(0)["image"])
    assert small.shape == (5, 6, 3)
    for feature in ("mask", "label", "nothing"):
        with pytest.raises(UserError, match=rf"no feature {feature} that holds bytes for image; there are: .*hr"):
            open_source(f"{name}&image={feature}")


def test_triplets(tmp_path):
    SmallEdits(data_dir=str(tmp_path)).download_and_prepare()
    source = open_triplets(f"tfds:small_edits?data_dir={tmp_path}")
    assert set(source.provides) == {"source", "prompt"} and len(source) == 5
    for fields in (source.records.read(i) for i in range(5)):
        number = int(fields["text"].removeprefix(b"edit "))
        np.testing.assert_array_equal(decoded(fields["source"]), new_image(number))
        np.testing.assert_array_equal(decoded(fields["image"]), new_image(100 + number))


def test_images_without_their_edits(data_dir):
    with pytest.raises(UserError, match=r"has no images before the edits; .* \?source=FEATURE&image=FEATURE&text="):
        open_triplets(f"tfds:small_pairs?data_dir={data_dir}")
    source = open_triplets(f"tfds:small_pairs?data_dir={data_dir}&source=lr", "heldout")
    assert set(source.provides) == {"source", "prompt"} and len(source) == COUNTS["validation"]


def test_what_is_not_there(data_dir):
    for name in ("no_such_set", "small_pairs:9.0.0", "small_pairs/config", "div2k/bicubic_x4", "imagenet2012", "coco"):
        with pytest.raises(UserError, match=rf"no prepared data set {name} in {data_dir}; make it with: tfds build"):
            open_source(f"tfds:{name}?data_dir={data_dir}")
    with pytest.raises(UserError, match="no split 'test'; it has: train, validation"):
        open_source(f"tfds:small_pairs:test?data_dir={data_dir}")


def test_other_formats_are_refused(tmp_path):
    builder = SmallPairs(data_dir=str(tmp_path), file_format="array_record")
    builder.download_and_prepare()
    with pytest.raises(UserError, match="is stored as array_record; prepare it with file_format=tfrecord"):
        open_source(f"tfds:small_pairs?data_dir={tmp_path}", "train")


def test_a_damaged_shard(data_dir, tmp_path):
    target = tmp_path / "small_pairs" / "1.2.0"
    target.mkdir(parents=True)
    for file in (data_dir / "small_pairs" / "1.2.0").iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    shard = next(target.glob("*train*00001*"))
    shard.write_bytes(shard.read_bytes()[:-5])
    with pytest.warns(UserWarning, match=f"shards are damaged .*{shard.name}: cut off"):
        source = open_source(f"tfds:small_pairs?data_dir={tmp_path}", "train", max_unreadable=0.4)
    assert len(source) == COUNTS["train"] - 1
    assert set(read(source)) < set(own(data_dir, "train"))


def test_the_package_is_needed(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)  # how Python itself marks a module as absent
    with pytest.raises(UserError, match="needs the package tensorflow-datasets: pip install tensorflow-datasets"):
        open_source("tfds:div2k/bicubic_x4:train")


def test_jpeg_in_the_set_is_the_jpeg_that_is_read(data_dir):
    source = open_source(f"tfds:small_pairs?data_dir={data_dir}", "heldout")
    assert all(source.records.read(i)["image"][:2] == b"\xff\xd8" for i in range(len(source)))
    assert encoded(new_image(0))[:4] == b"\x89PNG"
