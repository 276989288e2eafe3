"""The configs and small models that come with codi_tf."""

from __future__ import annotations

from pathlib import Path

FOLDERS = ("configs", "assets")
_PACKAGE = Path(__file__).parents[1]


def starter_folder() -> Path:
    """The folder that holds `FOLDERS`: codi_tf/starter where codi_tf was installed (setup.py), else the checkout."""
    installed = _PACKAGE / "starter"
    return installed if installed.is_dir() else _PACKAGE.parent


def has_config(name: str) -> bool:
    """Whether a config of this file name comes with codi_tf."""
    return (starter_folder() / "configs" / name).is_file()
