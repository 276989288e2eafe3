"""Packages of 0.1.0, whose manifests have version 2, are read and run.

tests/data/0.1.0/package was made by 0.1.0 from the bundle of `conftest.make_model(make_base())`: ONNX in parts,
float16, 2 steps at 16x16. package-expected.png is the image that its `export.run` made for the condition below with
seed 7.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from codi_tf.core.errors import UserError
from codi_tf.io.images import to_uint8
from export.package.manifest import MANIFEST, read_manifest, read_package
from export.runtime import run

FOLDER = Path(__file__).parent / "data" / "0.1.0"


def test_it_gives_the_same_image():
    """Catches a tensor's name or a manifest's key that only the newer version has."""
    manifest, package = read_manifest(FOLDER / "package"), read_package(FOLDER / "package")
    assert manifest["version"] == 2 and "told_0" in package.graphs["step"].inputs
    assert package.keeps_colors and package.steps == 2
    condition = np.random.default_rng(5).random((20, 24, 3), dtype=np.float32)
    image = to_uint8(run.generate(run.load(package), condition, seed=7, tile=False))
    expected = np.asarray(Image.open(FOLDER / "package-expected.png"))
    assert image.shape == expected.shape and expected.std() > 10
    assert np.abs(image.astype(int) - expected).max() <= 1


@pytest.mark.parametrize(
    "task, is_local",
    [
        ("bicubic", True),
        ("inpainting", True),
        ("real_world", True),
        ("super_resolution", True),
        ("depth", False),
        ("editing", False),
        ("of_somebody_else", False),
    ],
)
def test_its_task_says_whether_it_takes_tiles(tmp_path, task, is_local):
    """Catches a depth map or an edit that is cut into tiles because the manifest does not forbid it."""
    shutil.copytree(FOLDER / "package", tmp_path / "package")
    path = tmp_path / "package" / MANIFEST
    path.write_text(json.dumps({**json.loads(path.read_text()), "task": {"name": task}}))
    assert read_package(tmp_path / "package").is_local is is_local


def test_a_later_version_is_refused_in_one_line(tmp_path):
    shutil.copytree(FOLDER / "package", tmp_path / "package")
    path = tmp_path / "package" / MANIFEST
    path.write_text(json.dumps({**json.loads(path.read_text()), "version": 4}))
    with pytest.raises(UserError, match="of another version .*version 4.*export again"):
        read_package(tmp_path / "package")
