"""Few images: none need be held out, and one can be trained on."""

from __future__ import annotations

import pytest
import yaml
from commands import run_here
from tiny import tiny_run

from codi_tf.cli import cache, train
from codi_tf.config.sections import Data
from codi_tf.core.errors import UserError


def test_nothing_held_out():
    """Fault: heldout_fraction 0 is refused."""
    assert Data(heldout_fraction=0.0).heldout_fraction == 0
    for value in (-0.1, 1.0):
        with pytest.raises(UserError, match="heldout_fraction is .*: it must be at least 0 and below 1"):
            Data(heldout_fraction=value)


def test_a_run_on_one_image(eager, tmp_path):
    """Fault: a run wants held-out images although none are to be held out, by its config or when it was encoded."""
    values = tiny_run(tmp_path, steps=1, sample_every=1)
    for path in sorted((tmp_path / "photos").iterdir())[1:]:
        path.unlink()
    values["data"]["heldout_fraction"] = 0.0
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(values))
    done = run_here(train.main, path, "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "result" / "codi.json").is_file()
    done = run_here(train.main, path, "data.heldout_fraction=1e-9", "--out", tmp_path / "other")
    assert done.returncode == 2 and "or take another fraction or split" in done.stderr.splitlines()[-1]
    done = run_here(cache.main, path, "--out", tmp_path / "encoded", "--examples", 2)
    assert done.returncode == 0, done.stderr
    overrides = (f"data.source={tmp_path / 'encoded'}", "data.heldout_fraction=0.1")
    done = run_here(train.main, path, *overrides, "--out", tmp_path / "of-encoded")
    assert done.returncode == 0, done.stderr
