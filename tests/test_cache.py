"""python -m codi_tf.cache: the examples that training would see, encoded into shards, however it is interrupted."""

from __future__ import annotations

import functools
import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import yaml
from tiny import tiny_base, tiny_photos

from codi_tf import config, data
from codi_tf.adapters.mu import MuAdapter
from codi_tf.checkpoints.folder import save_base
from codi_tf.checkpoints.tokenizer import Tokenizer
from codi_tf.cli import cache
from codi_tf.core.command_line import run_command
from codi_tf.core.errors import Interrupted, UserError
from codi_tf.core.progress import Progress
from codi_tf.data.cached import (
    ShardedArray,
    cached_batches,
    check_made_with,
    is_cache,
    made_with,
    read_cache,
    read_meta,
)
from codi_tf.data.permutation import permuted
from codi_tf.data.precompute import encode_once
from codi_tf.data.service import callbacks
from codi_tf.io.locks import only_one
from codi_tf.methods.networks import encode_in_space
from codi_tf.tasks import make_task


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Settings of an experiment with its base and photos on disk."""
    folder = tmp_path_factory.mktemp("parts")
    (folder / "base").mkdir()
    save_base(tiny_base(), folder / "base")
    return {
        "method": {"name": "codi"},
        "base": str(folder / "base"),
        "task": {"name": "super_resolution"},
        "data": {"image_size": 16, "source": str(tiny_photos(folder / "photos")), "seed": 3},
        "adaptation": {"train": "adapter"},
        "train": {"steps": 2, "batch_size": 2},
    }


def experiment(parts, **sections):
    return config.from_dict({**parts, **{k: {**parts.get(k, {}), **v} if v else v for k, v in sections.items()}})


@pytest.fixture(scope="module")
def encoded(parts, tmp_path_factory):
    """23 examples in shards of 8: 8, 8, 7."""
    folder = tmp_path_factory.mktemp("encoded") / "cache"
    assert cache.encode(experiment(parts), folder, examples=23, shard=8)
    return folder


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


# --- what is encoded


def test_examples_are_those_of_training(parts, encoded):
    """Against encoding in memory, what training without a cache sees."""
    base, task = tiny_base(), make_task("super_resolution")
    batches = data.batches(
        data.load_source(parts["data"]["source"], "train"), task, image_size=16, batch_size=8, seed=3
    )
    encode = functools.partial(encode_in_space, base, condition_space=MuAdapter.condition_space, has_mask=task.has_mask)
    expected = encode_once(base, batches, 23, [].append, encode_condition=encode)
    found = read_cache(encoded)
    assert found.keys() == expected.keys() == {"latent", "condition_latent"}
    for key, value in expected.items():
        assert found[key].shape == value.shape == (23, 4, 4, 4) and found[key].dtype == value.dtype == np.float32
        np.testing.assert_array_equal(np.asarray(found[key]), value)
    assert sorted(contents(encoded)) == [
        "meta.json",
        *(f"shard-0000{i}.{kind}" for i in range(3) for kind in ("safetensors", "sha256")),
    ]
    assert is_cache(encoded) and not is_cache(parts["data"]["source"])


def test_checksums_are_those_of_sha256sum(encoded):
    result = subprocess.run(
        "sha256sum -c *.sha256", shell=True, cwd=encoded, capture_output=True, text=True, check=True
    )
    assert result.stdout.count(": OK") == 3


def test_without_a_task_and_for_an_adapter_that_sees_images(parts, tmp_path):
    pretrain = {**parts, "method": {"name": "pretrain"}, "task": None}
    del pretrain["adaptation"]
    assert cache.encode(config.from_dict(pretrain), tmp_path / "alone", examples=4, shard=4)
    assert set(read_cache(tmp_path / "alone")) == {"latent"}
    seeing = experiment(parts, adaptation={"adapter": "controlnet"}, task={"name": "inpainting"})
    assert cache.encode(seeing, tmp_path / "seeing", examples=4, shard=4)
    assert read_cache(tmp_path / "seeing")["condition_latent"].shape == (4, 16, 16, 4)
    assert read_meta(tmp_path / "seeing")["made_with"]["condition_space"] == "image"


# --- interrupted, resumed, shared


def test_an_interrupted_run_goes_on_and_ends_with_the_same_bytes(parts, encoded, tmp_path):
    folder, whole = tmp_path / "cache", contents(encoded)
    folder.mkdir()
    for name in ("meta.json", "shard-00000.safetensors", "shard-00000.sha256", "shard-00001.safetensors"):
        (folder / name).write_bytes(whole[name])  # the checksum of the second was not written any more
    kept = (folder / "shard-00000.safetensors").stat().st_mtime_ns
    assert cache.encode(experiment(parts), folder, examples=23, shard=8)
    assert contents(folder) == whole
    assert (folder / "shard-00000.safetensors").stat().st_mtime_ns == kept
    data_there = bytearray(whole["shard-00001.safetensors"])
    data_there[-1] ^= 1
    (folder / "shard-00001.safetensors").write_bytes(data_there)
    (folder / "shard-00002.safetensors").write_bytes(whole["shard-00002.safetensors"][:-1])
    assert cache.encode(experiment(parts), folder, examples=23, shard=8)
    assert contents(folder) == whole


def test_a_signal_keeps_what_is_encoded_of_a_shard(parts, tmp_path, monkeypatch):
    """All of the shard was lost: 1,024 examples of full size take an hour."""
    monkeypatch.setattr(cache, "ENCODED", 4)
    straight, stopped, real = tmp_path / "straight", tmp_path / "stopped", Progress.update
    assert cache.encode(experiment(parts), straight, examples=23, shard=8)

    def update(bar, done, note=""):
        real(bar, done, note)
        if done == 12:
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "update", update)
        with pytest.raises(Interrupted, match="stopped by SIGTERM after 12 of 23 examples, which are kept: the same"):
            cache.encode(experiment(parts), stopped, examples=23, shard=8)
    assert {".begun-shard-00001.safetensors", ".begun-shard-00001.sha256"} < contents(stopped).keys()
    begun = []
    monkeypatch.setattr(Progress, "update", lambda bar, done, note="": begun.append(done))
    assert cache.encode(experiment(parts), stopped, examples=23, shard=8)
    assert begun == [16, 20, 23] and contents(stopped) == contents(straight)


def test_two_processes_of_one_host_do_not_encode_the_same(parts, tmp_path):
    """They did the work twice, and would mix what they keep."""
    with only_one(tmp_path / "cache/.lock-0", "encodes"), pytest.raises(UserError, match=r"^process \d+ encodes"):
        cache.encode(experiment(parts), tmp_path / "cache", examples=4, shard=4)


def test_killed_and_started_again(parts, tmp_path, optimized):
    """kill -9 while it works, in a process of its own."""
    path, killed, whole = tmp_path / "c.yaml", tmp_path / "killed", tmp_path / "whole"
    path.write_text(yaml.safe_dump(parts))
    command = [sys.executable, "-m", "codi_tf.cache", path, "--out", killed, "--examples", "120", "--shard", "4"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    limit = time.monotonic() + 120
    while len(list(killed.glob("*.sha256"))) < 2 and process.poll() is None and time.monotonic() < limit:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert 2 <= len(list(killed.glob("*.sha256"))) < 30
    with pytest.raises(UserError, match=r"shard-000\d\d.safetensors: does not exist yet; run the same"):
        read_cache(killed)
    for folder in (whole, killed):
        assert cache.encode(experiment(parts), folder, examples=120, shard=4)
    for file in killed.iterdir():
        if file.name.startswith("."):
            file.unlink()  # what was being written when it was killed
    assert contents(killed) == contents(whole)


def test_hosts_share_the_shards(parts, encoded, tmp_path):
    folder = tmp_path / "cache"
    assert not cache.encode(experiment(parts), folder, examples=23, shard=8, host=1, hosts=2)
    assert sorted(path.name for path in folder.glob("*.safetensors")) == ["shard-00001.safetensors"]
    assert cache.encode(experiment(parts), folder, examples=23, shard=8, host=0, hosts=2)
    assert contents(folder) == contents(encoded)


# --- refused


def test_another_config_is_refused(parts, encoded):
    before = contents(encoded)
    for sections, message in (
        ({"data": {"seed": 4}}, r"started with data\.seed = 3, now it is 4; choose another --out"),
        ({"data": {"image_size": 24}}, r"made_with\.image_size = 16, now it is 24"),
        ({"task": {"name": "inpainting"}}, r"made_with\.task\.name = 'super_resolution', now it is 'inpainting'"),
    ):
        with pytest.raises(UserError, match=message):
            cache.encode(experiment(parts, **sections), encoded, examples=23, shard=8)
    with pytest.raises(UserError, match="started with examples = 23, now it is 24"):
        cache.encode(experiment(parts), encoded, examples=24, shard=8)
    assert contents(encoded) == before
    assert cache.encode(experiment(parts, train={"steps": 7}), encoded, examples=23, shard=8)  # has no part in it


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"examples": 0}, "--examples is 0: it must be at least 1"),
        ({"shard": -1}, "--shard is -1"),
        ({"host": 2, "hosts": 2}, "--host is 2: of 2 hosts it must be 0 to 1"),
    ],
)
def test_numbers_out_of_range(parts, tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        cache.encode(experiment(parts), tmp_path / "cache", **{"examples": 4, **options})
    assert not (tmp_path / "cache").exists()


def test_folders_in_use_and_methods_without_latents(parts, encoded, tmp_path):
    (tmp_path / "file.txt").write_text("mine")
    with pytest.raises(UserError, match=r"already exists, without meta\.json; choose another --out"):
        cache.encode(experiment(parts), tmp_path, examples=4)
    with pytest.raises(UserError, match="these examples are encoded already"):
        cache.encode(experiment(parts, data={"source": str(encoded)}), tmp_path / "cache", examples=4)
    values = {"method": {"name": "autoencoder", "network": {"block_out_channels": [8]}}, "train": {"steps": 1}}
    with pytest.raises(UserError, match="method autoencoder is trained on images"):
        cache.encode(config.from_dict(values), tmp_path / "cache", examples=4)
    with pytest.raises(UserError, match=r"/proc/cache: nothing can be written into /proc \(.*\); choose another place"):
        cache.encode(experiment(parts), tmp_path.__class__("/proc/cache"), examples=4)


def test_texts_need_a_text_encoder(parts, tmp_path):
    with pytest.raises(UserError, match="it has no text encoder"):
        cache.encode(experiment(parts, data={"prompts": True}), tmp_path / "cache", examples=4)


def test_the_command(parts, tmp_path, monkeypatch, capsys):
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(parts))

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["cache", str(path), *map(str, arguments)])
        return run_command(cache.main), *capsys.readouterr()

    out = tmp_path / "out"
    status, output, errors = run("--out", out, "--examples", 4, "data.seed=9")
    assert status == 0 and output == f"all 4 examples are encoded; train on them with data.source={out}\n"
    assert read_meta(out)["data"]["seed"] == 9 and "encoding examples 4/4" in errors
    status, output, errors = run("--out", tmp_path / "half", "--examples", 4, "--shard", 2, "--hosts", 2)
    assert status == 0 and "shards of other hosts are still missing" in output
    status, shown, errors = run("--out", out)
    assert (
        (status, shown) == (2, "") and errors.startswith("error: --examples is not given") and errors.count("\n") == 1
    )


# --- reading


def test_rows_across_shards(encoded):
    rows = read_cache(encoded)["latent"]
    whole, numbers = np.asarray(rows), [22, 0, 7, 8, 15, 16, 7]
    np.testing.assert_array_equal(rows[numbers], whole[numbers])
    assert isinstance(rows, ShardedArray) and len(rows) == 23 and rows[np.array([], int)].shape == (0, 4, 4, 4)
    np.testing.assert_array_equal(np.unique(rows), np.unique(whole))


def taken(examples, count, **options):
    return list(cached_batches(examples, **{"batch_size": 3, "seed": 0, **options}).take(count).as_numpy_iterator())


def test_rows_of_files_are_read_by_tensorflow_alone(encoded):
    """Faults: a row of the neighboring shard, a key in the place of another, Python in the input of a pod."""
    stored, order = read_cache(encoded), [permuted(i, 23, seed=0, epoch=0) for i in range(3)]
    whole = {key: np.asarray(array) for key, array in stored.items()}
    assert np.array_equal(taken(stored, 1)[0]["latent"], whole["latent"][order])
    for one, two in zip(taken(stored, 16), taken(whole, 16), strict=True):
        assert all(np.array_equal(one[key], two[key]) for key in whole)
    assert not callbacks(cached_batches(stored, batch_size=3, seed=0))


TABLE = {
    "latent": np.arange(10.0, dtype="float32").reshape(10, 1),
    "tokens": np.arange(20, dtype="int32").reshape(10, 2),
}


def test_batches_depend_on_seed_and_step_only():
    straight = taken(TABLE, 9)
    for start in (2, 3, 5):
        for ours, theirs in zip(taken(TABLE, 9 - start, start_step=start), straight[start:], strict=True):
            np.testing.assert_array_equal(ours["latent"], theirs["latent"])
    epochs = np.array([batch["latent"].ravel() for batch in straight]).reshape(3, 9)
    assert all(len(set(epoch)) == 9 for epoch in epochs) and not np.array_equal(epochs[0], epochs[1])
    assert any((a["latent"] != b["latent"]).any() for a, b in zip(straight, taken(TABLE, 9, seed=1), strict=True))
    for batch in straight:
        np.testing.assert_array_equal(batch["tokens"][:, 0], 2 * batch["latent"][:, 0])
    spec = cached_batches(TABLE, batch_size=3, seed=0).element_spec
    assert {key: s.shape for key, s in spec.items()} == {"latent": (3, 1), "tokens": (3, 2)}


def test_hosts_share_the_batches():
    whole = taken(TABLE, 5, batch_size=4)
    parts = [taken(TABLE, 5, batch_size=2, shard=(i, 2)) for i in range(2)]
    for k, batch in enumerate(whole):
        np.testing.assert_array_equal(np.concatenate([part[k]["latent"] for part in parts]), batch["latent"])
    with pytest.raises(UserError, match="10 encoded examples are fewer than a batch of 12"):
        cached_batches(TABLE, batch_size=6, seed=0, shard=(0, 2))


def test_embeddings_of_prompts():
    contexts = np.random.default_rng(0).normal(size=(4, 5, 6)).astype("float32")
    examples = {"latent": TABLE["latent"], "prompt": np.arange(10, dtype="int32") % 4}
    for batch in taken(examples, 4, contexts=contexts):
        np.testing.assert_array_equal(batch["context"], contexts[batch["latent"].ravel().astype(int) % 4])
        assert set(batch) == {"latent", "context"}


def test_damaged_caches_are_named(encoded, tmp_path):
    whole = contents(encoded)

    def folder_with(name, payload):
        folder = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        for key, value in {**whole, name: payload}.items():
            (folder / key).write_bytes(value)
        return folder

    cut = folder_with("shard-00001.safetensors", whole["shard-00001.safetensors"][:-3])
    with pytest.raises(UserError, match=r"shard-00001\.safetensors: truncated"):
        read_cache(cut)
    with pytest.raises(UserError, match=r"shard-00001\.safetensors: does not fit the other shards"):
        read_cache(folder_with("shard-00001.safetensors", whole["shard-00002.safetensors"]))
    twice = folder_with("shard-00001.safetensors", whole["shard-00000.safetensors"])
    (twice / "shard-00001.sha256").write_bytes(whole["shard-00000.sha256"])
    with pytest.raises(UserError, match=r"shard-00001\.safetensors: is damaged"):
        read_cache(twice)  # the same examples twice, with a hash that fits
    number = len(whole["shard-00001.safetensors"]) - 5
    flipped = bytes(byte ^ (i == number) for i, byte in enumerate(whole["shard-00001.safetensors"]))
    with pytest.raises(UserError, match=r"shard-00001\.safetensors: is damaged, .*\.sha256; delete it"):
        read_cache(folder_with("shard-00001.safetensors", flipped))  # a flipped bit was trained on
    with pytest.raises(UserError, match=r"shard-00001\.sha256: not readable"):
        read_cache(folder_with("shard-00001.sha256", b""))
    without = folder_with("x", b"")
    (without / "shard-00001.sha256").unlink()
    with pytest.warns(UserWarning, match=r"without a \.sha256 file are left out: 1 \(shard-00001\.safetensors\)"):
        read_cache(without)
    for text in (b"", b"[]", b"{}", json.dumps({**json.loads(whole["meta.json"]), "shard": 0}).encode()):
        with pytest.raises(UserError, match=r"meta\.json: not readable"):
            read_meta(folder_with("meta.json", text))
    with pytest.raises(UserError, match="no encoded examples; make them with codi cache"):
        read_cache(tmp_path / "nowhere")


def test_training_must_fit_what_the_examples_were_made_with(encoded, tmp_path):
    base, wanted = tiny_base(), {"task": make_task("super_resolution"), "image_size": 16, "condition_space": "latent"}
    check_made_with(encoded, made_with(base, **wanted))
    others = [
        ({"image_size": 32}, "image_size = 16, this training has 32"),
        ({"task": make_task("super_resolution", scale=2)}, "with task = "),
        ({"task": None}, "task = .*this training has None"),
        ({"condition_space": "image"}, "condition_space = latent"),
    ]
    for changes, message in others:
        with pytest.raises(UserError, match=message):
            check_made_with(encoded, made_with(base, **{**wanted, **changes}))
    meta = json.loads((encoded / "meta.json").read_text())
    meta["made_with"]["color"] = "gray"
    (tmp_path / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(UserError, match="with color = gray, this training has None"):  # of a later version
        check_made_with(tmp_path, made_with(base, **wanted))
    base.vae.variables[-1].assign_add(base.vae.variables[-1] * 0 + 1e-3)
    with pytest.raises(UserError, match="autoencoder = .*sha256"):
        check_made_with(encoded, made_with(base, **wanted))


def test_tokens_belong_to_their_tokenizer(encoded, tmp_path):
    base, wanted = tiny_base(), {"task": make_task("super_resolution"), "image_size": 16, "condition_space": "latent"}
    first, second = Tokenizer.from_merges([]), Tokenizer.from_merges([("a", "b</w>")])
    meta = json.loads((encoded / "meta.json").read_text())
    assert meta["made_with"]["tokenizer"] is None  # no texts were used
    check_made_with(encoded, made_with(base, tokenizer=first, **wanted))
    meta["made_with"] = made_with(base, tokenizer=first, **wanted)
    (tmp_path / "meta.json").write_text(json.dumps(meta))
    for same in (Tokenizer.from_merges([]), None):  # None: training makes no use of them
        check_made_with(tmp_path, made_with(base, tokenizer=same, **wanted))
    for other in (second, Tokenizer(first.vocabulary, [], padding="!"), Tokenizer(swapped(first.vocabulary), [])):
        with pytest.raises(UserError, match="was encoded with tokenizer = "):
            check_made_with(tmp_path, made_with(base, tokenizer=other, **wanted))


def swapped(vocabulary):
    """The vocabulary with the numbers of two tokens exchanged."""
    return {**vocabulary, "a": vocabulary["b"], "b": vocabulary["a"]}
