"""The report of the study, from results in a folder."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from study_results import TASK, put, put_references

from codi_tf.core.errors import UserError
from studies.common.pages import BEGIN, END
from studies.common.results import read_json, write_json
from studies.paper import pieces, report
from studies.paper.pieces import Piece
from studies.paper.plan import BY_NAME

ROOT = Path(__file__).parent.parent


@pytest.fixture
def page(tmp_path, monkeypatch):
    """A page in a folder of the test's own, below which the study's files lie."""
    monkeypatch.chdir(tmp_path)
    report.PAGE.parent.mkdir()
    report.PAGE.write_text(f"above\n{BEGIN}\nan earlier study\n{END}\nbelow\n")
    return report.PAGE


def test_a_report_of_nothing_says_the_rule_and_leaves_every_claim_open(page):
    report.write()
    text = page.read_text()
    assert text.startswith(f"above\n{BEGIN}\n") and text.endswith(f"{END}\nbelow\n")
    assert "an earlier study" not in text and "learning rates 0.001, 0.003" in text
    verdicts = text.count("**open**")
    assert verdicts == 5 * 3 + 5 * 2 + 3 + 2 + 2  # a to d and j for three tasks, the others for two; N, S and B
    assert "reproduced**" not in text and "## Table 2" not in text


def test_a_report_of_results(page):
    """Twice in a row to the same text, with tables, curves, images, trials and verdicts."""
    put_references()
    for name, value in {"codi": 2.0, "ldm": 18.0, "codi_half": 8.0, "codi_random": 18.0, "codi_n2": 9.0}.items():
        put(name, value)
    texts = []
    for _ in range(2):
        report.write()
        texts.append(page.read_text())
    text = texts[0]
    assert texts[0] == texts[1]
    assert "| CoDi | DDIM | 4 | 2.01 [1.99, 2.03] | 0.50 | 0.1000 | 0.50 | 0.500 | 2 to 2.02 |" in text
    assert "| LDM | DDIM, guidance 1.5 | 8 | 18 " in text and "| autoencoder (the ceiling) | - | - | 0.5 |" in text
    assert "| CoDi | 400 | 400 | 1,600 | 7 | 3 |" in text and "| LDM | 400 | 400 | 1,200 | 7 | 3 |" in text
    assert "| CoDi made for 2 | 200 | 9.01 " in text
    assert (
        "**reproduced**: -10 [-10, -10], CoDi, half of the budget (DDIM, 4) - random initialization (DDIM, 4)" in text
    )
    assert "| CoDi | super-resolution of photos | DDIM, 4 | 0.001: 0 | 0.003: 1 | 0.001 |" in text
    folder = report.SHOWN / TASK
    assert "DDIM | 1 |" not in text and "DDIM | 1 |" in (folder / "table.md").read_text()
    for name in ("methods", "tradeoff", "images", "horizons", "fig_7", "ablations"):
        assert f"(images/study/{TASK}/{name}.png)" in text and (folder / f"{name}.png").stat().st_size > 1000
    assert "Table 2: inpainting" not in text and '"Some commit"' in text and "other settings than" not in text


def test_results_of_other_settings_are_named(page):
    put("codi_half", 1.0, seeds=(0,))
    piece = Piece(BY_NAME["codi_half"], TASK, 0)
    about = read_json(piece.figures)
    about["settings"][-1]["rate"] *= 2
    write_json(piece.figures, about)
    report.write()
    assert "other settings than the plan has now: super_resolution/codi_half-seed0." in page.read_text()


def test_a_damaged_file_is_named(page):
    put("codi_half", 1.0, seeds=(0,))
    path = Piece(BY_NAME["codi_half"], TASK, 0).figures
    path.write_text("{")
    with pytest.raises(UserError, match="codi_half-seed0.json: is no JSON; get it back from the repository"):
        report.write()


def test_a_page_without_marks_is_left_alone(page):
    page.write_text("by hand\n")
    with pytest.raises(UserError, match="study.md: has no <!-- study: begin --> before <!-- study: end -->"):
        report.write()
    assert page.read_text() == "by hand\n" and not report.SHOWN.exists()


def test_the_page_of_the_repository_is_that_of_its_results(page):
    """Catches results, a plan or claims that changed without the report."""
    expected = (ROOT / report.PAGE).read_text("utf-8")
    page.write_text(expected, "utf-8")
    shutil.copytree(ROOT / pieces.RESULTS, pieces.RESULTS)
    report.write()
    assert page.read_text("utf-8") == expected
