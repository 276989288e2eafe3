"""gs://, by TensorFlow's own file system, with buckets on this machine in Google's place; and what refuses there."""

from __future__ import annotations

import re

import numpy as np
import pytest
import tensorflow as tf
from bucket import ANONYMOUS, FORBIDDEN, OPENSSL, buckets
from commands import run_here
from small_runs import crash, experiment, make_start, metrics
from test_remote_paths import put, weights, write_things

import codi_tf
from codi_tf.cli import cache, evaluate
from codi_tf.cli import train as train_command
from codi_tf.cli.train import train
from codi_tf.core import paths
from codi_tf.core.errors import explained
from codi_tf.core.paths import as_path, copy_file, matching
from codi_tf.data.cached import read_cache
from codi_tf.io import remote
from codi_tf.io.folders import check_whole
from codi_tf.training import states
from codi_tf.training.folder import write_settings
from export.__main__ import main as export

pytestmark = pytest.mark.skipif(OPENSSL is None, reason="needs openssl, for a certificate")

# What a bucket answers, and what the line must say: the reason, and what to do.
REFUSALS = {
    "missing": ("there is no such bucket; make it, or correct its name", "does not exist", "is there", "no "),
    "forbidden": ("trainer@project.iam does not have storage.objects", "allow this account to read and write there"),
    "anonymous": ("Anonymous caller does not have", "gcloud auth application-default login"),
}


@pytest.fixture(scope="module")
def google(tmp_path_factory):
    """Buckets: "open", "read" for reading alone, and those of REFUSALS."""
    with pytest.MonkeyPatch.context() as patch, buckets(tmp_path_factory.mktemp("google")) as (server, variables):
        for name, value in variables.items():
            patch.setenv(name, value)
        server.open |= {"open", "read"}
        server.read_only.add("read")
        server.refusals |= {"forbidden": FORBIDDEN, "anonymous": ANONYMOUS}
        yield server


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """The folder of a base on this machine, with photos and a config beside it."""
    base = make_start(tmp_path_factory.mktemp("start"))
    write_settings(experiment(base), base.parent)
    return base


def test_files_and_folders(google):
    """A bucket has no folders, but names; TensorFlow makes markers for some of them, and keeps what it saw for 5 s."""
    folder, content = as_path("gs://open/files/a"), np.random.default_rng(0).bytes((1 << 21) + 17)
    (folder / "large.bin").write_bytes(content)
    (folder / "deep" / "small.txt").write_text("grüße")
    (folder / "empty").write_bytes(b"")
    with (folder / "large.bin").open("rb") as file:
        assert (file.seek(-5, 2), file.read(), file.seek(7), file.read(3)) == (
            len(content) - 5, content[-5:], 7, content[7:10])  # fmt: skip
    assert (folder / "deep" / "small.txt").read_text() == "grüße" and (folder / "empty").read_bytes() == b""
    assert (folder / "large.bin").stat().st_size == len(content) and (folder / "large.bin").is_file()
    assert folder.is_dir() and not folder.is_file() and folder.exists() and not (folder / "none").is_dir()
    assert as_path("gs://open").is_dir() and not as_path("gs://missing").exists()
    assert sorted(one.name for one in folder.iterdir()) == ["deep", "empty", "large.bin"]
    assert {str(one) for one in folder.rglob("*.txt")} == {f"{folder}/deep/small.txt"}
    assert matching(f"{folder}/l*.bin") == [f"{folder}/large.bin"]
    (folder / "empty").replace(folder / "renamed")
    copy_file(folder / "large.bin", folder / "copy.bin")
    (folder / "large.bin").unlink()
    (folder / "none").unlink(missing_ok=True)
    with pytest.raises(FileNotFoundError, match="gs://open/files/a/large.bin"):
        (folder / "large.bin").read_bytes()
    assert google.names("open", "files/") == [f"files/a/{name}" for name in ("copy.bin", "deep/small.txt", "renamed")]
    folder.rmdir()
    assert google.names("open", "files/") == []


def test_an_answer_that_fails_once_is_asked_for_again(google):
    """Google's servers answer 503 now and then; TensorFlow asks again after a second."""
    as_path("gs://open/again").write_text("yes")
    google.fails["get"] = 1
    assert as_path("gs://open/again").read_text() == "yes" and not google.fails["get"]


def test_a_long_silence_is_told(google, monkeypatch):
    """A firewall that swallows everything left a command silent for minutes."""
    monkeypatch.setattr(paths, "PATIENCE", 0.2)
    google.fails["stat"] = 1
    with pytest.warns(UserWarning, match="gs://open/silent: no answer yet; TensorFlow tries for several minutes"):
        assert not as_path("gs://open/silent").exists()


def test_a_folder_is_replaced_whole(google, monkeypatch):
    """Files of an older folder that are gone, and a folder whose copying was interrupted."""
    path, upload = as_path("gs://open/things"), remote.upload
    write_things(path, a="1", gone="1")
    write_things(path, a="2", new="2")
    check_whole(path)
    assert (path / "a").read_text() == (path / "new").read_text() == "2"
    assert google.names("open", "things/") == [f"things/{name}" for name in (".made-by-codi_tf", "a", "new")]

    def fail(source, target):
        if target.name == "new":
            raise OSError(5, "gone")
        upload(source, target)

    with monkeypatch.context() as patch, pytest.raises(codi_tf.UserError, match="cannot write gs://open/things: gone"):
        patch.setattr(remote, "upload", fail)
        write_things(path, a="3", new="3")
    with pytest.raises(codi_tf.UserError, match="not whole"):
        check_whole(path)


@pytest.mark.slow
def test_a_run_in_a_bucket_equals_a_local_one(google, eager, start, tmp_path, monkeypatch):
    """Base, run and encoded examples in a bucket, the run interrupted and resumed: the same bytes."""
    local, far = tmp_path / "encoded", as_path("gs://open/encoded")
    base, out = put(start, "gs://open/models/base"), as_path("gs://open/runs/run")
    for folder, model in ((local, start), (far, base)):
        settings = experiment(model, data__source=str(start.with_name("photos")))
        assert cache.encode(settings, folder, examples=6, shard=4)
    assert weights(far) == weights(local) and len(weights(far)) == 2
    near = read_cache(local)
    for key, values in read_cache(str(far)).items():
        np.testing.assert_array_equal(np.asarray(values), np.asarray(near[key]))
    train(experiment(start, train__steps=2, data__source=str(local)), tmp_path / "run")
    run = experiment(base, train__steps=2, data__source=str(far))
    crash(monkeypatch, run, out, 2)
    assert not (out / "result").exists()
    assert train(run, out) == out / "result"
    assert metrics(out) == metrics(tmp_path / "run")
    for name in ("result", "checkpoints"):
        assert weights(out / name) == weights(tmp_path / "run" / name) != {}
    image = np.full((16, 16, 3), 0.5, "float32")
    near = codi_tf.load(tmp_path / "run" / "result").generate(image)
    np.testing.assert_array_equal(codi_tf.load(str(out)).generate(image), near)


# --- what refuses


def commands(start, bundle, bucket: str) -> dict:
    """Commands that read or write in a bucket: (main, arguments, whether they write)."""
    config, place = start.parent / "config.yaml", f"gs://{bucket}/place"
    return {
        "train --out": (train_command.main, (config, "--out", place), True),
        "train base": (train_command.main, (config, f"base={place}", "--out", start.parent / "never"), False),
        "train data": (train_command.main, (config, f"data.source={place}", "--out", start.parent / "never"), False),
        "train config": (train_command.main, (f"{place}.yaml", "--out", start.parent / "never"), False),
        "cache --out": (cache.main, (config, "--out", place, "--examples", "2"), True),
        "cache data": (
            cache.main, (config, f"data.source={place}", "--out", start.parent / "never", "--examples", "2"), False,
        ),
        "evaluate": (evaluate.main, (place, "--out", start.parent / "never"), False),
        "evaluate --out": (evaluate.main, (bundle, "--out", place, "--count", "2"), True),
        "export": (export, (place, "--out", start.parent / "never", "--format", "onnx"), False),
        "export --out": (export, (bundle, "--out", place, "--format", "onnx"), True),
    }  # fmt: skip


@pytest.mark.parametrize("bucket", REFUSALS)
def test_a_refusal_is_one_line_that_names_the_path_and_the_remedy(google, start, bundle, bucket):
    """Before any work; and nothing is left, neither there nor here."""
    for name, (main, arguments, _) in commands(start, bundle, bucket).items():
        done = run_here(main, *arguments)
        (line,) = done.stderr.splitlines() or [""]
        assert done.returncode == 2 and line.startswith("error: "), (name, done.stderr)
        assert f"gs://{bucket}" in line and any(text in line for text in REFUSALS[bucket]), (name, line)
        if bucket == "forbidden":
            assert all(text in line for text in REFUSALS[bucket]), (name, line)
        assert not (start.parent / "never").exists(), name
        assert not google.names(bucket), name


def test_a_bucket_that_can_only_be_read_takes_no_run(google, start, bundle):
    """Reading it is allowed, so the commands would have trained before they found out."""
    for name, (main, arguments, writes) in commands(start, bundle, "read").items():
        if writes:
            done = run_here(main, *arguments)
            (line,) = done.stderr.splitlines() or [""]
            assert done.returncode == 2 and re.match(r"error: gs://read/place: nothing can be written there", line), (
                name, done.stderr)  # fmt: skip
            assert "allow this account to read and write there" in line


@pytest.mark.parametrize("bucket", REFUSALS)
def test_what_tensorflow_reads_by_itself_is_one_line_too(google, bucket):
    """tf.data raises TensorFlow's own errors, in the middle of a training."""
    with pytest.raises(tf.errors.OpError) as found:
        next(iter(tf.data.TFRecordDataset(f"gs://{bucket}/records/a.tfrecord")))
    line = explained(found.value)
    assert line is not None and line.startswith(f"gs://{bucket}/records/a.tfrecord: "), line
    assert any(text in line for text in REFUSALS[bucket]) and "\n" not in line and len(line) < 400


@pytest.mark.slow
def test_permission_that_ends_during_a_run_ends_it_in_one_line(google, eager, start, monkeypatch):
    """States could no longer be written: a traceback. The states before that stay, and are no damaged ones."""
    config, out, write = start.parent / "config.yaml", as_path("gs://closing/run"), states.write_state
    google.open.add("closing")

    def refuse_the_second(path, values):
        if path.name == "step-00000002.safetensors":
            google.refusals["closing"] = FORBIDDEN
        write(path, values)

    with monkeypatch.context() as patch:
        patch.setattr(states, "write_state", refuse_the_second)
        done = run_here(train_command.main, config, "--out", out)
    line = done.stderr.splitlines()[-1]
    assert done.returncode == 2 and "gs://closing/run" in line and line.startswith("error: "), done.stderr
    assert "allow this account to read and write there" in line and "make room" not in line
    state = out / "checkpoints" / "step-00000001.safetensors"
    with pytest.raises(PermissionError, match="allow this account"):  # not "damaged", and the one before it is used
        states.read_state(state)
    del google.refusals["closing"]
    assert states.read_state(state)
