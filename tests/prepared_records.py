"""Records of `codi prepare` for tests."""

from __future__ import annotations

from pathlib import Path

from commands import run_here
from numbered_images import ramp
from shards import encoded

from codi_tf.cli import prepare


def prepared(source: Path, out: Path, *options) -> Path:
    """The folder `out`, with what the command writes."""
    done = run_here(prepare.main, source, "--out", out, *options)
    assert done.returncode == 0, done.stderr
    return out


def numbered_records(folder: Path) -> Path:
    """12 images that tell their number, as records of two files, below a folder."""
    (folder / "images").mkdir()
    for i in range(12):
        (folder / "images" / f"{i:03}.png").write_bytes(encoded(ramp(40, 56, i)))
    return prepared(folder / "images", folder / "records")
