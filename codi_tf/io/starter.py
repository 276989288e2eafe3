"""The configs and small models that come with codi_tf."""

from __future__ import annotations

from pathlib import Path

from codi_tf.io.inside import is_name

FOLDERS = ("configs", "assets")
_PACKAGE = Path(__file__).parents[1]


def starter_folder() -> Path:
    """The folder that holds `FOLDERS`: codi_tf/starter where codi_tf was installed (setup.py), else the checkout."""
    installed = _PACKAGE / "starter"
    return installed if installed.is_dir() else _PACKAGE.parent


def shipped_model(name: str) -> Path | None:
    """The folder below `assets/` of a model that comes with codi_tf, such as "scenes-reader"; None for no such name."""
    folder = starter_folder() / "assets" / name
    return folder if is_name(name) and folder.is_dir() else None


def shipped_models() -> list[str]:
    """The names of the models that come with codi_tf."""
    folder = starter_folder() / "assets"
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir()) if folder.is_dir() else []


def has_config(name: str) -> bool:
    """Whether a config of this file name comes with codi_tf."""
    return (starter_folder() / "configs" / name).is_file()
