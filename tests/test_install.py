"""What an installation brings: the commands, and the configs and small models that the first commands need.

Each test catches an installed codi_tf whose first documented command fails for want of a file.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
from commands import run_here

from codi_tf.cli import init
from codi_tf.cli.program import main
from codi_tf.io.starter import FOLDERS

ROOT = Path(__file__).parents[1]


def files_of(folder: Path) -> dict[str, bytes]:
    """Path below the folder -> contents of what belongs to a starter."""
    paths = [path for name in FOLDERS for path in (folder / name).rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths if "__pycache__" not in path.parts}


def test_init_writes_the_configs_and_models(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = run_here(main, "init")
    assert done.returncode == 0 and "configs/ and assets/" in done.stdout and not done.stderr
    assert files_of(tmp_path) == files_of(ROOT)
    assert {path.name for path in tmp_path.iterdir()} == set(FOLDERS)


def test_init_writes_what_is_missing_and_overwrites_nothing(tmp_path):
    assert run_here(init.main, tmp_path / "new" / "folder").returncode == 0
    config = tmp_path / "new" / "folder" / "configs" / "photos_codi.yaml"
    config.unlink()
    assert "files written: 1" in run_here(init.main, tmp_path / "new" / "folder").stdout and config.is_file()
    config.write_text("mine", "utf-8")
    (config.parent / "photos_base.yaml").unlink()
    done = run_here(init.main, tmp_path / "new" / "folder")
    assert done.returncode == 2 and f"{config}: is there already, with other contents" in done.stderr
    assert config.read_text("utf-8") == "mine" and not (config.parent / "photos_base.yaml").exists()


def test_init_names_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    done = run_here(init.main, tmp_path / "file")
    assert done.returncode == 2
    assert done.stderr == f"error: {tmp_path / 'file'}: is a file, not a folder; choose another place\n"


def test_a_config_that_is_not_there_is_named_with_the_remedy(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = run_here(main, "train", "configs/photos_codi.yaml")
    assert done.returncode == 2 and "`codi init` writes" in done.stderr
    assert "codi init" not in run_here(main, "train", "configs/mine.yaml").stderr


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The `bin` folder of a new virtual environment with a wheel of the tree; its libraries are those of the tests."""
    folder = tmp_path_factory.mktemp("installed")
    left_out = shutil.ignore_patterns(".*", "node_modules", "build", "dist", "runs", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, folder / "tree", ignore=left_out)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    offline = ["--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "wheel", *offline, "--wheel-dir", folder, folder / "tree"], check=True, timeout=300)
    shutil.rmtree(folder / "tree")
    venv.create(folder / "env")
    python = folder / "env" / "bin" / "python"
    (wheel,) = folder.glob("*.whl")
    subprocess.run([*pip, "--python", python, "install", *offline, wheel], check=True, timeout=300)
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = subprocess.run([python, "-c", where], check=True, capture_output=True, text=True).stdout.strip()
    Path(packages, "shared.pth").write_text(sysconfig.get_path("purelib") + "\n", "utf-8")  # after codi_tf's own
    return python.parent


@pytest.mark.slow
def test_an_installed_wheel_trains_with_what_it_brings(installed, tmp_path):
    """`codi init`, then the README's first command, in a folder that has nothing else."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}

    def run(program: str, *arguments: str) -> str:
        command = [installed / program, *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    files = run("python", "-c", "import codi_tf, export; print(codi_tf.__file__, export.__file__)").split()
    assert all(file.startswith(str(installed.parent)) for file in files)
    run("codi", "init")
    assert files_of(tmp_path) == files_of(ROOT)
    shorter = ["train.steps=1", "train.warmup_steps=0", "train.batch_size=2", "data.encode_once=0"]
    run("codi", "train", "configs/photos_codi.yaml", "data.image_size=32", *shorter)
    assert (tmp_path / "runs" / "photos_codi" / "result" / "codi.json").is_file()
    for command in ("export", "run", "web"):
        assert run("codi", command, "--help").startswith(f"usage: codi {command}")
