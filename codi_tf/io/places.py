"""Relative paths in files that people or commands write: where they lead, and whether two of them lead to the same."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Callable
from pathlib import Path

from codi_tf.core.paths import as_path, is_remote, joined, matching

SIGN = " + "  # between data sources that take turns
_DATA_SET = re.compile(r"photos|scenes(:.*)?|tfds:.*|")


def is_data_set(source: str) -> bool:
    """Whether a `data.source` is the name of a data set, and no path."""
    return _DATA_SET.fullmatch(source) is not None


def sources_of(source: str) -> list[str]:
    """The data sources that take turns in a `data.source`; a path that exists is one source, whatever its name."""
    return [source] if SIGN not in source or leads_somewhere(source) else source.split(SIGN)


def folder_pair(text: str) -> tuple[str, str] | None:
    """LOW and HIGH of LOW:HIGH, two folders, at least one of which exists; None for any other text.

    A path that exists and the name of a data set are no pair, whatever signs they have.
    """
    if is_data_set(text) or leads_somewhere(text):
        return None
    parted = [(text[:i], text[i + 1 :]) for i, sign in enumerate(text) if sign == ":"]
    best = max(parted, key=_folders, default=None)
    return best if best is not None and _folders(best) else None


def _folders(paths: tuple[str, str]) -> int:
    return sum(as_path(path).is_dir() if is_remote(path) else os.path.isdir(path) for path in paths)


def with_paths(source: str, change: Callable[[str], str]) -> str:
    """A `data.source` with `change(path)` in place of each path; names of data sets stay.

    Of SOURCE:TARGET both paths change, where both lead to folders before or after that.
    """
    if SIGN in source and leads_somewhere(change(source)):
        return change(source)
    return SIGN.join(part if is_data_set(part) else _changed(part, change) for part in sources_of(source))


def _changed(part: str, change: Callable[[str], str]) -> str:
    if is_remote(part):
        return part
    if leads_somewhere(part) or leads_somewhere(change(part)):
        return change(part)
    for i, sign in enumerate(part):
        pair = part[:i], part[i + 1 :]
        changed = change(pair[0]), change(pair[1])
        if sign == ":" and (all(map(os.path.isdir, pair)) or all(map(os.path.isdir, changed))):
            return ":".join(changed)
    return change(part)


def resolved(text: str, folder: Path) -> str:
    """The path that a file in `folder` names, so that it holds from the working directory.

    A relative path is looked up beside the file, then in the working directory, then in the folder above the file's.
    One that leads nowhere stays as it is written. The result is relative if it lies below the working directory: it
    does not depend on how `folder` is written.

    Args:
        text: a path, or a pattern of paths as `data.open_source` takes them.
        folder: of the file.
    """
    if not text or os.path.isabs(text) or is_remote(text):
        return text
    beside, above = folder.absolute(), folder.absolute().parent
    if beside != Path.cwd() and leads_somewhere(text, beside):
        return _short(beside, text)
    if not leads_somewhere(text) and leads_somewhere(text, above):
        return _short(above, text)
    return text


def seen_from(text: str, folder: Path) -> str:
    """A path that holds from the working directory, as a file in `folder` names it; see `resolved`."""
    if not text or os.path.isabs(text) or is_remote(text):
        return text
    return os.path.abspath(text) if is_remote(folder) else _as_path(os.path.relpath(text, os.path.realpath(folder)))


def leads_somewhere(text: str, folder: Path = Path()) -> bool:
    """Whether a path, or a pattern of paths, is found below a folder."""
    name = re.sub(r"\?\w+=.*", "", text)  # the options after TFRecord files
    place = text if is_remote(text) else os.path.join(folder, name)
    if is_remote(place):
        return as_path(place).exists() or (glob.has_magic(place) and bool(matching(place)))
    if os.path.exists(place):
        return True
    pattern = os.path.join(glob.escape(str(folder)), re.sub(r"\{[^{}]*\}", "*", name))
    return next(glob.iglob(pattern, recursive=True), None) is not None


def is_same_place(earlier: str, now: str) -> bool:
    """Whether a path that was written down leads where another one leads now.

    If it leads nowhere any more, because its file or the working directory is another one, the folders that it names
    must be the last ones of the other path.
    """
    if is_remote(earlier) or is_remote(now):
        return as_path(earlier).resolve() == as_path(now).resolve()
    place = os.path.realpath(now)
    if os.path.realpath(earlier) == place:
        return True
    names = [name for name in Path(earlier).parts if name != os.pardir]
    return bool(names) and not leads_somewhere(earlier) and list(Path(place).parts[-len(names) :]) == names


def _short(folder: Path, text: str) -> str:
    if is_remote(folder):
        return str(joined(folder, text))
    start = os.path.realpath(folder) if os.pardir in Path(text).parts else folder  # `..` of a link is its target's
    path = os.path.abspath(os.path.join(start, text))
    below = os.path.relpath(path)
    return path if below.startswith(os.pardir) else _as_path(below)


def _as_path(text: str) -> str:
    """A path that is not taken for the name of a data set."""
    return os.path.join(os.curdir, text) if is_data_set(text) else text
