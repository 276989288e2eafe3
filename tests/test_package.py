"""What importing the package costs, and its public names."""

from __future__ import annotations

import subprocess
import sys

import pytest

import codi_tf

LIGHT = (
    "io.images",
    "core.noise",
    "config",
    "core.errors",
    "core.settings",
    "io.bundle_files",
    "io.files",
    "core.progress",
    "core.command_line",
    "methods.method",
    "train",
)


def test_light_parts_import_neither_tensorflow_nor_keras():
    code = f"""
import importlib, sys
for name in {LIGHT}:
    importlib.import_module("codi_tf." + name)
    heavy = [m for m in ("tensorflow", "keras", "torch") if m in sys.modules]
    assert not heavy, (name, heavy)
import codi_tf
codi_tf.read_image, codi_tf.write_png, codi_tf.UserError
assert "tensorflow" not in sys.modules
import codi_tf.diffusion.process
assert "keras" in sys.modules  # the check can fail
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_public_name_is_there():
    for name in codi_tf.__all__:
        assert getattr(codi_tf, name) is not None
    assert set(codi_tf.__all__) <= set(dir(codi_tf))


def test_other_names_are_not():
    with pytest.raises(AttributeError, match="no attribute 'CoDI'"):
        codi_tf.CoDI  # noqa: B018
