"""Bundles, checkpoints and data of strangers: what they name, and sizes that they claim, are checked first."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image
from triplets import write_prompt_folders

import codi_tf
from codi_tf.checkpoints.keras_cv import layers_of
from codi_tf.checkpoints.kinds import AUTOENCODER, TEXT_ENCODER, UNET
from codi_tf.checkpoints.networks import read_config, stored_tensors
from codi_tf.checkpoints.tokenizer import LENGTH, LONGEST, Tokenizer
from codi_tf.core.errors import UserError
from codi_tf.data.cached import META, read_meta
from codi_tf.data.open_source import open_source
from codi_tf.data.pairs import PAIRS, read_pairs
from codi_tf.data.parquet import ParquetRows
from codi_tf.data.records import Unreadable, index_files
from codi_tf.data.triplets import open_triplets
from codi_tf.diffusion.scheduler_config import make_schedule_of
from codi_tf.evaluation.features import load_features
from codi_tf.io.bundle_files import BUNDLE
from codi_tf.training.folder import read_metrics

OLD = Path(__file__).parent / "data" / "0.1.0"
ABOUT = json.loads((OLD / "bundle" / BUNDLE).read_text())


def refusal(call, *arguments, **options) -> str:
    with pytest.raises(UserError) as caught:
        call(*arguments, **options)
    line = str(caught.value)
    assert "\n" not in line and len(line) < 700
    return line


def bundle_on(folder: Path, base: str) -> Path:
    """A bundle that names its base."""
    folder.mkdir()
    (folder / BUNDLE).write_text(json.dumps({**ABOUT, "base": {"path": base, "sha256": "0" * 64}}))
    return folder


# What files name


@pytest.mark.parametrize("base", ["/", "/etc", "..", "."])
def test_a_base_that_is_no_model_is_not_hashed(tmp_path, base, monkeypatch):
    """Catches a bundle that has all of a machine's files read, because its base is "/"."""
    monkeypatch.setattr("codi_tf.bundle.folder_sha256", lambda folder: pytest.fail("it is hashed"))
    line = refusal(codi_tf.load, bundle_on(tmp_path / "bundle", base))
    assert "is no model (it has no vae/config.json); edit base.path in codi.json" in line


def test_a_base_with_a_pipe_in_it_is_not_waited_for(tmp_path):
    shutil.copytree(OLD / "state" / "base", tmp_path / "base")
    os.mkfifo(tmp_path / "base" / "a.json")
    assert "pipe or a device" in refusal(codi_tf.load, bundle_on(tmp_path / "bundle", str(tmp_path / "base")))


def test_a_relative_base_is_relative_to_the_bundle(tmp_path, monkeypatch):
    """Catches a base that is looked for in the folder where the command happens to run."""
    shutil.copytree(OLD / "state" / "base", tmp_path / "base")
    bundle = bundle_on(tmp_path / "bundle", "../base")
    monkeypatch.chdir("/")
    assert "has changed since" in refusal(codi_tf.load, bundle)


@pytest.mark.parametrize("name", ["../b.safetensors", "/b.safetensors", "a/b.safetensors", "..", "b:c"])
def test_an_index_names_files_beside_it(tmp_path, name):
    (tmp_path / "b.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    assert "b.safetensors.index.json" in refusal(stored_tensors, tmp_path, "b")


def test_a_list_of_triplets_names_files_below_it(tmp_path):
    """Catches seeds.json that leads out of its folder by a link; test_triplets_damage.py has the names."""
    folder = write_prompt_folders(tmp_path / "ip2p", seeds=1)
    (folder / "0000004").rename(tmp_path / "0000004")
    (folder / "0000004").symlink_to(tmp_path / "0000004")
    source = open_triplets(folder, max_unreadable=0.2)
    names = [source.records.name(i) for i in range(8)]
    linked = next(i for i, name in enumerate(names) if "0000004" in name)
    assert source.records.read(linked - 1)["text"]
    with pytest.raises(Unreadable, match="is a link that leads out of"):
        source.records.read(linked)


def test_weights_of_keras_lie_in_their_file(tmp_path):
    """Catches an HDF5 link to another file, and a weight that takes no room there and gigabytes in memory."""
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["layer/kernel"] = np.ones(3, np.float32)
        file["layer"].attrs["weight_names"] = ["kernel"]
    path = tmp_path / "linked.h5"
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = ["dense"]
        file["dense"] = h5py.ExternalLink("other.h5", "/layer")
    assert "leads to another file" in refusal(layers_of, path, str(path))
    path = tmp_path / "large.h5"
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = ["dense"]
        file.create_dataset("dense/kernel", (10**10,), "float32", chunks=(10**6,), compression="gzip")
        file["dense"].attrs["weight_names"] = ["kernel"]
    assert "unpacks to 40,000,000,000 bytes" in refusal(layers_of, path, str(path))
    os.mkfifo(tmp_path / "pipe.h5")
    assert "pipe or a device" in refusal(layers_of, tmp_path / "pipe.h5", "pipe.h5")


def test_pipes_among_data_are_named(tmp_path):
    os.mkfifo(tmp_path / "a.jpg")
    assert "a.jpg (not a file)" in refusal(open_source, str(tmp_path / "*.jpg"))
    assert "a.jpg (not a file)" in refusal(open_source, str(tmp_path / "a.jpg"))


def test_pipes_beside_images_are_no_captions(tmp_path):
    """Catches a caption that is waited for."""
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(tmp_path / "a.png")
    os.mkfifo(tmp_path / "a.txt")
    assert set(index_files([tmp_path / "a.png"]).read(0)) == {"image"}


# Sizes that files claim


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        (TEXT_ENCODER, {"num_hidden_layers": 100_000}),
        (TEXT_ENCODER, {"hidden_size": 10**9}),
        (TEXT_ENCODER, {"vocab_size": 10**9}),
        (UNET, {"layers_per_block": 100_000}),
        (UNET, {"block_out_channels": [8] * 1000}),
        (UNET, {"block_out_channels": [10**9, 8]}),
        (UNET, {"cross_attention_dim": 10**12}),
        (UNET, {"sample_size": 10**9}),
        (AUTOENCODER, {"latent_channels": 10**9}),
        (AUTOENCODER, {"layers_per_block": 10**30}),
    ],
)
def test_networks_of_impossible_sizes_are_refused(tmp_path, kind, change):
    """Catches 100,000 layers that are made before anyone sees that the weights have four."""
    (tmp_path / "config.json").write_text(json.dumps(change))
    assert "it must be at most" in refusal(read_config, kind, tmp_path / "config.json")


def test_switches_of_networks_are_true_or_false(tmp_path):
    path = tmp_path / "config.json"
    for kind, key in ((UNET, "upcast_attention"), (AUTOENCODER, "mid_block_add_attention")):
        for value in ("", "yes", 1, 0, {}):
            path.write_text(json.dumps({key: value}))
            assert f"{key} is {value!r}: it must be true or false" in refusal(read_config, kind, path)
        for value in (None, True, False):  # null is in converted files
            path.write_text(json.dumps({key: value}))
            assert read_config(kind, path)[key] is value


def test_lists_of_networks_are_lists(tmp_path):
    """Catches an object that is taken for a list, and its KeyError."""
    for kind, key in ((UNET, "block_out_channels"), (UNET, "down_block_types"), (AUTOENCODER, "block_out_channels")):
        for value in ({"a": 1}, "wide", 8, None):
            (tmp_path / "config.json").write_text(json.dumps({key: value}))
            assert f"{key} is {value!r}: it must be a list" in refusal(read_config, kind, tmp_path / "config.json")


def test_networks_of_real_sizes_are_read(tmp_path):
    """SDXL's two text encoders, SD 2's UNet, and a vocabulary with thousands of added tokens."""
    for kind, config in (
        (TEXT_ENCODER, {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "vocab_size": 60_000}),
        (UNET, {"block_out_channels": [320, 640, 1280, 1280], "cross_attention_dim": 2048, "sample_size": 256}),
        (AUTOENCODER, {"block_out_channels": [128, 256, 512, 512], "scaling_factor": 0.13025}),
    ):
        (tmp_path / "config.json").write_text(json.dumps(config))
        assert config.items() <= read_config(kind, tmp_path / "config.json").items()


@pytest.mark.parametrize(
    "change", [{"num_photos": 10**12}, {"widths": [10**6] * 5}, {"widths": [8] * 6}, {"widths": "x"}]
)
def test_feature_networks_of_impossible_sizes_are_refused(tmp_path, change):
    config = {"_class_name": "FeatureNetwork", "num_photos": 2, **change}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert "train the network again" in refusal(load_features, tmp_path)


@pytest.mark.parametrize("times", [10**12, 0, -1, 10**400])
def test_a_schedule_of_impossible_length_is_refused(times):
    assert "num_train_timesteps" in refusal(make_schedule_of, {"num_train_timesteps": times})


@pytest.mark.parametrize(
    "change",
    [
        {"examples": 10**12},
        {"examples": 10**9, "shard": 1},
        {"examples": 0},
        {"examples": 4.0},
        {"examples": True},
        {"shard": -1},
        {"made_with": []},
        {"data": None},
    ],
)
def test_encoded_examples_of_impossible_number_are_refused(tmp_path, change):
    """Catches `examples: 1e12`, for which a list of all shards was made."""
    meta = json.loads((OLD / "state" / "cache" / META).read_text())
    (tmp_path / META).write_text(json.dumps(meta))
    assert read_meta(tmp_path)["examples"] == 4
    (tmp_path / META).write_text(json.dumps({**meta, **change}))
    assert "encode the examples again" in refusal(read_meta, tmp_path)


@pytest.mark.parametrize("change", [{"size": 10**6}, {"size": "64"}, {"scale": 0}, {"count": -1}, {"count": 1e99}])
def test_pairs_of_impossible_sizes_are_refused(tmp_path, change):
    (tmp_path / PAIRS).write_text(json.dumps({"size": 64, "scale": 4, "count": 2, **change}))
    assert "make the pairs again" in refusal(read_pairs, tmp_path, 1)


def test_a_small_parquet_file_that_unpacks_to_much_is_refused(tmp_path, monkeypatch):
    """Catches a bomb: rows that repeat one value take no room in the file, and all of it in memory."""
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr("codi_tf.data.parquet.FLOOR", 1 << 20)
    rows = 2000

    def repeated(value):
        indices = pyarrow.array([0] * rows, pyarrow.int32())
        return pyarrow.chunked_array([pyarrow.DictionaryArray.from_arrays(indices, pyarrow.array([value]))])

    table = {"original_image": repeated(b"x" * 10_000), "edited_image": repeated(b"x"), "edit_prompt": repeated("day")}
    shared = {"heldout_fraction": 0.1, "max_unreadable": 0.0}
    path = str(tmp_path / "a.parquet")
    parquet.write_table(pyarrow.table(table), path, store_schema=False)
    assert os.path.getsize(path) < 20_000
    found = ParquetRows.indexed([path], None, **shared)
    with pytest.raises(Unreadable, match="unpacks to more than 1,048,576 bytes"):
        found.read(0)
    parquet.write_table(pyarrow.table({**table, "edit_prompt": repeated("y" * 10_000)}), path, store_schema=False)
    assert "unpacks to more than" in refusal(ParquetRows.indexed, [path], None, **shared)
    short = {**table, "edit_prompt": pyarrow.array(["y" * 200_000] + ["day"] * (rows - 1))}
    parquet.write_table(pyarrow.table(short), path, store_schema=False)
    assert "has more than 100,000 characters" in refusal(ParquetRows.indexed, [path], None, **shared)


def test_a_word_of_a_megabyte_is_a_prompt_like_others(monkeypatch):
    """Catches a tokenizer that encodes all of it, to throw all but 75 tokens away."""
    tokenizer = Tokenizer.from_merges([("a", "b"), ("ab", "ab")])
    encode, seen = tokenizer.encode, []
    monkeypatch.setattr(tokenizer, "encode", lambda text: seen.append(len(text)) or encode(text))
    with pytest.warns(UserWarning, match="75 fit") as caught:
        ids = tokenizer(["ab" * 500_000, " " * 500_000 + "ab", "ab " * 75])
    assert ids.shape == (3, LENGTH) and max(seen) <= LONGEST and len(str(caught[0].message)) < 500
    assert ids[1].tolist() == tokenizer(["ab"])[0].tolist()


def test_options_of_a_method_have_their_types(tmp_path):
    """Catches a bundle whose method was given a text for a number, or a number for True."""
    shutil.copytree(OLD / "bundle", tmp_path / "bundle")
    for change in ({"delta": "5"}, {"delta": 5.5}, {"boundary": 1}, {"guidance_weight": True}, {"z_s": 3}, {"new": 1}):
        about = {**ABOUT, "method": {**ABOUT["method"], **change}}
        (tmp_path / "bundle" / BUNDLE).write_text(json.dumps(about))
        line = refusal(codi_tf.load, tmp_path / "bundle")
        assert BUNDLE in line and f"method.{next(iter(change))}" in line


@pytest.mark.parametrize("line", ["", "{", "[]", "5", "{}", '{"step": null}', '{"step": "x"}', "[" * 200_000])
def test_lines_of_metrics_that_are_none(tmp_path, line):
    (tmp_path / "metrics.jsonl").write_text(f"{line}\n")
    assert "metrics.jsonl: is damaged" in refusal(read_metrics, tmp_path)
