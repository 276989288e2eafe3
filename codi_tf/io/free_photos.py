"""Photos under free licenses in packages of Debian and npm: which they are, and whose."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from codi_tf.core.markdown import plain
from codi_tf.io.json_files import read_json
from codi_tf.io.packages import Package

LIST = Path(__file__).with_suffix(".json")
LICENSES = {  # SPDX's name -> the text
    "CC0-1.0": "https://creativecommons.org/publicdomain/zero/1.0/",
    "CC-BY-4.0": "https://creativecommons.org/licenses/by/4.0/",
    "CC-BY-SA-3.0": "https://creativecommons.org/licenses/by-sa/3.0/",
    "CC-BY-SA-4.0": "https://creativecommons.org/licenses/by-sa/4.0/",
    "GPL-2.0-or-later": "https://www.gnu.org/licenses/old-licenses/gpl-2.0.html",
    "LGPL-3.0-only": "https://www.gnu.org/licenses/lgpl-3.0.html",
}


@dataclass(frozen=True)
class FreePhoto:
    """A photo in a package.

    Attributes:
        name: its name here; the hash of NAME.png decides whether it is held out.
        package: it is in.
        path: of its file in the package.
        author: the name that the license asks to state.
        license: a key of `LICENSES`.
        sha256: of the file.
    """

    name: str
    package: Package
    path: str
    author: str
    license: str
    sha256: str


def free_photos(path: Path = LIST) -> list[FreePhoto]:
    """The photos of a list, package by package."""
    content = read_json(path)
    packages = {entry["name"]: Package(**entry) for entry in content["packages"]}
    return [FreePhoto(**{**entry, "package": packages[entry["package"]]}) for entry in content["photos"]]


def credits(photos: Sequence[FreePhoto]) -> str:
    """Authors, licenses and packages of photos, as tables in Markdown."""
    packages = dict.fromkeys(photo.package for photo in photos)
    licenses = sorted({photo.license for photo in photos})
    return "\n\n".join(
        (
            _table(
                ("photo", "author", "license", "package", "file"),
                ((p.name, p.author, p.license, p.package.name, p.path.rpartition("/")[2]) for p in photos),
            ),
            _table(
                ("package", "version", "of", "licenses stand in", "source"),
                ((p.name, p.version, p.archive, p.stated_in, p.source) for p in packages),
            ),
            _table(("license", "text"), ((name, LICENSES[name]) for name in licenses)),
        )
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [" | ".join(map(_cell, row)) for row in rows]
    return "\n".join(f"| {line} |" for line in (" | ".join(head), " | ".join("---" for _ in head), *lines))


def _cell(text: str) -> str:
    return f"<{text}>" if text.startswith("http") else plain(text)
