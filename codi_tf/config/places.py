"""The paths of a config: where they lead, how a run writes them down, and whether they are those of before."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from codi_tf.io.places import is_data_set, is_same_place, resolved, seen_from

PATHS = ("base", "text", "data.source", "adaptation.start", "method.features")


def resolve(values: dict, config: Path) -> None:
    """Change the relative paths of a config file's values, in place, so that they hold from the working directory.

    For `configs/NAME.yaml` the folder above the config's, in which they are looked up last, is the project's.

    Args:
        values: what the file holds, not checked yet.
        config: the file.
    """
    _change(values, lambda key, text: resolved(text, config.parent))


def write_down(values: dict, folder: Path) -> None:
    """Change the relative paths of values, in place, so that a file in `folder` can hold them."""
    _change(values, lambda key, text: seen_from(text, folder))


def adopt(earlier: dict, now: dict) -> None:
    """Change the paths of earlier values, in place, to how they are written now, where both lead to the same."""
    written = {}
    _change(now, lambda key, text: written.setdefault(key, text))
    _change(earlier, lambda key, text: written[key] if key in written and is_same_place(text, written[key]) else text)


def _change(values: dict, change: Callable[[str, str], str]) -> None:
    """Put `change(key, text)` in place of each path."""
    for key in PATHS:
        *sections, last = key.split(".")
        inside = values
        for section in sections:
            inside = inside.get(section)
            inside = inside if isinstance(inside, dict) else {}
        text = inside.get(last)
        if isinstance(text, str) and not (key == "data.source" and is_data_set(text)):
            inside[last] = change(key, text)
