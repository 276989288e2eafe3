"""What a file may name: a file of its own folder. Needs no TensorFlow.

Packages, lists of examples and indices of weights come from other people. A name in them must not lead to another place
on this machine: no absolute path, no `..`, no link, no device and no pipe. The page (export/web/page/manifest.js) and
the C++ example (examples/android/manifest.h) have the rule for names, too.
"""

from __future__ import annotations

import re
from pathlib import Path

from codi_tf.core.errors import UserError
from codi_tf.core.showing import shown
from codi_tf.io.plain_files import check_plain

_PART = re.compile(r'[^/\\:*?"<>|%#\x00-\x1f\x7f]{1,255}')  # what all systems and all URLs take unchanged
MOST_PARTS = 16  # of a name


def is_name(name: object) -> bool:
    """Whether a value is the name of a file below a folder, as "a.bin" or "a/b.bin". Looks at the name alone."""
    parts = name.split("/") if isinstance(name, str) else []
    return 1 <= len(parts) <= MOST_PARTS and all(_PART.fullmatch(part) and part not in (".", "..") for part in parts)


def check_name(name: object, where: object) -> None:
    """Raise UserError for what `is_name` is false of; `where` is the file that names it."""
    if not is_name(name):
        raise UserError(f"{where}: names {shown(name)}, which is no file in its folder; make it again")


def named_file(folder: Path, name: object, where: object) -> Path:
    """The path of a file of `folder` that the file `where` names. A file that is missing is no error.

    Raises:
        UserError: the name leads out of the folder, also by a link, or to what is no regular file.
    """
    check_name(name, where)
    path = folder / str(name)
    try:
        inside = path.resolve().is_relative_to(folder.resolve())
        if inside and path.exists():
            check_plain(path)
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle, before Python 3.13
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{where}: names {shown(name)}, which is no file ({reason}); make it again") from None
    if not inside:
        raise UserError(f"{where}: {shown(name)} is a link that leads out of {folder}; put the file itself there")
    return path
