"""Real processes that are killed, told to stop, starved of disk, or left by another worker: nothing is lost.

Each run is `python -m codi_tf.train` on a tiny model. Of the campaign of kills three are in every run of the tests;
`pytest -m campaign` does twenty (docs/reliability.md has its result).
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file
from tiny import tiny_photos, tiny_run

from benchmarks.workers import local_cluster

STEPS, LAST = 60, "checkpoints/step-00000060.safetensors"
LONG = 120  # seconds that anything may take
TRAIN = {"steps": STEPS, "batch_size": 4, "ema_decay": 0.9, "log_every": 6, "save_every": 3}


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """A config file."""
    folder = tmp_path_factory.mktemp("faults")
    values = tiny_run(folder, **TRAIN)
    values["method"] = {"name": "finetune"}  # the quickest to trace
    values["data"]["encode_once"] = 32
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def start(settings, out, *arguments, **variables) -> subprocess.Popen:
    command = [sys.executable, "-m", "codi_tf.train", settings, "--out", out, *arguments]
    return subprocess.Popen(
        [str(part) for part in command], stderr=subprocess.PIPE, text=True, env={**os.environ, **variables}
    )


def finish(process) -> str:
    """Its standard error, when it has ended."""
    try:
        return process.communicate(timeout=LONG)[1]
    except subprocess.TimeoutExpired:
        process.kill()
        raise


@pytest.fixture(scope="module")
def straight(settings, tmp_path_factory):
    """The folder of a run that nothing happened to."""
    out = tmp_path_factory.mktemp("straight") / "run"
    process = start(settings, out)
    assert "images/s" in finish(process) and process.returncode == 0
    return out


def wait_for(condition, process=None) -> None:
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < LONG, "nothing happened"
        assert process is None or process.poll() is None, process.communicate()[1]
        time.sleep(0.01)


def states(out: Path) -> set[str]:
    return {path.name for path in (out / "checkpoints").glob("step-*.safetensors")}


def assert_same(out: Path, expected: Path, *, atol: float = 0.0) -> None:
    values, wanted = load_file(out / LAST), load_file(expected / LAST)
    assert values.keys() == wanted.keys() and len(values) > 100
    for key in wanted:
        np.testing.assert_allclose(values[key], wanted[key], rtol=0, atol=atol, err_msg=key)


def kill_at_random(settings, out, chance: random.Random) -> bool:
    """Go on with a run, and kill it within a second of its next state; whether it was still running."""
    process, before = start(settings, out), states(out)
    wait_for(lambda: states(out) - before or process.poll() is not None)
    time.sleep(chance.uniform(0, 0.4))  # the rest of such a run takes about a second
    alive = process.poll() is None
    process.kill()
    process.communicate()
    return alive


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.campaign)])
def test_a_run_that_is_killed_again_and_again_ends_as_if_nothing_had_happened(settings, straight, tmp_path, kills):
    chance, done, folder = random.Random(kills), 0, 0
    while done < kills:
        out = tmp_path / f"run{folder}"
        if kill_at_random(settings, out, chance):
            done += 1
        else:  # it had come to its end
            assert_same(out, straight)
            folder += 1
    finish(start(settings, out))
    assert_same(out, straight)
    assert not list(out.glob("checkpoints/.*"))
    weights = "result/adapter/diffusion_pytorch_model.safetensors"
    assert (out / weights).read_bytes() == (straight / weights).read_bytes()


def test_sigterm_saves_and_says_try_again(settings, straight, tmp_path):
    out = tmp_path / "run"
    process = start(settings, out, "train.save_every=0")
    wait_for((out / "metrics.jsonl").is_file, process)
    process.send_signal(signal.SIGTERM)
    said = finish(process).splitlines()[-1]
    assert process.returncode == 75
    assert said.startswith("stopped at step ") and said.endswith("its state is saved: the same command goes on")
    (state,) = states(out)
    assert said.split()[3] == str(int(state[5:13]))
    assert finish(start(settings, out, "train.save_every=0")) is not None
    assert_same(out, straight)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own, and a function that gives it another size."""
    folder = tmp_path / "disk"
    folder.mkdir()
    size = "1400k"  # one state and the logs, not two
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("needs the right to mount a file system")
    yield folder, lambda to: subprocess.run(["mount", "-o", f"remount,size={to}", folder], check=True)
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_ends_in_one_line_and_the_state_before_it_is_good(settings, straight, small_disk):
    folder, resize = small_disk
    process = start(settings, folder / "run", "train.keep=30")
    said = [line for line in finish(process).splitlines() if line.startswith("error: ")]
    assert process.returncode == 2 and len(said) == 1, said
    assert "cannot" in said[0] and "make room" in said[0]
    assert states(folder / "run") and not list(folder.glob("run/checkpoints/.*"))
    resize("64m")
    process = start(settings, folder / "run", "train.keep=30")
    assert "resuming" not in finish(process) and process.returncode == 0
    assert_same(folder / "run", straight)


def test_damaged_files_among_the_pictures_are_counted_and_named(settings, tmp_path):
    photos = tiny_photos(tmp_path / "photos")
    (photos / "empty.png").write_bytes(b"")
    (photos / "cut.png").write_bytes((photos / "3.png").read_bytes()[:60])
    (photos / "letter.jpg").write_text("Dear Sir")
    short = ("train.steps=8", "data.encode_once=32", f"data.source={photos}", "data.heldout_fraction=0.3")
    process = start(settings, tmp_path / "run", *short, "data.max_unreadable=0.5")
    lines = [line for line in finish(process).splitlines() if "unreadable" in line]
    assert process.returncode == 0 and lines and all(line.startswith("warning: ") for line in lines), lines
    assert any(name in line for line in lines for name in ("empty.png", "cut.png", "letter.jpg"))
    process = start(settings, tmp_path / "strict", *short, "data.max_unreadable=0.0")
    said = finish(process)
    assert process.returncode == 2 and "unreadable" in said.splitlines()[-1] and "Traceback" not in said


# Two workers


def start_two(settings, out, *arguments) -> list[subprocess.Popen]:
    options = ("--strategy", "multiworker", *arguments)
    return [start(settings, out, *options, TF_CONFIG=cluster) for cluster in local_cluster(2)]


def test_two_workers_learn_what_one_does_also_after_one_was_lost(settings, straight, tmp_path):
    """One is killed; the other ends within a bound and says so; both go on; only the first has written."""
    out = tmp_path / "run"
    workers = start_two(settings, out)
    wait_for(lambda: len(states(out)) > 1, workers[0])
    workers[1].kill()
    workers[1].communicate()
    said = finish(workers[0]).splitlines()[-1]
    assert workers[0].returncode == 75
    assert said.startswith("another worker was lost (") and "start all workers again" in said
    workers = start_two(settings, out)
    assert [(finish(worker) and 0) or worker.returncode for worker in workers] == [0, 0]
    assert_same(out, straight, atol=2e-5)  # gradients are summed in another order


def test_a_missing_cluster_is_one_line(settings, tmp_path):
    for text, said in ((None, "TF_CONFIG is not set"), ('{"cluster": {}}', "no cluster with this task in it")):
        variables = {} if text is None else {"TF_CONFIG": text}
        process = start(settings, tmp_path / "run", "--strategy", "multiworker", **variables)
        (line,) = finish(process).splitlines()
        assert process.returncode == 2 and line.startswith("error: ") and said in line


def test_a_missing_tpu_is_one_line(settings, tmp_path):
    process = start(settings, tmp_path / "run", "--strategy", "tpu")
    (line,) = finish(process).splitlines()
    assert process.returncode == 2 and line.startswith("error: TPU 'local' cannot be reached")
