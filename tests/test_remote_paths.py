"""Remote paths, on TensorFlow's file system in memory: runs, caches, bundles, evaluations and exports, whole or not."""

from __future__ import annotations

import hashlib
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
import tensorflow as tf
from commands import run_here
from small_runs import crash, experiment, make_start, metrics

import codi_tf
from codi_tf import config
from codi_tf.bundle import copy_bundle
from codi_tf.cli import cache, evaluate
from codi_tf.cli import train as train_command
from codi_tf.cli.train import train
from codi_tf.config import places
from codi_tf.core.errors import UserError
from codi_tf.core.paths import RemotePath, as_path
from codi_tf.data.cached import read_cache
from codi_tf.io import remote
from codi_tf.io.bundle_files import model_at
from codi_tf.io.folders import MARKER, Kind, check_whole, whole_folder
from codi_tf.io.hashing import file_sha256, folder_sha256
from codi_tf.io.listing import files_below
from codi_tf.training.folder import write_settings
from export.build import make_package
from export.package.manifest import read_manifest

THINGS = Kind("folder of things")


def put(folder: Path, target: str) -> Path:
    """A remote copy of a folder."""
    for path in folder.rglob("*"):
        if path.is_file():
            remote.upload(path, as_path(target).joinpath(*path.relative_to(folder).parts))
    return as_path(target)


def weights(folder: Path) -> dict[str, str]:
    """The SHA-256 of every file of weights."""
    return {p.relative_to(folder).as_posix(): file_sha256(p) for p in sorted(folder.rglob("*.safetensors"))}


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """The folder of a base on this machine, with photos beside it."""
    return make_start(tmp_path_factory.mktemp("start"))


# --- paths


def test_a_remote_path_is_taken_apart_as_a_local_one():
    """`pathlib` reads gs://a as gs:/a, and takes it for a folder of the working directory."""
    path = as_path("gs://bucket/runs/a.tar.gz")
    assert str(path) == f"{path}" == path.__fspath__() == "gs://bucket/runs/a.tar.gz"
    assert str(path.parent / "b") == str(path.with_name("b")) == "gs://bucket/runs/b"
    assert str(path.resolve().parent / "../../../.." / "c") != str((path.parent / "../../../../c").resolve())
    assert str((path.parent / "../../../../c").resolve()) == "gs://bucket/c"  # never out of the bucket
    assert path.relative_to(path.parents[1]).as_posix() == "runs/a.tar.gz" and path.is_absolute()
    assert (path.name, path.suffix, path.stem) == ("a.tar.gz", ".gz", "a.tar")
    assert not isinstance(as_path("a:b//c"), RemotePath) and as_path(path) is path
    assert PurePosixPath("runs/a") == (as_path("runs") / "a")


def test_a_remote_file_is_read_as_a_local_one(tmp_path):
    """A hash of a large file needs several reads; sizes and places come from its end."""
    content = np.random.default_rng(0).bytes((1 << 21) + 17)
    path = as_path("ram://files/a/large.bin")
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    assert file_sha256(path) == hashlib.sha256(content).hexdigest() and path.stat().st_size == len(content)
    with path.open("rb") as file:
        assert (file.seek(-5, 2), file.read(), file.seek(7), file.read(3)) == (
            len(content) - 5, content[-5:], 7, content[7:10])  # fmt: skip
    with pytest.raises(FileNotFoundError, match="ram://files/b"):
        as_path("ram://files/b").read_bytes()
    (path.parent / ".hidden").write_text("")
    (path.parent / "picture.png").write_text("")
    assert files_below("ram://files") == (["ram://files/a/large.bin", "ram://files/a/picture.png"], [])


def test_paths_in_the_config_of_a_remote_run(tmp_path, monkeypatch):
    """A relative path in a config beside a remote result led nowhere from another folder. No bucket is asked."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base").mkdir()
    values = {"base": "base", "data": {"source": "gs://bucket/photos"}}
    places.write_down(values, as_path("ram://run"))
    assert values == {"base": str(tmp_path / "base"), "data": {"source": "gs://bucket/photos"}}
    places.write_down(values, tmp_path)
    assert values["data"]["source"] == "gs://bucket/photos"
    places.resolve(values, tmp_path / "config.yaml")
    assert values["data"]["source"] == "gs://bucket/photos"


# --- folders


def write_things(path: Path, **files: str) -> None:
    with whole_folder(path, THINGS) as folder:
        for name, text in files.items():
            (folder / name).write_text(text)


def test_a_remote_folder_is_replaced_whole(monkeypatch):
    """Interrupted at any file, an earlier folder and a new one were mixed, and the mixture taken for whole."""
    path, upload = as_path("ram://folders/things"), remote.upload
    write_things(path, a="1", b="1", gone="1")
    names = [MARKER, "a", "b", "new"]
    for name in names:

        def fail(source, target, name=name):
            if target.name == name:
                raise OSError(28, "No space left on device")
            upload(source, target)

        with monkeypatch.context() as patch, pytest.raises(UserError, match="cannot write ram://folders/things: No sp"):
            patch.setattr(remote, "upload", fail)
            write_things(path, a="2", b="2", new="2")
        with pytest.raises(UserError, match="not whole"):
            check_whole(path)
        with pytest.raises(UserError, match="ram://folders/things: is not whole"):
            model_at(path)
    write_things(path, a="3", b="3", new="3")
    check_whole(path)
    assert sorted(one.name for one in path.iterdir()) == sorted(names)
    assert {(path / name).read_text() for name in names[1:]} == {"3"}


def test_a_remote_folder_of_somebody_else_stays():
    """What no command made must not be replaced."""
    path = as_path("ram://strangers/folder")
    write_things(path, a="1")
    (path / "letter.txt").write_text("dear")
    with pytest.raises(UserError, match="holds more than its folder of things: letter.txt"):
        write_things(path, a="2")
    with pytest.raises(UserError, match="is no result"), whole_folder(path, Kind("result")):
        pass
    assert (path / "a").read_text() == "1"


# --- runs


@pytest.mark.slow
def test_a_remote_run_equals_a_local_one(eager, start, tmp_path, monkeypatch):
    """Interrupted and resumed, with a remote base: the same weights, states and figures, bit by bit."""
    settings = {"train__steps": 2, "train__sample_every": 2}
    train(experiment(start, **settings), tmp_path / "run")
    base, out = put(start, "ram://models/base"), as_path("ram://runs/run")
    photos = {"data__source": str(start.with_name("photos"))}
    run = experiment(base, **settings, **photos)
    crash(monkeypatch, run, out, 2)
    assert not (out / "result").exists()
    assert train(run, out) == out / "result"
    assert metrics(out) == metrics(tmp_path / "run")
    for folder in ("result", "checkpoints"):
        assert weights(out / folder) == weights(tmp_path / "run" / folder) != {}
    assert [path.name for path in (out / "samples").iterdir()] == ["step-00000002.png"]
    assert any("tfevents" in path.name for path in (out / "logs").iterdir())
    settings = config.load(out / "config.yaml")
    assert settings.base == "ram://models/base" and settings.train.steps == 2
    image = np.full((16, 16, 3), 0.5, "float32")
    np.testing.assert_array_equal(
        codi_tf.load(str(out)).generate(image), codi_tf.load(tmp_path / "run/result").generate(image)
    )


def test_a_place_that_cannot_be_written_is_told_in_one_line(start, tmp_path):
    """A scheme that TensorFlow does not know, or a bucket without permission, ended in a traceback."""
    write_settings(experiment(start), tmp_path)
    for out in ("nowhere://bucket/run", "nowhere://bucket"):
        done = run_here(train_command.main, tmp_path / "config.yaml", "--out", out)
        assert done.returncode == 2 and done.stderr.count("\n") == 1 and done.stderr.startswith(f"error: {out}: ")
    done = run_here(train_command.main, tmp_path / "config.yaml", "base=nowhere://bucket/base", "--out", tmp_path / "r")
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "nowhere" in done.stderr
    assert not (tmp_path / "r").exists()


# --- encoded examples, bundles, evaluations, exports


def test_remote_encoded_examples_equal_local_ones(eager, start, tmp_path):
    """The same bytes; read through a copy on this machine."""
    run, out = experiment(start), as_path("ram://encoded/cache")
    for folder in (tmp_path / "cache", out):
        assert cache.encode(run, folder, examples=6, shard=4)
    assert weights(out) == weights(tmp_path / "cache") and len(weights(out)) == 2
    (out / "shard-00001.safetensors").unlink()
    (out / "shard-00000.safetensors").write_bytes(b"damaged")
    assert cache.encode(run, out, examples=6, shard=4)  # encodes what is missing or damaged again
    assert weights(out) == weights(tmp_path / "cache")
    near, far = read_cache(tmp_path / "cache"), read_cache("ram://encoded/cache")
    assert near.keys() == far.keys()
    for key in near:
        np.testing.assert_array_equal(np.asarray(far[key]), np.asarray(near[key]))


def test_a_remote_bundle_finds_its_base_beside_it(eager, start, tmp_path):
    """A bundle of an adapter alone names its base as ../NAME."""
    base = put(start, "ram://together/base")
    photos = {"data__source": str(start.with_name("photos")), "adaptation": {"train": "adapter"}}
    out = train(experiment(base, train__steps=1, **photos), as_path("ram://one/run"))
    model = codi_tf.load(str(out))
    model.save("ram://together/bundle")
    assert "unet/config.json" not in [path.relative_to(base.parent / "bundle").as_posix() for path in
                                      (base.parent / "bundle").rglob("*")]  # fmt: skip
    for name in ("base", "bundle"):
        put(base.parent / name, f"ram://moved/{name}")
    image = np.full((16, 16, 3), 0.5, "float32")
    np.testing.assert_array_equal(codi_tf.load("ram://moved/bundle").generate(image), model.generate(image))


def test_a_remote_bundle_is_copied_there_and_back(bundle, tmp_path):
    """What is written remotely is what is written here."""
    copy_bundle(bundle, "ram://shelf/model")
    copy_bundle("ram://shelf/model", tmp_path / "back")
    assert folder_sha256(tmp_path / "back") == folder_sha256(as_path("ram://shelf/model"))


@pytest.mark.slow
def test_a_remote_bundle_is_evaluated_and_exported(eager, bundle, feature_folder, monkeypatch):
    """Commands read their bundle and write their folder remotely."""
    model = str(put(bundle, "ram://rack/model"))
    monkeypatch.setattr("codi_tf.cli.evaluate.PROCESS_STEPS", (1, 2))
    options = ["--steps", "1", "--count", "2", "--features", feature_folder, "--out"]
    done = run_here(evaluate.main, model, *options, "ram://rack/report")
    assert done.returncode == 0, done.stderr
    assert {"report.md", "metrics.json", "grid.png"} <= {one.name for one in as_path("ram://rack/report").iterdir()}
    tf.config.run_functions_eagerly(False)
    out = as_path("ram://rack/package")
    make_package(as_path(model), out, format="onnx", steps=1, sizes=[(16, 16)], report=False)
    check_whole(out)
    assert read_manifest(remote.kept_copy(out))["origin"]["sha256"] == folder_sha256(bundle)
