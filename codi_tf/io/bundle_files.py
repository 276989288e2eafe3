"""The file by which a bundle is recognized. Imports no TensorFlow."""

from __future__ import annotations

from pathlib import Path

BUNDLE = "codi.json"


def is_bundle(path: str | Path) -> bool:
    """Whether a folder holds a bundle, a saved `CoDi` model."""
    return (Path(path) / BUNDLE).is_file()
