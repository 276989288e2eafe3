"""The paths of a config: where they lead, how a run writes them down, and whether they are those of before."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from codi_tf.io.places import folder_pair, is_same_place, resolved, seen_from, sources_of, with_paths

SOURCE = "data.source"
PATHS = ("base", "text", SOURCE, "adaptation.start", "method.features")


def resolve(values: dict, config: Path) -> None:
    """Change the relative paths of a config file's values, in place, so that they hold from the working directory.

    For `configs/NAME.yaml` the folder above the config's, in which they are looked up last, is the project's.

    Args:
        values: what the file holds, not checked yet.
        config: the file.
    """
    _change_paths(values, lambda path: resolved(path, config.parent))


def write_down(values: dict, folder: Path) -> None:
    """Change the relative paths of values, in place, so that a file in `folder` can hold them."""
    _change_paths(values, lambda path: seen_from(path, folder))


def adopt(earlier: dict, now: dict) -> None:
    """Change the paths of earlier values, in place, to how they are written now, where both lead to the same."""
    written = {}
    _change(now, lambda key, text: written.setdefault(key, text))
    _change(earlier, lambda key, text: written[key] if key in written and _lead_to_same(text, written[key]) else text)


def _change_paths(values: dict, change: Callable[[str], str]) -> None:
    """Put `change(path)` in place of each path; a data source may hold several."""
    _change(values, lambda key, text: with_paths(text, change) if key == SOURCE else change(text))


def _change(values: dict, change: Callable[[str, str], str]) -> None:
    """Put `change(key, text)` in place of each path."""
    for key in PATHS:
        *sections, last = key.split(".")
        inside = values
        for section in sections:
            inside = inside.get(section)
            inside = inside if isinstance(inside, dict) else {}
        text = inside.get(last)
        if isinstance(text, str):
            inside[last] = change(key, text)


def _lead_to_same(text: str, other: str) -> bool:
    parts, others = _paths_in(text), _paths_in(other)
    same = [a == b or is_same_place(a, b) for a, b in zip(parts, others, strict=False)]
    return len(parts) == len(others) and all(same)


def _paths_in(text: str) -> list[str]:
    return [path for part in sources_of(text) for path in folder_pair(part) or (part,)]
