"""python -m codi_tf.train: a mistake ends in one line and exit status 2; the rest is `train`."""

from __future__ import annotations

import subprocess
import sys

import pytest
import yaml
from shards import encoded, new_image, write_tar
from tiny import tiny_run

from codi_tf.cli import train
from codi_tf.core.command_line import run_command
from codi_tf.core.errors import UserError
from codi_tf.data.splits import is_heldout


def run(monkeypatch, capsys, *arguments):
    """(exit status, standard output, standard error) of the command in this process."""
    monkeypatch.setattr(sys, "argv", ["train", *map(str, arguments)])
    status = run_command(train.main)
    return status, *capsys.readouterr()


@pytest.fixture
def settings(tmp_path):
    """A config file of a run of two steps."""
    values = tiny_run(tmp_path, steps=2, save_every=1)
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.stepz=3", "unknown key train.stepz: did you mean 'steps'?"),
        ("train.steps=many", "train.steps is 'many': it must be of type int"),
        ("train.steps", "'train.steps' is no override"),
        ("base=/no/such/folder", "/no/such/folder: no such model folder"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(monkeypatch, capsys, tmp_path, settings, override, message):
    status, out, err = run(monkeypatch, capsys, settings, override, "--out", tmp_path / "run")
    assert (status, out) == (2, "")
    assert err.startswith("error: ") and message in err and err.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("localhost:1", "data service localhost:1: nobody answers there (Connection refused); start its dispatcher"),
        ("no.such.host.invalid:5050", "data service no.such.host.invalid:5050: nobody answers there ("),
        ("localhost", "distribution.data_service is 'localhost': write the address as HOST:PORT"),
    ],
)
def test_a_service_that_does_not_answer_is_one_line(monkeypatch, capsys, tmp_path, settings, address, message):
    """Fault: a run that waits for ever for its first batch."""
    status, out, err = run(monkeypatch, capsys, settings, "--data-service", address, "--out", tmp_path / "run")
    assert (status, out) == (2, "") and message in err and err.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("override", ["data.encode_once=8", "data.encode_once=0"])
def test_data_without_a_heldout_split_are_told_before_anything_is_done(
    monkeypatch, capsys, tmp_path, settings, override
):
    photos = tmp_path / "photos"
    for path in photos.iterdir():
        if is_heldout(path.name, 0.1):
            path.unlink()
    status, out, err = run(monkeypatch, capsys, settings, override, "--out", tmp_path / "run")
    assert (status, out) == (2, "") and err.count("\n") == 1
    assert err.startswith("error: none of ") and "falls in split 'heldout'" in err
    assert not (tmp_path / "run").exists()


def shard(tmp_path, bad):
    """A tar file of 36 images, some of them none."""
    members = {f"{i:02}.png": b"no image" if i in bad else encoded(new_image(i)) for i in range(36)}
    return write_tar(tmp_path / "a.tar", members)


@pytest.mark.parametrize("encode_once", [0, 8])
def test_corrupt_shards_end_in_one_line(monkeypatch, capsys, tmp_path, settings, encode_once):
    overrides = (
        f"data.source={shard(tmp_path, range(0, 36, 2))}",
        f"data.encode_once={encode_once}",
        "task.name=bicubic",
    )
    status, out, err = run(monkeypatch, capsys, settings, *overrides, "train.batch_size=8", "--out", tmp_path / "run")
    assert status == 2 and "Traceback" not in err
    assert "records are unreadable, more than max_unreadable 0.01 allows: " in err.splitlines()[-1]


@pytest.mark.parametrize("encode_once", [0, 36])
def test_a_run_says_at_its_end_what_it_could_not_read(monkeypatch, capsys, tmp_path, settings, encode_once):
    overrides = (
        f"data.source={shard(tmp_path, range(1, 36, 4))}",
        f"data.encode_once={encode_once}",
        "task.name=bicubic",
    )
    allowed = ("data.max_unreadable=0.5", "train.batch_size=32", "--out", tmp_path / "run")
    status, out, err = run(monkeypatch, capsys, settings, *overrides, *allowed)
    assert status == 0
    (line,) = (line for line in err.splitlines() if line.startswith("warning: "))
    assert " records were unreadable, others replaced them: " in line and line.count("a.tar: ") == 3


def test_a_missing_file_in_a_process_of_its_own(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "codi_tf.train", str(tmp_path / "none.yaml")], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: {tmp_path / 'none.yaml'}: no such config file\n"


def test_mistakes_of_the_program_are_not_hidden(monkeypatch):
    def wrong(arguments):
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        run_command(wrong)


def test_statuses(monkeypatch, capsys):
    def stopped(arguments):
        raise KeyboardInterrupt

    def mistaken(arguments):
        raise UserError(" ".join(arguments))

    monkeypatch.setattr(sys, "argv", ["name", "one", "two"])
    assert run_command(list) == 0
    assert run_command(mistaken) == 2
    assert capsys.readouterr().err == "error: one two\n"
    assert run_command(stopped) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_the_command_trains_and_says_where_the_result_is(monkeypatch, capsys, tmp_path, settings):
    """With a compiled step; by default into runs/, under the config's name."""
    monkeypatch.chdir(tmp_path)
    status, out, err = run(monkeypatch, capsys, settings, "train.steps=1")
    assert status == 0
    assert out.splitlines()[-1] == "result: runs/tiny/result"
    assert "training (codi) 1/1" in err
    assert (tmp_path / "runs/tiny/result/codi.json").is_file()
    status, out, err = run(monkeypatch, capsys, settings, "train.steps=1", "train.seed=1")
    assert (status, out) == (2, "")
    assert err.startswith("error: runs/tiny: was started with train.seed = 0, now it is 1; choose another --out")
    assert err.count("\n") == 1
