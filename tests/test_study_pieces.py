"""The pieces of the study: what is left to be made, and one made from its training to its figures."""

from __future__ import annotations

import contextlib
import dataclasses
import json

import numpy as np
import pytest
from commands import run_here
from study_results import TASK, put, put_trained, tune
from tiny import tiny_base, tiny_photos

from codi_tf.checkpoints.folder import save_base
from codi_tf.cli import train as cli
from codi_tf.core.errors import Interrupted
from codi_tf.core.signals import Stop
from codi_tf.evaluation import METRICS
from codi_tf.evaluation.metrics.frechet_photos import FrechetPhotos
from studies.common import training
from studies.common.pieces import claimed
from studies.common.results import read_json, write_json
from studies.paper import __main__ as study
from studies.paper import making, pieces
from studies.paper.pieces import Piece
from studies.paper.plan import BY_NAME, PHOTOS, SEEDS, TASKS, WORLDS
from studies.paper.results import read, strip_of


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """The study's files lie below the working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def left(*rows: str, seeds=SEEDS) -> list[str]:
    return [piece.name for piece in pieces.left(pieces.pieces_of([TASK], [BY_NAME[row] for row in rows], seeds))]


def with_seeds(row: str) -> list[str]:
    return [f"{row}-seed{seed}" for seed in SEEDS]


def test_trials_come_before_what_they_choose_and_parents_before_what_starts_from_them(workplace):
    """A trial starts from the parent of seed 0, which has trials of its own."""
    expected = [*(f"ldm-rate{rate:g}" for rate in PHOTOS.rates), "ldm_half-seed0"]
    assert left("cm_2", seeds=(0,)) == [*expected, *(f"cm_2-rate{rate:g}" for rate in PHOTOS.rates), "cm_2-seed0"]


def test_what_was_measured_elsewhere_is_not_trained_again_unless_a_row_goes_on_from_it(workplace):
    put("ldm_half", 1.0)
    assert left("ldm_half") == []
    put("cm_2", 1.0, seeds=(0, 2))
    assert left("ldm_half", "cm_2") == ["ldm_half-seed1", "cm_2-seed1"]
    put_trained(Piece(BY_NAME["ldm_half"], TASK, 1))
    assert left("ldm_half", "cm_2") == ["cm_2-seed1"]


def test_seeds_of_a_row_follow_one_another(workplace):
    """They share what is compiled; a parent's seeds, too, although it is in the plan for its children alone."""
    tune("gd_2")
    expected = [name for row in ("ldm_half", "guided_1", "gd_2") for name in with_seeds(row)]
    assert left("gd_2") == expected


def test_the_rate_is_that_of_the_best_trial(workplace):
    """Also in the world's other task; without trials it is not known, and of all that diverged it is the middle one."""
    own, other = Piece(BY_NAME["codi"], TASK, 0), Piece(BY_NAME["codi_half"], "inpainting", 1)
    assert pieces.rate_of(own) is None and pieces.settings_of(own) is None
    tune("codi", best=1)
    assert pieces.rate_of(own) == pieces.rate_of(other) == PHOTOS.rates[1]
    for trial in pieces.trials_of(own.row, TASK):
        about = read_json(trial.figures)
        write_json(trial.figures, {**about, "samples": {"ddim-4": None}})
    assert pieces.rate_of(own) == PHOTOS.rates[0]


def test_other_settings_are_made_again(workplace, monkeypatch):
    """A row that the plan changes, another rate that the trials choose, a sample that is new."""
    put("codi", 1.0)
    assert left("codi") == []
    tune("codi", best=1)
    assert left("codi") == with_seeds("codi")
    tune("codi", best=0)
    monkeypatch.setitem(BY_NAME, "codi", dataclasses.replace(BY_NAME["codi"], train={"ema_decay": 0.9}))
    assert left("codi") == with_seeds("codi")
    monkeypatch.setitem(BY_NAME, "codi", dataclasses.replace(BY_NAME["codi"], train={}, samples=(("ddim", 3, None),)))
    assert left("codi") == with_seeds("codi")


def test_a_file_that_was_cut_off_is_none(workplace):
    """Catches a trace at the next start, after the process was killed while it wrote."""
    piece = Piece(BY_NAME["codi"], TASK, 0)
    for path in (piece.figures, piece.state):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('{"settings": [')
    assert not pieces.is_trained(piece) and not pieces.is_measured(piece)


def test_lists_of_numbers_are_lines_of_json(workplace):
    about = {"a": [1.5, -2e-05, 3], "b": {"c": [["ddim", 4, None]], "d": "[1,\n2]"}}
    write_json(workplace / "a.json", about)
    text = (workplace / "a.json").read_text()
    assert json.loads(text) == about and ' "a": [ 1.5, -2e-05, 3 ],\n' in text


def test_one_process_works_on_a_piece(workplace):
    piece = Piece(BY_NAME["codi"], TASK, 0)
    with claimed(piece) as mine, claimed(piece) as other:
        assert mine and not other
    with claimed(piece) as mine, claimed(Piece(BY_NAME["codi"], TASK, 1)) as next_seed:
        assert mine and not next_seed


def test_the_plan_of_one_row_is_printed(workplace):
    """Three seeds of 400 updates with four passes, and their trials."""
    done = run_here(study._main, "plan", "--tasks", TASK, "--rows", "codi")
    assert done.returncode == 0 and done.stderr == ""
    assert [line.split()[:5] for line in done.stdout.splitlines()[1:3]] == [
        [TASK, "codi,", "trials", "100", "4"],
        [TASK, "codi", "400", "4", "3"],
    ]
    assert "core-hours: " in done.stdout


@pytest.mark.parametrize(("option", "known"), [("--rows", "ldm_half"), ("--tasks", "depth")])
def test_an_unknown_name_is_one_line(option, known):
    done = run_here(study._main, "plan", option, "nothing")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert f"{option} has nothing: use names of" in done.stderr and known in done.stderr


# --- on tiny networks

ROW = "codi"
GROUPED = 32  # images of the test: two a group


@pytest.fixture
def tiny_world(workplace, monkeypatch):
    """The world of photos, with tiny networks, photos and budgets."""
    (workplace / "base").mkdir()
    save_base(tiny_base(), workplace / "base")
    world = dataclasses.replace(
        PHOTOS,
        base="base",
        data={"source": str(tiny_photos(workplace / "photos")), "image_size": 16},
        updates=4,
        batch=2,
        examples=32,
        rates=(1e-3,),
        measures=("frechet_photos", "sharpness", "latent_error"),
        weights={"features": "features"},
        count=GROUPED,
        chosen_on=GROUPED // 2,
        shown=2,
    )
    monkeypatch.setitem(TASKS, TASK, world)
    monkeypatch.setitem(WORLDS, "photos", world)
    features = FrechetPhotos(lambda images: images[:, 0, :2, 0])
    monkeypatch.setattr(METRICS["frechet_photos"], "load", classmethod(lambda *_: features))
    monkeypatch.setattr(making, "commit", lambda: "Some commit")
    making.evaluator.cache_clear()
    yield world
    making.evaluator.cache_clear()
    training.forget()


def content(piece: Piece) -> dict:
    """The file of a piece, but for the time."""
    assert pieces.is_measured(piece)
    return {name: value for name, value in read_json(piece.figures).items() if name != "cpu_seconds"}


@pytest.mark.slow
def test_a_row_is_made_from_its_trials_to_its_figures(tiny_world):
    """Two stages, two seeds, by the command; what is read back is what was measured, and nothing is left."""
    arguments = ("train", "--tasks", TASK, "--rows", "cm_2", "--seeds", "0,1")
    done = run_here(study._main, *arguments)
    assert done.returncode == 0, done.stderr
    assert left("cm_2", seeds=(0, 1)) == [] and "done" in done.stdout
    results = read(seeds=(0, 1))
    assert results.stale == [] and set(results.references[TASK]) == {"condition", "autoencoder", "original", "other"}
    first, second = (content(Piece(BY_NAME["cm_2"], TASK, seed))["samples"] for seed in (0, 1))
    assert first != second
    for sample in first.values():
        assert set(sample) == {*tiny_world.measures, "saturation"}
        assert all(np.isfinite([whole, *parts]).all() and len(parts) == 16 for whole, parts in sample.values())
    trial = pieces.trials_of(BY_NAME["cm_2"], TASK)[0]
    assert set(content(trial)["samples"]) == {"consistency-4"} and not trial.run.exists()
    assert strip_of(TASK, "cm_2", "consistency-4").is_file() and strip_of(TASK, "original").is_file()
    trained = (Piece(BY_NAME[row], TASK, seed) for row in ("cm_2", "ldm_half") for seed in (0, 1))
    assert {piece.name for piece in trained if piece.result.is_dir()} == {
        "cm_2-seed0",
        "ldm_half-seed0",
        "ldm_half-seed1",
    }


@pytest.mark.slow
def test_a_seed_that_shares_what_is_compiled_is_trained_as_it_would_be_alone(tiny_world):
    """Catches draws, examples, weights or frozen networks of the seed before: its parent, too, is another one."""
    tune("cm_2")
    for piece in pieces.left(pieces.pieces_of([TASK], [BY_NAME["cm_2"]], (0, 1))):
        making.make(piece)
    second = Piece(BY_NAME["cm_2"], TASK, 1)
    expected = content(second)
    second.figures.unlink()
    training.forget()
    making.make(second)
    assert content(second) == expected


@pytest.mark.slow
def test_a_piece_that_was_interrupted_goes_on(tiny_world, monkeypatch):
    """One that serves all seeds: its figures are as if nothing had happened, and its time counts both parts."""
    tune(ROW)
    piece = Piece(dataclasses.replace(BY_NAME[ROW], once=True), TASK, 0)
    making.make(piece)
    expected = content(piece)
    piece.figures.unlink()
    making.shutil.rmtree(piece.run)

    @contextlib.contextmanager
    def signalled(what_follows):
        stop = Stop()
        stop.name = "SIGTERM"
        yield stop

    with monkeypatch.context() as patch, pytest.raises(Interrupted, match="stopped at step 1 by SIGTERM"):
        patch.setattr(cli, "stop_noted", signalled)
        making.make(piece)
    begun = read_json(piece.state)
    assert not begun["trained"] and not pieces.is_trained(piece)
    making.make(piece)
    assert content(piece) == expected and read_json(piece.state)["cpu_seconds"] > begun["cpu_seconds"] > 0
