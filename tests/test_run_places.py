"""Runs and encoded examples go on from another working directory: what counts is where their paths lead."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import yaml
from tiny import tiny_run

from codi_tf import config
from codi_tf.cli import cache_shards
from codi_tf.core.errors import UserError
from codi_tf.data.cached import read_meta
from codi_tf.training.folder import check_same_settings, earlier_settings, write_settings

OUT = "runs/a"


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project with a base, images and a config that names them, in which a run was started; another beside it."""
    for folder in (tmp_path / "project", tmp_path / "other"):
        (folder / "configs").mkdir(parents=True)
        values = tiny_run(folder, steps=1) | {"base": "models/base"}
        values["data"] |= {"source": "../photos"}
        (folder / "models/base").mkdir(parents=True)  # a base there is read by no test
        (folder / "configs/c.yaml").write_text(yaml.safe_dump(values))
    monkeypatch.chdir(tmp_path / "project")
    write_settings(config.load("configs/c.yaml"), Path(OUT))
    return tmp_path / "project"


def resume(out: Path, path: str | Path, *overrides: str) -> None:
    check_same_settings(earlier_settings(out), config.load(path, overrides), out)


@pytest.mark.parametrize("place", ["project", ".", "project/runs/a", "elsewhere"])
def test_a_run_goes_on_from_another_working_directory(project, monkeypatch, place):
    """Catches "was started with base = 'models/base', now it is '/home/me/models/base'"."""
    (project.parent / "elsewhere").mkdir()
    monkeypatch.chdir(project.parent / place)
    for path in (project / "configs/c.yaml", os.path.relpath(project / "configs/c.yaml")):
        resume(project / OUT, path)
        resume(project / OUT, path, f"base={project / 'models/base'}")
    found = config.load(project / OUT / "config.yaml")  # it is a config itself
    assert Path(found.base or "").samefile(project / "models/base")
    assert Path(found.data.source).samefile(project / "photos")  # and not the data set of that name


@pytest.mark.parametrize("place", ["project", "elsewhere", "other"])
def test_another_base_is_refused(project, monkeypatch, place):
    """Catches a comparison of the last folders' names alone."""
    (project.parent / "elsewhere").mkdir()
    monkeypatch.chdir(project.parent / place)
    for override in ("base", "data.source"):
        other = project.parent / "other" / {"base": "models/base", "data.source": "photos"}[override]
        with pytest.raises(UserError, match=f"was started with {override} = '.*', now it is '{other}'"):
            resume(project / OUT, project / "configs/c.yaml", f"{override}={other}")


def test_a_run_and_its_project_may_move(project, monkeypatch):
    """As a run that is put elsewhere, and settings that 0.1.0 wrote, whose paths counted from the working directory."""
    moved = project.parent / "far" / "away"
    shutil.move(project / "runs", moved)
    resume(moved / "a", "configs/c.yaml")
    monkeypatch.chdir(project.parent)
    resume(moved / "a", project / "configs/c.yaml")
    old = project / "old"
    old.mkdir()
    values = yaml.safe_load((moved / "a/config.yaml").read_text())
    values["base"] = "models/base"
    (old / "config.yaml").write_text(yaml.safe_dump(values))
    resume(old, project / "configs/c.yaml")
    shutil.move(project, project.parent / "renamed")
    monkeypatch.chdir(project.parent / "renamed")
    resume(Path("old"), "configs/c.yaml")
    with pytest.raises(UserError, match="was started with base"):
        resume(Path("old"), "configs/c.yaml", "base=models")


def test_encoded_examples_know_their_images_from_anywhere(project, monkeypatch):
    """Catches a training on encoded examples that looks for held-out images in the working directory."""

    def begin(source: str) -> None:
        meta = {"examples": 4, "shard": 4, "made_with": {}, "data": {"source": source, "seed": 0}}
        cache_shards.begin(project / "cache", meta)
        assert meta["data"]["source"] == source

    begin("photos-here")  # no name of a data set
    (project / "photos-here").mkdir()
    monkeypatch.chdir(project.parent)
    assert read_meta(project / "cache")["data"]["source"] == "project/photos-here"
    begin(str(project / "photos-here"))
    begin("project/photos-here")
    with pytest.raises(UserError, match="data.source = "):
        begin("other/photos")
