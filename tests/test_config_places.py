"""The relative paths of a config: beside it, in the working directory, or in the project above it.

Each test catches a config that runs from one working directory only, or a path that a command line gives and that is
looked up where the config is.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from codi_tf import config

ROOT = Path(__file__).parents[1]
TEXT = """
method: {name: codi, guidance: perceptual, guidance_weight: 1.0, features: PLACE/features}
base: PLACE/base
text: PLACE/text
task: {name: super_resolution}
data: {source: PLACE/images}
adaptation: {start: PLACE/start}
train: {steps: 10}
"""
NAMES = ("base", "text", "images", "start", "features")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The working directory; the config lies in project/configs."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "project" / "configs").mkdir(parents=True)
    return tmp_path / "here"


def written(here: Path, **changes: str) -> Path:
    path = here.parent / "project" / "configs" / "one.yaml"
    lines = [line for line in TEXT.strip().splitlines() if line.split(":")[0] not in changes]
    lines += [f"{key}: {value}" for key, value in changes.items()]
    path.write_text("\n".join(lines).replace("PLACE", "models"), "utf-8")
    return path


def paths_of(experiment: config.Experiment) -> list[str | None]:
    return [
        experiment.base,
        experiment.text,
        experiment.data.source,
        experiment.adaptation.start,
        experiment.method.features,
    ]


def make(folder: Path) -> None:
    for name in NAMES:
        (folder / "models" / name).mkdir(parents=True)


@pytest.mark.parametrize("place", ["project/configs", "project"])
def test_paths_lead_to_what_lies_with_the_config(here, place):
    make(here.parent / place)
    experiment = config.load(written(here))
    assert paths_of(experiment) == [str(here.parent / place / "models" / name) for name in NAMES]


def test_places_are_tried_in_order(here):
    """Beside the config, then the working directory, then the folder above the config's."""
    make(here.parent / "project")
    make(here)
    assert config.load(written(here)).base == "models/base"  # as before there were other places
    make(here.parent / "project" / "configs")
    assert config.load(written(here)).base == str(here.parent / "project" / "configs" / "models" / "base")


def test_a_path_that_leads_nowhere_stays_as_it_is_written(here):
    assert paths_of(config.load(written(here))) == [f"models/{name}" for name in NAMES]


def test_overrides_are_paths_of_the_working_directory(here):
    make(here.parent / "project" / "configs")
    assert config.load(written(here), ["base=models/base"]).base == "models/base"


@pytest.mark.parametrize("source", ["photos", "tfds:photos", '""'])
def test_names_of_data_sets_are_no_paths(here, source):
    for name in ("photos", "tfds:photos"):
        (here.parent / "project" / "configs" / name).mkdir()
    assert config.load(written(here, data=f"{{source: {source}}}")).data.source == source.strip('"')


@pytest.mark.parametrize("source", ["a-{0..1}.tar", "*.jpg", "shards/**/b.tfrecord?image=x", "a-0.tar"])
def test_patterns_of_files_are_looked_up_too(here, source):
    folder = here.parent / "project" / "configs"
    (folder / "shards" / "more").mkdir(parents=True)
    for name in ("a-0.tar", "b.jpg", "shards/more/b.tfrecord"):
        (folder / name).touch()
    assert config.load(written(here, data=f"{{source: '{source}'}}")).data.source == str(folder / source)


def test_absolute_paths_and_dots(here):
    (here.parent / "project" / "base").mkdir()
    assert config.load(written(here, base="../base")).base == str(here.parent / "project" / "base")
    assert config.load(written(here, base=str(here / "gone"))).base == str(here / "gone")


def test_a_folder_of_configs_that_is_a_link(here):
    """`..` leads out of the folder that the link names."""
    (here.parent / "project" / "base").mkdir()
    link = here / "configs"
    link.symlink_to(written(here, base="../base").parent)
    assert config.load(link / "one.yaml").base == str(here.parent / "project" / "base")


def test_a_run_has_the_same_settings_however_its_config_is_named(here, monkeypatch):
    """Resuming compares them."""
    make(here.parent / "project" / "configs")
    path = written(here)
    monkeypatch.chdir(here.parent / "project")
    names = [path, os.path.relpath(path), Path("..", "project", "configs", path.name)]
    assert {config.load(name).base for name in names} == {"configs/models/base"}


def test_the_repository_s_configs_find_their_models_from_anywhere(here):
    paths = sorted((ROOT / "configs").glob("photos_*.yaml"))
    bases = [config.load(path).base or "" for path in paths]
    assert all(Path(base).is_dir() for base in bases if "assets" in base) and any("assets" in base for base in bases)
