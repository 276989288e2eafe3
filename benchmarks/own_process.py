"""What benchmarks of a process of its own share: the memory it takes, and the checkpoint it starts from."""

from __future__ import annotations

import resource
from pathlib import Path

from codi_tf.core.errors import UserError


def peak_memory() -> int:
    """The largest resident memory of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB


def check_base(folder: Path) -> None:
    """Raise UserError where there is no folder of a checkpoint."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; make one with python -m benchmarks.make_checkpoint")
