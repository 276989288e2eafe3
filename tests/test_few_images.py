"""Few images: none need be held out, and one can be trained on."""

from __future__ import annotations

import pytest
import yaml
from commands import run_here
from shards import encoded, new_image
from tiny import tiny_run

from codi_tf import data
from codi_tf.cli import train
from codi_tf.config.sections import Data
from codi_tf.core.errors import UserError
from codi_tf.data import open_source as opening
from codi_tf.tasks import make_task


def test_nothing_held_out():
    """Fault: heldout_fraction 0 is refused."""
    assert Data(heldout_fraction=0.0).heldout_fraction == 0
    for value in (-0.1, 1.0):
        with pytest.raises(UserError, match="heldout_fraction is .*: it must be at least 0 and below 1"):
            Data(heldout_fraction=value)


@pytest.mark.parametrize("in_memory", [True, False])
def test_one_image_gives_batches(tmp_path, monkeypatch, in_memory):
    """Fault: the draw among images fails for one."""
    (tmp_path / "a.png").write_bytes(encoded(new_image(0)))
    if not in_memory:
        monkeypatch.setattr(opening, "IN_MEMORY", 0)
    source = data.load_source(str(tmp_path), "train", heldout_fraction=0.0)
    batch = next(iter(data.batches(source, make_task("bicubic", scale=2), image_size=16, batch_size=4, seed=0)))
    assert batch["image"].shape == (4, 16, 16, 3)


def test_a_run_on_one_image(tmp_path):
    """Fault: a run wants held-out images although none are to be held out."""
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
    assert done.returncode == 2 and "change the fraction" in done.stderr and done.stderr.count("\n") == 1
