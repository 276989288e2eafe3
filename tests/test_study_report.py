"""The study: what is left to be trained, and the report of its results."""

from __future__ import annotations

import argparse
import json

import pytest
import study_results
from study_results import put

from codi_tf.core.errors import UserError
from studies.paper import __main__ as study
from studies.paper import pieces, report
from studies.paper.claims import OPEN, REPRODUCED
from studies.paper.measures import FD
from studies.paper.plan import BY_NAME, SEEDS, TASKS, TRIALS
from studies.paper.references import make_references
from studies.paper.tuning import of_trial

# --- results in a folder


evaluator, folder = study_results.evaluator, study_results.folder


@pytest.fixture
def shown(tmp_path):
    """Where tables and images go that the page links."""
    return tmp_path / "docs" / "images" / "study"


@pytest.fixture
def page(tmp_path):
    path = tmp_path / "docs" / "results.md"
    path.parent.mkdir()
    path.write_text(f"above\n{report.BEGIN}\nan earlier study\n{report.END}\nbelow\n")
    return path


def put_trial(folder, trial, figure: float):
    row = of_trial(trial)
    path = pieces.metrics_of(row, TASKS[0], 0, folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    figures = {FD: figure, f"{FD}_interval": [figure - 1, figure + 1], "sharpness": 0.3, "latent_error": 0.1}
    samples = {pieces.sample_name(*way): figures for way in row.samples}
    stages = pieces.chain_of(row, TASKS[0], 0)
    path.write_text(json.dumps({"commit": "Some commit", "cpu_seconds": 7, "stages": stages, "samples": samples}))


# --- what is to be trained


@pytest.fixture
def workplace(folder, tmp_path, monkeypatch):
    """Results and trained rows in folders of the test's own: the study's lie below the working folder."""
    monkeypatch.chdir(tmp_path)
    return folder


def left(*rows: str) -> dict[tuple[str, str], tuple[int, ...]]:
    options = argparse.Namespace(tasks=TASKS[:1], rows=rows, seeds=SEEDS)
    return {(row.name, task): seeds for row, task, seeds in study._left(options)}


def put_trained(name: str, seed: int):
    path = pieces.result_of(BY_NAME[name], TASKS[0], seed)
    path.mkdir(parents=True)
    (path / pieces.STAGES).write_text(json.dumps(pieces.chain_of(BY_NAME[name], TASKS[0], seed)))


def test_what_was_measured_elsewhere_is_not_trained_again_unless_a_row_goes_on_from_it(workplace, evaluator):
    task = TASKS[0]
    assert left("cm_2") == {("ldm_half", task): SEEDS, ("cm_2", task): SEEDS}
    put(workplace, "ldm_half", 1.0, evaluator)
    assert left("ldm_half") == {}
    put(workplace, "cm_2", 1.0, evaluator, seeds=(0, 2))
    put_trained("ldm_half", 2)
    assert left("ldm_half", "cm_2") == {("ldm_half", task): (1,), ("cm_2", task): (1,)}
    put_trained("ldm_half", 1)
    assert left("ldm_half", "cm_2") == {("cm_2", task): (1,)}


def test_a_setting_that_is_new_since_does_not_count(workplace, evaluator):
    put(workplace, "codi", 1.0, evaluator)
    path = pieces.metrics_of(BY_NAME["codi"], TASKS[0], 1)
    about = json.loads(path.read_text())
    del about["stages"][-1]["train"]["steps_per_call"], about["stages"][-1]["distribution"]
    path.write_text(json.dumps(about))
    assert left("codi") == {}
    about["stages"][-1]["train"]["learning_rate"] *= 2
    path.write_text(json.dumps(about))
    assert left("codi") == {("codi", TASKS[0]): (1,)}


def test_what_was_measured_without_replicates_is_measured_again(workplace, evaluator):
    put(workplace, "codi", 1.0, evaluator)
    path = pieces.metrics_of(BY_NAME["codi"], TASKS[0], 1)
    about = json.loads(path.read_text())
    about["samples"]["ddim-2"].pop("replicates")
    path.write_text(json.dumps(about))
    assert left("codi") == {("codi", TASKS[0]): (1,)}


# --- the report


def no_evaluator(task, split):
    raise AssertionError("references are there")


def test_a_report_of_nothing(folder, page, shown):
    report.write(folder, page, shown, evaluator=no_evaluator)
    text = page.read_text()
    assert text.startswith(f"above\n{report.BEGIN}\n") and text.endswith(f"{report.END}\nbelow\n")
    assert (
        "an earlier study" not in text and text.count("**open**") == 15
    )  # a to d and j for two tasks, the others for one
    stored = json.loads((folder / "claims.json").read_text())
    assert list(stored) == list("abcdefghij") and {one["verdict"] for one in stored.values()} == {OPEN}


def test_a_report_of_trials(folder, page, shown):
    """The best of a method is marked, and the setting that the plan uses."""
    names = ("rate_0.001", "rate_0.002", "delta_60")  # the last is what the plan took
    trials = [trial for trial in TRIALS if trial.row == "codi" and trial.name in names]
    for trial, figure in zip(trials, (30.0, 20.0, 25.0), strict=True):
        put_trial(folder, trial, figure)
    report.write(folder, page, shown, evaluator=no_evaluator)
    lines = [line for line in page.read_text().splitlines() if line.startswith("| CoDi | rate")]
    assert len(lines) == 3
    assert ["**best**" in line for line in lines] == [False, True, False]
    assert "| 20 [19, 21] | 0.30 |" in lines[1]
    assert [" used" in line for line in lines] == [False, False, True]


def test_a_report_of_results(folder, page, shown, evaluator):
    """Twice in a row, with references that are made once, tables, curves, images and verdicts."""
    put(folder, "codi", 1.0, evaluator)
    put(folder, "codi_half", 2.0, evaluator)
    put(folder, "codi_random", 3.0, evaluator)
    put(folder, "ldm", 3.0, evaluator, seeds=(0, 1))
    asked = []

    def make_evaluator(task, split):
        asked.append((task, split))
        return evaluator

    for _ in range(2):
        report.write(folder, page, shown, evaluator=make_evaluator)
    assert asked == [(TASKS[0], "test")]
    text = page.read_text()
    assert "| CoDi | DDIM | 4 | 2 | 0.50 | 0.1000 | 20.00 | 0.500 | 2 to 2 |" in text
    assert "| LDM | DDIM, guidance 1.5 | 8 | 18 |" in text and "| autoencoder (the ceiling) | - | - | 0 |" in text
    assert "| CoDi | 1,000 | 1,000 | 2.0 | 48,000 | 7 | 3 |" in text
    assert "| CoDi, 4 evaluations | 8 | 2 |" in text  # 500 and 1,000 updates
    assert (
        "**reproduced**: -10 [-10, -10], CoDi, half of the budget (DDIM, 4) - random initialization (DDIM, 4)" in text
    )
    assert "DDIM | 1 |" not in text and "DDIM | 1 |" in (shown / TASKS[0] / "table.md").read_text()
    for name in ("methods", "tradeoff", "images", "budgets", "fig_7", "ablations"):
        assert f"(images/study/{TASKS[0]}/{name}.png)" in text
        assert (shown / TASKS[0] / f"{name}.png").stat().st_size > 1000
    assert "Inpainting" not in text and '"Some commit"' in text and "other settings" not in text
    verdicts = {letter: one["verdict"] for letter, one in json.loads((folder / "claims.json").read_text()).items()}
    assert verdicts["h"] == REPRODUCED and verdicts["a"] == OPEN and verdicts["b"] == OPEN


def test_results_of_other_settings_are_named(folder, page, shown, evaluator):
    put(folder, "codi_half", 1.0, evaluator, seeds=(0,))
    path = pieces.metrics_of(BY_NAME["codi_half"], TASKS[0], 0, folder)
    about = json.loads(path.read_text())
    about["stages"][-1]["train"]["learning_rate"] *= 2
    path.write_text(json.dumps(about))
    make_references(folder, TASKS[0], evaluator)
    report.write(folder, page, shown, evaluator=no_evaluator)
    assert "other settings than the plan has now: super_resolution/codi_half, seed 0." in page.read_text()


def test_a_page_without_marks_is_left_alone(folder, page, shown):
    page.write_text("by hand\n")
    with pytest.raises(UserError, match="results.md: has no <!-- study: begin --> before <!-- study: end -->"):
        report.write(folder, page, shown, evaluator=no_evaluator)
    assert page.read_text() == "by hand\n" and not folder.exists()


def test_the_page_of_the_repository_has_its_marks():
    before, after = report._around(report.PAGE)
    assert before.startswith("# Results") and after
