"""Where the relative paths of a config file lead."""

from __future__ import annotations

import glob
import os
import re
from pathlib import Path

PATHS = ("base", "text", "data.source", "adaptation.start", "method.features")
_NO_PATH = re.compile(r"photos|scenes(:[a-z-]+)?|tfds:.*|")  # data sources that are none


def resolve(values: dict, config: Path) -> None:
    """Change the relative paths of a config, in place, so that they hold from the working directory.

    A relative path is looked up beside the config file, then in the working directory, then in the folder above the
    config's: for `configs/NAME.yaml` that is the project's. A path that leads nowhere stays as it is written.

    Args:
        values: what the file holds, not checked yet.
        config: the file.
    """
    for key in PATHS:
        *sections, last = key.split(".")
        inside = values
        for section in sections:
            inside = inside.get(section)
            inside = inside if isinstance(inside, dict) else {}
        text = inside.get(last)
        if isinstance(text, str) and not (key == "data.source" and _NO_PATH.fullmatch(text)):
            inside[last] = _resolved(text, config.parent)


def _resolved(text: str, folder: Path) -> str:
    if not text or os.path.isabs(text):
        return text
    beside, above = folder.absolute(), folder.absolute().parent
    if beside != Path.cwd() and _leads_somewhere(beside, text):
        return _short(beside, text)
    if not _leads_somewhere(Path(), text) and _leads_somewhere(above, text):
        return _short(above, text)
    return text


def _leads_somewhere(folder: Path, text: str) -> bool:
    """Whether a path, or a pattern of paths as `data.open_source` takes them, is found below a folder."""
    name = re.sub(r"\?\w+=.*", "", text)  # the options after TFRecord files
    if os.path.exists(os.path.join(folder, name)):
        return True
    pattern = os.path.join(glob.escape(str(folder)), re.sub(r"\{[^{}]*\}", "*", name))
    return next(glob.iglob(pattern, recursive=True), None) is not None


def _short(folder: Path, text: str) -> str:
    """The path, relative below the working directory: it does not depend on how the command named its config."""
    start = os.path.realpath(folder) if os.pardir in Path(text).parts else folder  # `..` of a link is its target's
    path = os.path.abspath(os.path.join(start, text))
    below = os.path.relpath(path)
    return path if below.startswith(os.pardir) else below
