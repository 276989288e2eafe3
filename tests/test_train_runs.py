"""Runs of codi train: a resumed run ends as if it had never stopped; what a run leaves; what is refused."""

from __future__ import annotations

import json
import signal

import numpy as np
import pytest
import tensorflow as tf
from conftest import SCHEDULER, VAE
from safetensors.numpy import load_file
from small_runs import FINISHED, TRAIN, crash, experiment, make_start, metrics
from tiny import UNET

import codi_tf
from codi_tf import config
from codi_tf.checkpoints.stable_diffusion import load_stable_diffusion
from codi_tf.cli.train import train
from codi_tf.core.errors import Interrupted, UserError
from codi_tf.training import monitor
from codi_tf.training.experiment import build_dataset, build_trainer
from codi_tf.training.folder import steps_of_result

pytestmark = pytest.mark.usefixtures("eager")


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """The folder of a base, with photos beside it."""
    return make_start(tmp_path_factory.mktemp("start"))


# Runs

THREE_LEVELS = {
    **UNET,
    "block_out_channels": [8] * 3,
    "down_block_types": ["DownBlock2D"] * 3,
    "up_block_types": ["UpBlock2D"] * 3,
}


def pretraining(network, **scheduler) -> dict:
    """Changes that make an experiment one of pre-training; a value of ... removes a key of the scheduler."""
    scheduler = {key: value for key, value in {**SCHEDULER, **scheduler}.items() if value is not ...}
    return {"method": {"name": "pretrain", "network": network, "scheduler": scheduler}, "task": None}


def interrupted_at(step: int, number: signal.Signals) -> type[monitor.Monitor]:
    """A monitor during whose `step` a signal comes."""

    class Interrupting(monitor.Monitor):
        def step(self, current, count, sums):
            super().step(current, count, sums)
            if current == step:
                signal.raise_signal(number)

    return Interrupting


@pytest.mark.parametrize(("encode_once", "trained"), [(0, "all"), (8, "adapter")])
def test_a_resumed_run_ends_as_an_uninterrupted_one(start, tmp_path, monkeypatch, capsys, encode_once, trained):
    run = experiment(start, data__encode_once=encode_once, adaptation={"train": trained})
    straight, resumed = tmp_path / "straight", tmp_path / "resumed"
    assert train(run, straight) == straight / "result"
    crash(monkeypatch, run, resumed, 2)
    assert not (resumed / "result").exists()
    assert [p.name for p in (resumed / "checkpoints").iterdir()] == ["step-00000001.safetensors"]
    capsys.readouterr()
    train(run, resumed)
    assert f"resuming {resumed} at step 1" in capsys.readouterr().out

    last = "checkpoints/step-00000003.safetensors"
    expected, values = load_file(straight / last), load_file(resumed / last)
    assert values.keys() == expected.keys() and len(values) > 100
    for key in expected:
        np.testing.assert_array_equal(values[key], expected[key], err_msg=key)
    weights = "result/adapter/diffusion_pytorch_model.safetensors"
    assert (resumed / weights).read_bytes() == (straight / weights).read_bytes()
    assert [line["step"] for line in metrics(straight)] == [1, 2, 3]
    assert metrics(resumed) == metrics(straight)


@pytest.mark.parametrize(
    ("number", "name", "status"),
    [
        (signal.SIGINT, "Ctrl-C", 130),
        pytest.param(signal.SIGHUP, "SIGHUP", 75, marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, "SIGTERM", 75, marks=pytest.mark.slow),
    ],
)
def test_a_signal_ends_a_run_with_the_call_that_it_falls_into(start, tmp_path, monkeypatch, number, name, status):
    """Not with the one after it: a call may be fifty steps. Ctrl-C and SIGHUP lost everything since `save_every`."""
    run = experiment(start, train={**TRAIN, "steps": 5, "steps_per_call": 2, "log_every": 2, "save_every": 0})
    monkeypatch.setattr(monitor, "Monitor", interrupted_at(2, number))
    before = signal.signal(number, signal.default_int_handler)  # a process in the background may ignore it
    try:
        with pytest.raises(Interrupted, match=f"stopped at step 2 by {name}, its state is saved: the same") as caught:
            train(run, tmp_path / "run")
    finally:
        signal.signal(number, before)
    assert caught.value.status == status
    assert [p.name for p in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-00000002.safetensors"]


@pytest.fixture(scope="module")
def finished(start, tmp_path_factory):
    """(experiment, folder of its finished run of one step)."""
    out = tmp_path_factory.mktemp("finished") / "run"
    run = experiment(start, **FINISHED)
    tf.config.run_functions_eagerly(True)
    train(run, out)
    return run, out


def test_what_a_run_leaves(finished, start):
    run, out = finished
    assert sorted(p.name for p in out.iterdir()) == [
        "checkpoints",
        "config.yaml",
        "logs",
        "metrics.jsonl",
        "result",
        "samples",
    ]
    assert config.load(out / "config.yaml") == run
    assert codi_tf.read_image(out / "samples/step-00000001.png").ndim == 3
    assert list((out / "logs").glob("events.out.tfevents.*"))
    (line,) = metrics(out)
    names = {"step", "loss", "consistency", "guidance", "gradient_norm", "learning_rate", "condition_use", "mu_mean"}
    names |= {"skipped", "heldout_loss", "heldout_consistency", "heldout_guidance", "heldout_psnr"}
    assert line.keys() == names
    model = codi_tf.load(out / "result")
    assert model.settings == run.method and model.task.scale == 2 and model.image_size == 16
    assert np.abs(model.student.adapter.mu.numpy()).max() > 0
    about = json.loads((out / "result/codi.json").read_text())["provenance"]
    assert about == {"steps": 1, "config": json.loads(json.dumps(run.as_dict()))}


def test_a_finished_run_says_so(finished, capsys):
    run, out = finished
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    assert train(run, out) == out / "result"
    assert f"all 1 steps are done; the result is {out / 'result'}" in capsys.readouterr().out
    assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"train__learning_rate": 5e-4}, "train.learning_rate = 0.001, now it is 0.0005"),
        ({"train__batch_size": 4}, "train.batch_size = 2, now it is 4"),
        ({"method__t": "per_sample"}, "method.t = 'shared', now it is 'per_sample'"),
        ({"task__jpeg_quality": [5, 9]}, r"task.jpeg_quality = None, now it is \[5, 9\]"),
        ({"task": {"name": "super_resolution"}}, "task.scale = 2, now it is None"),
    ],
)
def test_other_settings_are_refused_by_name(finished, start, changes, said):
    _, out = finished
    first = {section: dict(values) for section, values in FINISHED.items()}
    before = (out / "config.yaml").read_bytes()
    with pytest.raises(UserError, match=said) as caught:
        train(experiment(start, **{**first, **changes}), out)
    line = str(caught.value)
    assert str(out) in line and "choose another --out" in line and "\n" not in line
    assert (out / "config.yaml").read_bytes() == before


def test_pretraining_ends_in_a_base(start, tmp_path):
    run = experiment(start, **pretraining(UNET), train={**TRAIN, "steps": 1})
    base = load_stable_diffusion(train(run, tmp_path / "run"))
    assert steps_of_result(tmp_path / "run") == 1
    assert base.prediction_type == "v_prediction"
    assert base.vae.scaling_factor == 1.5
    assert np.abs(base.unet.conv_out.kernel.numpy()).max() > 0  # where it starts
    original = load_stable_diffusion(start)
    for expected, variable in zip(original.vae.variables, base.vae.variables, strict=True):
        np.testing.assert_array_equal(variable.numpy(), expected.numpy())


def test_an_autoencoder_ends_with_the_scale_of_its_latents(start, tmp_path):
    method = {"name": "autoencoder", "network": VAE}
    run = experiment(start, method=method, task=None, base=None, train={**TRAIN, "steps": 1})
    base = load_stable_diffusion(train(run, tmp_path / "run"))
    assert base.unet is None
    images = np.random.default_rng(0).uniform(-1, 1, (2, 8, 8, 3)).astype("float32")
    assert base.encode(images).shape == (2, 2, 2, 4)
    batch = next(iter(build_dataset(run, build_trainer(run), 0)))
    assert float(tf.math.reduce_std(base.encode(batch["image"]))) == pytest.approx(1.0, rel=1e-3)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"base": "no/such/base"}, "no/such/base: no such model folder"),
        ({"task": {"scale": 2}}, "task.name is not set"),
        ({"task": {"name": "colorise"}}, "unknown task 'colorise'"),
        ({"task": {"name": ["super_resolution"]}}, "unknown task"),
        ({"task": {"name": "super_resolution", "scales": 2}}, "unknown option 'scales'"),
        ({"task": {"name": "super_resolution", "scale": 3}}, "needs sides that scale 3 divides"),
        ({"data__encode_once": 1}, "data.encode_once is 1: it must be at least train.batch_size"),
        ({"data__source": "no/such/photos"}, "nothing is at no/such/photos"),
        (pretraining({"bogus": 1}), "not a configuration of UNet"),
        (pretraining(UNET, beta_schedule=...), "beta_schedule"),
        (pretraining(UNET, beta_end="x"), "beta_end"),
        (pretraining(UNET, prediction_type="x"), "prediction_type is 'x'"),
        ({**pretraining(THREE_LEVELS), "data__image_size": 24}, "data.image_size is 24"),
    ],
)
def test_a_run_that_cannot_start_leaves_nothing(start, tmp_path, monkeypatch, changes, said):
    monkeypatch.chdir(tmp_path)
    tf.config.run_functions_eagerly(False)
    with pytest.raises(UserError) as caught:
        train(experiment(start, **changes), tmp_path / "run")
    assert said in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_run_in_a_file_is_refused(start, tmp_path):
    (tmp_path / "run").write_text("precious")
    with pytest.raises(UserError, match="run"):
        train(experiment(start), tmp_path / "run")
    assert (tmp_path / "run").read_text() == "precious"
