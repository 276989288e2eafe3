"""XLA takes the whole training step of every config: static shapes, no Python, no operation that it lacks.

The most different ones are also executed, one of them in the quick tier; `pytest -m campaign` lowers the others.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from test_configs import FILES, small

PROGRAM = Path(__file__).with_name("compile_for_xla.py")
ALWAYS = ("photos_codi", "photos_guided_2", "photos_decoder", "sd15_editing_finetune")
MARKS = {**dict.fromkeys(ALWAYS, pytest.mark.slow), ALWAYS[0]: ()}
CASES = [pytest.param(path, id=path.stem, marks=MARKS.get(path.stem, pytest.mark.campaign)) for path in FILES]


@pytest.mark.parametrize("path", CASES)
def test_xla_takes_the_step(path, base_folder, tuned_bundle, tmp_path):
    """Lowers it; of some also runs the compiled step, whose figures are finite."""
    what = "run" if path.stem in ALWAYS else "lower"
    command = [sys.executable, PROGRAM, what, path, *small(path, base_folder, tuned_bundle, tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(PROGRAM.parents[1])}
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=600, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["lowered"] > 100_000
    if what == "run":
        assert np.isfinite([*found["logs"].values(), found["moved"]]).all()
        assert found["logs"]["gradient_norm"] > 0 and found["logs"]["skipped"] == 0 and found["moved"] > 0
