"""The folder of a run: one process at a time, damaged leftovers, longer and finished runs, what it shows."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import tensorflow as tf
import yaml
from commands import run_here
from safetensors.numpy import load_file
from skimage.metrics import peak_signal_noise_ratio
from small_runs import FINISHED, TRAIN, crash, experiment, make_start, metrics
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import codi_tf
from codi_tf import config
from codi_tf.cli import evaluate, restore
from codi_tf.cli.train import LOCK, train
from codi_tf.core.errors import UserError
from codi_tf.io.bundle_files import model_at
from codi_tf.io.locks import only_one
from codi_tf.training import monitor
from codi_tf.training.folder import read_metrics, steps_of_result, write_settings
from codi_tf.training.quality import Quality

pytestmark = pytest.mark.usefixtures("eager")


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """The folder of a base, with photos beside it."""
    return make_start(tmp_path_factory.mktemp("start"))


@pytest.fixture(scope="module")
def finished(start, tmp_path_factory):
    """(experiment, folder of its finished run of one step)."""
    out = tmp_path_factory.mktemp("finished") / "run"
    run = experiment(start, **FINISHED)
    tf.config.run_functions_eagerly(True)
    train(run, out)
    return run, out


def test_a_second_run_in_one_folder_is_refused(start, tmp_path):
    """Two went on side by side, and mixed their logs and states."""
    out = tmp_path / "run"
    with (
        only_one(out / LOCK, f"trains in {out}"),
        pytest.raises(UserError, match=r"^process \d+ trains in .*run; wait"),
    ):
        train(experiment(start), out)
    assert not out.exists()


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("config.yaml", b"train: {steps: 1", "config.yaml: the settings of the run cannot be read ("),
        ("config.yaml", b"\xff\xfe", "config.yaml: the settings of the run cannot be read ("),
        ("config.yaml", b"", "config.yaml: the settings of the run cannot be read (it holds no settings)"),
        ("config.yaml", b"method: {name: magic}", "config.yaml: the settings of the run cannot be read (method.name"),
        ("config.yaml", None, "config.yaml: is no file, and a run writes one"),
        ("metrics.jsonl", b'{"step": 1}\n{"st\n{"step": 3}\n', "metrics.jsonl: is damaged ("),
        ("metrics.jsonl", b'{"loss": 1}\n', "metrics.jsonl: is damaged ("),
        ("metrics.jsonl", b"[1]\n", "metrics.jsonl: is damaged ("),
        ("metrics.jsonl", b"\xff\n", "metrics.jsonl: is damaged ("),
        ("metrics.jsonl", None, "metrics.jsonl: is no file"),
        ("checkpoints", b"", "checkpoints: is a file, and a run makes a folder"),
        ("result", b"", "result: is a file"),
        ("logs", b"", "logs: is a file"),
    ],
)
def test_broken_leftovers_are_one_line(start, tmp_path, name, content, said):
    """Each was a trace, and some came after minutes of work. `None` stands for a folder."""
    out = tmp_path / "run"
    out.mkdir()
    (out / name).mkdir() if content is None else (out / name).write_bytes(content)
    with pytest.raises(UserError) as caught:
        train(experiment(start), out)
    assert said in str(caught.value) and str(out) in str(caught.value) and "\n" not in str(caught.value)
    assert [p.name for p in out.iterdir()] == [name]


@pytest.mark.slow
def test_a_line_of_metrics_that_a_crash_cut_off_is_tolerated(start, tmp_path, monkeypatch):
    """It is the last one, and is written again."""
    run, out = experiment(start, train={**TRAIN, "steps": 2}), tmp_path / "run"
    crash(monkeypatch, run, out, 2)
    with open(out / "metrics.jsonl", "r+b") as file:
        file.seek(-20, 2)
        file.truncate()
    train(run, out)
    assert [line["step"] for line in metrics(out)] == [1, 2]


def test_a_run_goes_on_after_a_figure_was_no_number(start, tmp_path, monkeypatch):
    """Catches "metrics.jsonl: is damaged ('NaN' is no finite number)", of a line that the run itself wrote."""
    run, out = experiment(start, **FINISHED), tmp_path / "run"
    out.mkdir()
    (out / "logs").symlink_to(tmp_path / "elsewhere" / "logs")  # which was a trace
    monkeypatch.setattr(Quality, "figures", lambda quality: {"heldout_psnr": np.inf, "heldout_loss": np.nan})
    train(run, out)
    assert [step for step, _ in read_metrics(out)] == [1]
    (line,) = metrics(out)
    assert line["heldout_psnr"] is None and line["heldout_loss"] is None and line["loss"] > 0
    assert any((tmp_path / "elsewhere" / "logs").iterdir())


def test_a_log_of_0_1_0_may_hold_nan(tmp_path):
    """Catches a run that cannot be resumed with today's reader."""
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "condition_use": NaN}\n')
    assert [step for step, _ in read_metrics(tmp_path)] == [1]


@pytest.mark.slow
def test_a_run_can_be_lengthened(start, tmp_path, capsys):
    """`train.steps` may be raised: it ends as a run that had them from the start, where the rate does not depend on it.

    The result is made anew, also if the process had ended between the last state and it.
    """
    short, long = (experiment(start, train={**TRAIN, "steps": n, "decay": "constant"}) for n in (1, 3))
    straight, out = tmp_path / "straight", tmp_path / "run"
    train(long, straight)
    train(short, out)
    assert steps_of_result(out) == 1
    kept = shutil.copytree(out / "result", tmp_path / "kept")
    capsys.readouterr()
    train(long, out)
    assert f"resuming {out} at step 1" in capsys.readouterr().out
    expected, values = (load_file(one / "checkpoints/step-00000003.safetensors") for one in (straight, out))
    for key in expected:
        np.testing.assert_array_equal(values[key], expected[key], err_msg=key)
    assert steps_of_result(out) == 3 and config.load(out / "config.yaml") == long
    shutil.rmtree(out / "result")
    kept.rename(out / "result")
    train(long, out)
    assert steps_of_result(out) == 3
    with pytest.raises(UserError, match="has done 3 updates, and train.steps is 1: set at least 3"):
        train(short, out)


def test_a_run_can_be_ended_early(start, tmp_path):
    """With a lower `train.steps` it ends as a run of that length, where the rate does not depend on it."""
    long, short = (experiment(start, train={**TRAIN, "steps": n, "decay": "constant"}) for n in (3, 2))
    straight, out = tmp_path / "straight", tmp_path / "run"
    train(short, straight)
    one = experiment(start, train={**TRAIN, "steps": 1, "decay": "constant"})
    train(one, out)
    write_settings(long, out)  # as if the run of three had been stopped after one
    train(short, out)
    expected, values = (load_file(one / "checkpoints/step-00000002.safetensors") for one in (straight, out))
    for key in expected:
        np.testing.assert_array_equal(values[key], expected[key], err_msg=key)
    assert steps_of_result(out) == 2


def test_a_result_can_be_made_of_a_state(start, tmp_path, monkeypatch):
    """Of a run that was stopped; the run goes on afterwards, and its own result replaces that one."""
    run, out = experiment(start), tmp_path / "run"
    with pytest.raises(UserError, match="checkpoints: holds no state to make a result of; train first"):
        train(run, out, finish=True)
    assert not out.exists()
    crash(monkeypatch, run, out, 2)
    lines = metrics(out)
    assert train(run, out, finish=True) == out / "result"
    assert steps_of_result(out) == 1 and metrics(out) == lines
    adapter = load_file(out / "result/adapter/diffusion_pytorch_model.safetensors")
    assert any(np.abs(value).max() > 0 for value in adapter.values())
    train(run, out)
    assert steps_of_result(out) == 3


def test_a_run_shows_its_quality_and_settings_in_tensorboard(finished):
    """Of held-out examples there were images alone; all scalars stood in one long list."""
    run, out = finished
    events = EventAccumulator(str(out / "logs"), size_guidance={"tensors": 0}).Reload()
    tags = set(events.Tags()["tensors"])
    assert {"loss/loss", "loss/guidance", "mu/mean", "heldout/loss", "heldout/psnr", "heldout/condition_use"} <= tags
    assert {tag for tag in tags if "/" not in tag} == {"config", "samples"}
    (text,) = events.Tensors("config")
    (text,) = text.tensor_proto.string_val
    settings = "\n".join(line.removeprefix("    ") for line in text.decode().splitlines())
    assert config.from_dict(yaml.safe_load(settings)) == run


def test_quality_is_that_of_the_same_examples_and_draws(finished):
    """Two calls agree, so a difference is the model's; the PSNR is that of its images."""
    run, out = finished
    model = codi_tf.load(out / "result")
    model.compile()
    heldout = monitor.heldout_examples(run, model)
    quality = Quality(model, heldout)
    figures = quality.figures()
    assert figures == quality.figures() and figures["heldout_loss"] > 0
    assert figures["heldout_loss"] == pytest.approx(figures["heldout_consistency"] + figures["heldout_guidance"])
    made = model.generate((heldout["condition"] + 1) / 2, steps=4)
    psnr = [
        peak_signal_noise_ratio((a + 1) / 2, b / 255, data_range=1) for a, b in zip(heldout["image"], made, strict=True)
    ]
    assert figures["heldout_psnr"] == pytest.approx(np.mean(psnr), rel=1e-4)


def test_the_folder_of_a_run_stands_for_its_result(finished, start, tmp_path):
    """`codi restore runs/NAME`: a run was no model."""
    run, out = finished
    assert model_at(out) == out / "result" and model_at(out / "result") == out / "result" and model_at(start) == start
    expected = codi_tf.load(out / "result").student.adapter.mu.numpy()
    np.testing.assert_array_equal(codi_tf.load(out).student.adapter.mu.numpy(), expected)
    bundle = run_here(evaluate.main, out, "--out", out).stderr
    assert f"error: {out}: {out / 'result'} is read from there and would be replaced" in bundle
    (tmp_path / "run/checkpoints").mkdir(parents=True)
    (tmp_path / "run/config.yaml").write_text("")
    done = run_here(restore.main, tmp_path / "run", "--condition", "in.png", "--out", tmp_path / "out.png")
    assert done.returncode == 2 and done.stderr.startswith(f"error: {tmp_path / 'run'}: this run has no result yet; ")
    assert done.stderr.endswith(f"codi train {tmp_path / 'run' / 'config.yaml'} --out {tmp_path / 'run'} --finish\n")
