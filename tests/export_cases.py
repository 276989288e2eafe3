"""Packages of the tiny bundle, exported once per format."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from commands import run_here

from export import __main__ as export
from export.build import make_package
from export.package import manifest as package

STEPS = 2
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
