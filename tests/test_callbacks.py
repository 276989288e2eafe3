"""codi train --callback: Keras' own callbacks and those of a module, on resume and without their packages."""

from __future__ import annotations

import csv
import json
import sys

import keras
import pytest
from commands import run_here
from tiny import tiny_run

from codi_tf import config
from codi_tf.cli import train
from codi_tf.core.errors import Interrupted, UserError
from codi_tf.training.callbacks import Callbacks, check_callback, make_callback
from codi_tf.training.loop import WAITED

MODULE = """
import json, keras

class Calls(keras.callbacks.Callback):
    "Every call, as a line."

    def note(self, *what):
        with open(self.params["folder"] + "/calls.jsonl", "a") as file:
            file.write(json.dumps(what) + "\\n")

    def on_train_begin(self, logs=None):
        assert self.model.method is not None
        self.note("begin", self.params["epochs"], self.params["steps"], self.params["config"]["train"]["steps"])

    def on_epoch_begin(self, epoch, logs=None): self.note("epoch", epoch)
    def on_train_batch_begin(self, batch, logs=None): self.note("batch", batch)
    def on_train_batch_end(self, batch, logs=None): self.note("done", batch, logs)
    def on_epoch_end(self, epoch, logs=None): self.note("line", epoch, logs)
    def on_train_end(self, logs=None): self.note("end")

class Early(Calls):
    def on_train_batch_end(self, batch, logs=None): self.model.stop_training = batch == 0

def table(): return keras.callbacks.CSVLogger("runs.csv", append=True)

nothing = 3
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "my_logs.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    yield "my_logs"
    sys.modules.pop("my_logs", None)


def lines(path) -> list:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.usefixtures("eager")
def test_a_run_that_a_callback_ends_goes_on_with_others(module, tmp_path):
    """Catches `stop_training` that is ignored, hooks that are missing or in another order, and counts from 0 again."""
    run, out = config.from_dict(tiny_run(tmp_path, steps=3, log_every=1)), tmp_path / "run"
    train.train(run, out, callbacks=["my_logs:Early"])
    assert json.loads((out / "result" / "codi.json").read_text())["provenance"]["steps"] == 1
    assert [call[0] for call in lines(out / "calls.jsonl")] == ["begin", "epoch", "batch", "line", "end"]
    (out / "calls.jsonl").unlink()
    train.train(run, out, callbacks=["my_logs:Calls", "my_logs:table"])
    calls = lines(out / "calls.jsonl")
    assert calls[0] == ["begin", 3, 1, 3] and calls[-1] == ["end"]
    assert [call[:2] for call in calls[1:-1]] == [
        *(["epoch", 1], ["batch", 1], ["done", 1], ["line", 1]),
        *(["epoch", 2], ["batch", 2], ["done", 2], ["line", 2]),
    ]
    written = lines(out / "metrics.jsonl")
    assert [line["step"] for line in written] == [1, 2, 3]
    assert [calls[4][2], calls[8][2]] == written[1:]
    assert calls[3][2]["loss"] == pytest.approx(written[1]["loss"])
    with open("runs.csv") as file:
        rows = list(csv.DictReader(file))
    assert [(int(row["epoch"]), float(row["step"])) for row in rows] == [(1, 2), (2, 3)]
    assert float(rows[1]["loss"]) == pytest.approx(written[2]["loss"])


def test_the_logs_of_several_updates_are_their_means():
    """Catches sums in place of means, skipped updates that count, and an epoch that ends without a line."""
    heard = []

    class Heard(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            heard.append((batch, logs))

        def on_epoch_begin(self, epoch, logs=None):
            heard.append(epoch)

    hooks = Callbacks([Heard()], keras.Sequential(), epoch=7, about={})
    for step, sums, line in ((3, {"loss": 6.0, "skipped": 1.0}, {}), (6, {"loss": 0.0, "skipped": 3.0}, {"loss": 1.0})):
        hooks.before(step - 3)
        hooks.after(step, 3, {**sums, WAITED: 2.0}, line)
    hooks.before(6)
    assert heard == [7, (2, {"loss": 3.0, "skipped": 1.0}), (5, {"skipped": 3.0}), 8]


def test_an_interruption_ends_the_callbacks_and_an_error_of_one_is_told():
    """Catches a record that stays open after Ctrl-C, and a lost connection that is taken for a full disk."""
    heard = []

    class Heard(keras.callbacks.Callback):
        def on_train_end(self, logs=None):
            heard.append("end")

        def on_epoch_begin(self, epoch, logs=None):
            raise ConnectionRefusedError(111, "Connection refused")

    hooks = Callbacks([Heard()], keras.Sequential(), epoch=0, about={})
    with pytest.raises(Interrupted), hooks.running():
        raise Interrupted("stopped")
    assert heard == ["end"]
    with pytest.raises(UserError, match=r"--callback: one fails \(Connection refused\)"):
        hooks.before(0)


def test_what_is_no_callback_is_told_before_anything_is_done(module, tmp_path):
    """Catches a mistake that is told after an hour of encoding, or in a traceback."""
    path = tmp_path / "tiny.yaml"
    path.write_text(json.dumps(tiny_run(tmp_path, steps=1)))
    for text, message in (
        ("tensorboard", "use wandb, mlflow or MODULE:CLASS"),
        ("no_such.place:Class", "there is no module no_such.place; put its folder into PYTHONPATH"),
        ("keras.no_such:Class", "there is no module keras.no_such; put"),
        ("my_logs:Missing", "my_logs has no Missing"),
        ("my_logs:nothing", "gives int, and not a keras.callbacks.Callback"),
    ):
        done = run_here(train.main, path, "--out", tmp_path / "run", "--callback", text)
        assert done.returncode == 2 and done.stderr.startswith(f"error: --callback is {text}: "), done.stderr
        assert message in done.stderr and done.stderr.count("\n") == 1 and not (tmp_path / "run").exists()
    assert isinstance(make_callback("keras.callbacks:TerminateOnNaN"), keras.callbacks.TerminateOnNaN)


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_logger_whose_package_is_missing_names_the_remedy(name, monkeypatch):
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setattr(sys, "path_importer_cache", {})
    monkeypatch.delitem(sys.modules, name, raising=False)
    with pytest.raises(UserError, match=f"--callback is {name}: the package {name} is missing: pip install {name}"):
        check_callback(name)
