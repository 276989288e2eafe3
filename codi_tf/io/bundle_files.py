"""The file by which a bundle is recognized. Imports no TensorFlow."""

from __future__ import annotations

from pathlib import Path

from codi_tf.core.errors import UserError

BUNDLE = "codi.json"


def is_bundle(path: str | Path) -> bool:
    """Whether a folder holds a bundle, a saved `CoDi` model."""
    return (Path(path) / BUNDLE).is_file()


def model_at(path: Path) -> Path:
    """The folder of a model: for the folder of a run, that of its result; other paths as they are.

    Raises:
        UserError: the run has no result yet.
    """
    is_run = (path / "config.yaml").is_file() and (path / "checkpoints").is_dir()
    if not is_run or is_bundle(path):
        return path
    if not (path / "result").is_dir():
        raise UserError(
            f"{path}: this run has no result yet; train it to its end, or make one of its newest state: codi train "
            f"{path / 'config.yaml'} --out {path} --finish"
        )
    return path / "result"
