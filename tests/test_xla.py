"""XLA takes the whole training step of every config: static shapes, no Python, no operation that it lacks.

In every run of the tests the most different ones; `pytest -m campaign` does the others.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from test_configs import FILES, small
from tiny import tiny_text

from codi_tf import config

PROGRAM = Path(__file__).with_name("compile_for_xla.py")
ALWAYS = ("photos_codi", "photos_guided_2", "photos_decoder", "sd15_editing_finetune")
CASES = [pytest.param(path, id=path.stem, marks=() if path.stem in ALWAYS else pytest.mark.campaign) for path in FILES]


@pytest.mark.parametrize("path", CASES)
def test_the_step_is_lowered(path, base_folder, tuned_bundle, tmp_path):
    whole = config.load(path)
    text = tiny_text(tmp_path, 8) if whole.task is not None and whole.task["name"] == "editing" else None
    command = [sys.executable, PROGRAM, path, *small(whole, path.stem, base_folder, tuned_bundle, text)]
    environment = {**os.environ, "PYTHONPATH": str(PROGRAM.parents[1])}
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=600, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout.splitlines()[-1]) > 100_000
