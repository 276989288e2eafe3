"""Packages of the tiny bundle, exported once per format; fixtures: `pytest_plugins = ["export_cases"]`."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from commands import run_here
from conftest import make_base, make_model

from export import __main__ as export
from export.build import make_package
from export.emit.program import SamplerProgram
from export.package import manifest as package
from export.quantization import weights

STEPS = 2  # of packages and programs
SIZES = {"saved_model": (16, 16), "tflite": (16, 24), "onnx": (16, 16)}  # height, width


def exported(bundle: Path, format: str) -> Path:
    """The session's package of a format, in place of an older one, which holds a file of its own."""
    out = bundle.parent / f"package-{format}"
    if not out.exists():
        out.mkdir()
        of_the_older_one = {"kind": package.KIND, "files": {"of-the-older-one.txt": "its hash"}}
        (out / package.MANIFEST).write_text(json.dumps(of_the_older_one))
        (out / "of-the-older-one.txt").write_text("")
        if format == "tflite":
            done = command(bundle, "--format", format, "--steps", STEPS, "--size", "16x24", "--out", out)
            (bundle.parent / "said.json").write_text(json.dumps([done.returncode, done.stdout, done.stderr]))
        else:
            make_package(bundle, out, format=format, steps=STEPS, sizes=[SIZES[format]])
    return out


def command(*arguments) -> subprocess.CompletedProcess:
    return run_here(export.main, *arguments)


@pytest.fixture(scope="module")
def program():
    """A sampler of random weights."""
    return SamplerProgram(make_model(make_base()), steps=STEPS, height=16, width=16)


@pytest.fixture
def small_kernels_too(monkeypatch):
    """Kernels of tiny networks are small: let those of 256 numbers be quantized, products by four bits among them."""
    monkeypatch.setattr(weights, "MIN_SIZE", 256)
    monkeypatch.setattr(weights, "MIN_SIZE_INT4", 256)
