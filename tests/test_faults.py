"""Real processes that are killed, told to stop, starved of disk, or left by another worker: nothing is lost.

Each run is `python -m codi_tf.train` on a tiny model. Of the campaign of kills three are in the slow tier;
`pytest -m campaign` does twenty (docs/reliability.md has its result). The quick tier kills the encoding of examples, in
test_cache.py, and ends and resumes runs in its own process, in test_train_runs.py.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import yaml
from safetensors.numpy import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
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
    command = [sys.executable, "-u", "-m", "codi_tf.train", settings, "--out", out, *arguments]  # says all in order
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen([str(part) for part in command], **streams, env={**os.environ, **variables})


def finish(process) -> str:
    """All output of a process, after its end."""
    try:
        return process.communicate(timeout=LONG)[0]
    except subprocess.TimeoutExpired:
        process.kill()
        raise


@pytest.fixture(scope="module")
def straight(settings, tmp_path_factory):
    """The folder of a run that nothing happened to."""
    out = tmp_path_factory.mktemp("straight") / "run"
    process = start(settings, out, "--profile", 1)
    assert "images/s" in finish(process) and process.returncode == 0
    return out


def shown(out: Path) -> dict[str, dict[int, np.ndarray]]:
    """What a run wrote for TensorBoard: name -> step -> value."""
    events = EventAccumulator(str(out / "logs"), size_guidance={"tensors": 0}).Reload()
    values = {name: events.Tensors(name) for name in events.Tags()["tensors"]}
    return {name: {one.step: tf.make_ndarray(one.tensor_proto) for one in found} for name, found in values.items()}


def wait_for(condition, process=None, *, pause: float = 0.01) -> None:
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < LONG, "nothing happened"
        assert process is None or process.poll() is None, process.communicate()[0]
        time.sleep(pause)


def states(out: Path) -> set[str]:
    return {path.name for path in (out / "checkpoints").glob("step-*.safetensors")}


def being_written(out: Path) -> list[Path]:
    """Of states that are not whole yet, or that a kill cut off."""
    return list(out.glob("checkpoints/.step-*"))


def assert_same(out: Path, expected: Path, *, atol: float = 0.0) -> None:
    values, wanted = load_file(out / LAST), load_file(expected / LAST)
    assert values.keys() == wanted.keys() and len(values) > 100
    for key in wanted:
        np.testing.assert_allclose(values[key], wanted[key], rtol=0, atol=atol, err_msg=key)


def kill_at_random(settings, out, chance: random.Random) -> bool:
    """Go on with a run, and kill it within a second of its next state; whether it was still running.

    A state is written in a few milliseconds: every fourth kill waits for one.
    """
    process, before = start(settings, out), states(out)
    wait_for(lambda: states(out) - before or process.poll() is not None)
    time.sleep(chance.uniform(0, 0.4))  # the rest of such a run takes about a second
    if chance.random() < 0.25:
        wait_for(lambda: being_written(out) or process.poll() is not None, pause=0.0)
    alive = process.poll() is None
    process.kill()
    process.communicate()
    return alive


@pytest.mark.slow  # a process; test_run_folder.py looks at TensorBoard in the quick tier
def test_tensorboard_is_given_scalars_and_a_profile(straight):
    (profile,) = straight.glob("logs/plugins/profile/*/*.xplane.pb")
    assert profile.stat().st_size > 10_000
    lines = [json.loads(line) for line in (straight / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(6, STEPS + 1, 6))
    values = shown(straight)
    assert {"loss/denoising", "optimizer/learning_rate", "mu/mean", "config"} <= values.keys()
    speeds = [f"speed/{name}" for name in ("images_per_second", "input_share", "network_share", "average_share")]
    for tag in ("loss/loss", *speeds, "memory/peak_memory_gb"):
        name = tag.partition("/")[2]
        assert values[tag] == {line["step"]: pytest.approx(line[name]) for line in lines}


@pytest.mark.parametrize(
    "kills", [pytest.param(3, marks=pytest.mark.slow), pytest.param(20, marks=pytest.mark.campaign)]
)
def test_a_run_that_is_killed_again_and_again_ends_as_if_nothing_had_happened(settings, straight, tmp_path, kills):
    chance, done, folder, torn = random.Random(kills), 0, 0, 0
    while done < kills:
        out = tmp_path / f"run{folder}"
        if kill_at_random(settings, out, chance):
            done += 1
            torn += bool(being_written(out))
        else:  # it had come to its end
            assert_same(out, straight)
            folder += 1
    finish(start(settings, out))
    assert_same(out, straight)
    assert not list(out.glob("checkpoints/.*"))
    print(f"{torn} of {kills} kills cut off a state that was being written")
    assert torn or kills < 20  # a few kills may all miss
    weights = "result/adapter/diffusion_pytorch_model.safetensors"
    assert (out / weights).read_bytes() == (straight / weights).read_bytes()


def stopped_at(output: str) -> int:
    """The step that a run names which was told to stop."""
    found = re.search(
        r"^stopped at step (\d+) by (?:SIGTERM|another worker), its state is saved: the same command resumes$",
        output,
        re.M,
    )
    assert found, output
    return int(found[1])


def test_sigterm_saves_and_says_try_again(settings, straight, tmp_path):
    """It ends with the call of six steps that it falls into."""
    out, options = tmp_path / "run", ("train.save_every=0", "train.steps_per_call=6")
    process = start(settings, out, *options)
    wait_for((out / "metrics.jsonl").is_file, process)
    process.send_signal(signal.SIGTERM)
    step = stopped_at(finish(process))
    assert process.returncode == 75 and step % 6 == 0
    assert states(out) == {f"step-{step:08d}.safetensors"}
    assert f"resuming {out} at step {step}" in finish(start(settings, out, *options))
    assert_same(out, straight)


@pytest.mark.slow
def test_a_truncated_state_is_named_and_the_one_before_it_leads_to_the_same_end(settings, straight, tmp_path):
    out = shutil.copytree(straight, tmp_path / "run")
    with open(out / LAST, "r+b") as file:
        file.truncate(1000)
    output = finish(start(settings, out))
    assert f"warning: {out / LAST}: truncated or damaged" in output and "; the state before it is used" in output
    assert f"resuming {out} at step 57" in output
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


@pytest.mark.slow
def test_a_full_disk_ends_in_one_line_and_the_state_before_it_is_good(settings, straight, small_disk):
    folder, resize = small_disk
    process = start(settings, folder / "run", "train.keep=30")
    output = [line for line in finish(process).splitlines() if line.startswith("error: ")]
    assert process.returncode == 2 and len(output) == 1, output
    assert "cannot" in output[0] and "make room" in output[0]
    assert states(folder / "run") and not list(folder.glob("run/checkpoints/.*"))
    resize("64m")
    process = start(settings, folder / "run", "train.keep=30")
    assert f"resuming {folder / 'run'} at step " in finish(process) and process.returncode == 0
    assert_same(folder / "run", straight)


@pytest.mark.slow
def test_damaged_files_among_the_images_are_counted_and_named(settings, tmp_path):
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
    output = finish(process)
    assert process.returncode == 2 and "unreadable" in output.splitlines()[-1] and "Traceback" not in output


# Two replicas, two workers


def test_two_replicas_of_a_run_learn_what_one_does_and_show_images(settings, straight, tmp_path):
    options = ("--strategy", "mirrored", "distribution.devices=2", f"train.sample_every={STEPS}")
    process = start(settings, tmp_path / "run", *options)
    assert "images/s" in finish(process) and process.returncode == 0
    assert_same(tmp_path / "run", straight, atol=2e-5)  # gradients are summed in another order
    ((step, image),) = shown(tmp_path / "run")["samples"].items()
    width, height, png = image
    assert step == STEPS and png.startswith(b"\x89PNG") and int(width) > int(height) > 100


def start_two(settings, out, *arguments) -> list[subprocess.Popen]:
    options = ("--strategy", "multiworker", *arguments)
    return [start(settings, out, *options, TF_CONFIG=cluster) for cluster in local_cluster(2)]


@pytest.mark.slow
def test_two_workers_learn_what_one_does_also_after_one_was_told_to_stop_and_one_was_lost(settings, straight, tmp_path):
    """SIGTERM reaches one alone: both stop at the same step. One is killed: the other ends, and says so, in time."""
    out = tmp_path / "run"
    workers = start_two(settings, out)
    wait_for(lambda: states(out), workers[0])
    workers[1].send_signal(signal.SIGTERM)
    steps = {stopped_at(finish(worker)) for worker in workers}
    assert [worker.returncode for worker in workers] == [75, 75] and len(steps) == 1
    workers, before = start_two(settings, out), states(out)
    wait_for(lambda: states(out) - before, workers[0])
    workers[1].kill()
    workers[1].communicate()
    output = finish(workers[0]).splitlines()[-1]
    assert workers[0].returncode == 75
    assert output.startswith("another worker was lost (") and "start all workers again" in output
    workers = start_two(settings, out)
    assert [(finish(worker) and 0) or worker.returncode for worker in workers] == [0, 0]
    assert_same(out, straight, atol=2e-5)


@pytest.mark.slow
def test_a_missing_cluster_is_one_line(settings, tmp_path):
    for text, message in ((None, "TF_CONFIG is not set"), ('{"cluster": {}}', "no cluster with this task in it")):
        variables = {} if text is None else {"TF_CONFIG": text}
        process = start(settings, tmp_path / "run", "--strategy", "multiworker", **variables)
        (line,) = finish(process).splitlines()
        assert process.returncode == 2 and line.startswith("error: ") and message in line


@pytest.mark.slow
def test_a_missing_tpu_is_one_line(settings, tmp_path):
    process = start(settings, tmp_path / "run", "--strategy", "tpu")
    (line,) = finish(process).splitlines()
    assert process.returncode == 2 and line.startswith("error: TPU 'local' cannot be reached")
