"""Whether a command would overwrite what it reads. Needs no TensorFlow."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from codi_tf.core.errors import UserError


def check_not_read(out: Path, inputs: Mapping[str, Path | None]) -> None:
    """Raises UserError where `out` is one of the files that are read, also through a link.

    Args:
        out: the file to write.
        inputs: option -> the file that it names, or None.
    """
    for option, path in inputs.items():
        if path is not None and path.exists() and out.exists() and out.samefile(path):
            raise UserError(f"--out is {out}: it would replace the {option}; use another name")
