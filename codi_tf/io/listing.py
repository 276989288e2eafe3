"""The files below a folder, except those that systems hide."""

from __future__ import annotations

import os
from collections.abc import Callable

from codi_tf.core.errors import UserError

HIDDEN = ("__macosx", "thumbs.db", "desktop.ini", "@eadir", "$recycle.bin", "lost+found")  # without a dot


def is_hidden(path: str) -> bool:
    """Whether a relative path, or a folder on it, is hidden: `.name`, and what macOS, Windows and disks add."""
    parts = path.split("/")
    return any(part.lower() in HIDDEN or part.startswith(".") and part not in (".", "..") for part in parts)


def files_below(folder: str | os.PathLike[str]) -> tuple[list[str], list[str]]:
    """The regular files in a folder and its subfolders, sorted, and what cannot be read there.

    Hidden files are in neither list. Links are followed; a folder that several links lead to is read once.

    Returns:
        Paths that begin with the folder; and paths with the reason: broken links, pipes, folders without permission.

    Raises:
        UserError: no such folder, or it cannot be read.
    """
    root = os.fspath(folder)
    if not os.path.isdir(root):
        raise UserError(f"no such folder of images: {root}")
    files, others, seen, waiting = [], [], set(), [root]
    while waiting:
        here = waiting.pop()
        if (real := os.path.realpath(here)) in seen:
            continue
        seen.add(real)
        try:
            with os.scandir(here) as entries:
                found = [entry for entry in entries if not is_hidden(entry.name)]
        except OSError as error:
            if here == root:
                raise UserError(f"cannot read folder {root}: {error.strerror or error}") from None
            others.append(f"{here} ({error.strerror or error})")
            continue
        for entry in found:
            if _is(entry.is_dir):
                waiting.append(entry.path)
            elif _is(entry.is_file):
                files.append(entry.path)
            else:
                others.append(f"{entry.path} ({'a broken link' if entry.is_symlink() else 'not a file'})")
    return sorted(files), sorted(others)


def _is(question: Callable[[], bool]) -> bool:
    try:
        return question()
    except OSError:  # a link that leads to itself, or without permission
        return False
