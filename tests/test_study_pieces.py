"""A piece of the study: its seeds share a graph and an optimizer, and know nothing of each other."""

from __future__ import annotations

import contextlib
import json
import shutil

import numpy as np
import pytest
from conftest import make_model
from tiny import randomize, tiny_base

import codi_tf
from codi_tf.checkpoints.folder import save_base
from codi_tf.core.errors import Interrupted
from codi_tf.core.signals import Stop
from codi_tf.evaluation.loading import metrics_with
from codi_tf.evaluation.measuring import Evaluator
from studies.paper import pieces
from studies.paper.plan import Row

TASK, SEEDS = "super_resolution", (0, 1)
PARENT = Row("tuned", "tuned", {"name": "finetune"}, adaptation={"train": "adapter"})
ROW = Row(
    "distilled",
    "distilled",
    {"name": "consistency", "delta": 50},
    updates=2,
    parent="tuned",
    adaptation={"train": "adapter"},
    train={"warmup_steps": 0, "ema_decay": 0.5},
    samples=(("ddim", 1, None),),
)


@pytest.fixture
def tiny_study(tmp_path, monkeypatch):
    """A row on tiny networks, in a folder of the test's own; each seed goes on from a parent of its own."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    (tmp_path / "base").mkdir()
    save_base(tiny_base(), tmp_path / "base")
    base = codi_tf.load_stable_diffusion(tmp_path / "base")
    model = make_model(base, train="adapter", method=codi_tf.Finetune())
    for seed in SEEDS:
        randomize(model.student.adapter.variables, seed)
        path = pieces.result_of(PARENT, TASK, seed)
        path.parent.mkdir(parents=True, exist_ok=True)
        model.save(path)
    examples = {name: random.normal(size=(6, 4, 4, 4)).astype("float32") for name in ("latent", "condition_latent")}
    np.savez(pieces.RUNS / f"latents-{TASK}-latent.npz", **examples)
    images, conditions = random.uniform(-1, 1, (2, 4, 16, 16, 3)).astype("float32")
    evaluator = Evaluator(images, conditions, base, metrics_with(lambda images: images[:, 0, :2, 0]))
    monkeypatch.setattr(pieces, "BATCH", 2)
    monkeypatch.setattr(pieces, "BY_NAME", {row.name: row for row in (PARENT, ROW)})
    monkeypatch.setattr(pieces, "evaluator", lambda task, split: evaluator)
    monkeypatch.setattr(pieces, "_commit", lambda: "Some commit")


def result(seed: int) -> dict:
    """All that there is of a seed: its files, and its figures but for the time."""
    assert pieces.is_trained(ROW, TASK, seed) and pieces.is_measured(ROW, TASK, seed)
    folder = pieces.result_of(ROW, TASK, seed)
    files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    about = json.loads(pieces.metrics_of(ROW, TASK, seed).read_text("utf-8"))
    return files | {name: value for name, value in about.items() if name != "cpu_seconds"}


def test_a_seed_after_another_is_what_it_is_alone(tiny_study):
    pieces.make(ROW, TASK, SEEDS)
    first, second = map(result, SEEDS)
    assert first["loss"] != second["loss"] and first["samples"] != second["samples"]
    pieces.metrics_of(ROW, TASK, 1).unlink()
    pieces.make(ROW, TASK, SEEDS[1:])
    assert result(1) == second


def test_a_file_of_a_row_that_was_cut_off_is_none(tmp_path, monkeypatch):
    """Catches a trace at the next start, after the process was killed while it wrote."""
    monkeypatch.chdir(tmp_path)
    for path in (pieces.metrics_of(ROW, TASK, 0), pieces.result_of(ROW, TASK, 0) / pieces.STAGES):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('{"stages": [')
    assert not pieces.is_trained(ROW, TASK, 0) and not pieces.is_measured(ROW, TASK, 0)


@pytest.mark.slow
def test_a_row_that_was_interrupted_goes_on(tiny_study, monkeypatch):
    """Ctrl-C lost the row. Its figures and weights are those of a row that nothing happened to."""
    pieces.make(ROW, TASK, SEEDS[:1])
    expected = result(0)
    pieces.metrics_of(ROW, TASK, 0).unlink()
    shutil.rmtree(pieces.result_of(ROW, TASK, 0))

    @contextlib.contextmanager
    def signalled(what_follows):
        stop = Stop()
        stop.name = "SIGTERM"
        yield stop

    with monkeypatch.context() as patch, pytest.raises(Interrupted, match="by SIGTERM at update 1 of distilled of"):
        patch.setattr(pieces, "stop_noted", signalled)
        pieces.make(ROW, TASK, SEEDS[:1])
    assert pieces.state_of(ROW, TASK, 0).is_dir() and not pieces.is_trained(ROW, TASK, 0)
    pieces.make(ROW, TASK, SEEDS[:1])
    assert result(0) == expected and not pieces.state_of(ROW, TASK, 0).exists()


def test_one_process_works_on_a_row(tiny_study):
    with pieces.claimed(ROW, TASK) as mine, pieces.claimed(ROW, TASK) as other:
        assert mine and not other
    with pieces.claimed(ROW, TASK) as mine:
        assert mine
