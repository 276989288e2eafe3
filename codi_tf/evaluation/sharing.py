"""Networks that the metrics of an evaluation share: when one has to be loaded again."""

from __future__ import annotations

from pathlib import Path


def changed(path: Path) -> tuple:
    """When a file, or the files of a folder, were last changed: a part of the key of what was loaded from there.

    () where there is none: that is the loader's to say.
    """
    files = path.iterdir() if path.is_dir() else [path]
    return tuple(sorted((file.name, file.stat().st_mtime_ns) for file in files if file.exists()))
