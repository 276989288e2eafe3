"""Packages of Debian and npm: fetched with the system's own tools, or found in a folder."""

from __future__ import annotations

import glob
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from codi_tf.core.errors import UserError
from codi_tf.core.showing import clipped

PATIENCE = 1800  # seconds for one package


@dataclass(frozen=True)
class Archive:
    """Where packages come from.

    Attributes:
        command: fetches a package into the working directory; {name} and {version} are replaced.
        file: a pattern of the file that it writes; {name} is replaced.
        remedy: what to do where it fails.
    """

    command: tuple[str, ...]
    file: str
    remedy: str


ARCHIVES = {
    # without a version: a release has one, and of another one the images may be the same
    "debian": Archive(("apt-get", "download", "{name}"), "{name}_*.deb", "run apt-get update"),
    "npm": Archive(("npm", "pack", "--loglevel=error", "{name}@{version}"), "{name}-*.tgz", "try again later"),
}


@dataclass(frozen=True)
class Package:
    """A package that holds images.

    Attributes:
        name: in its archive.
        archive: a key of `ARCHIVES`.
        version: the one whose files are known.
        source: the page of the works in it.
        stated_in: where in the package their licenses stand.
    """

    name: str
    archive: str
    version: str
    source: str
    stated_in: str

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


def fetch(package: Package, folder: Path) -> None:
    """Fetch a package into a folder, without installing it.

    Raises:
        UserError: the tool is missing or fails; says why and what to do.
    """
    archive = ARCHIVES[package.archive]
    tool, *rest = (word.format(name=package.name, version=package.version) for word in archive.command)
    by_hand = "or fetch it by hand and name its folder with --packages"
    if shutil.which(tool) is None:
        raise UserError(f"{tool} is missing; install it, {by_hand}")
    try:
        done = subprocess.run(
            [tool, *rest],
            cwd=folder,
            env={**os.environ, "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=PATIENCE,
        )
    except subprocess.TimeoutExpired:
        raise UserError(f"{tool} takes more than {PATIENCE / 60:.0f} minutes; {archive.remedy}") from None
    if done.returncode:
        raise UserError(f"{tool} fails ({_reason(done.stderr)}); {archive.remedy}, {by_hand}")


def files_of(package: Package, folder: Path) -> list[Path]:
    """The files of a package in a folder, of any version, sorted by name. npm leaves out "@" and writes "-" for "/"."""
    name = package.name.removeprefix("@").replace("/", "-")
    return sorted(folder.glob(ARCHIVES[package.archive].file.format(name=glob.escape(name))))


def _reason(output: bytes) -> str:
    """The first line of an error in what a tool says."""
    lines = [line.strip() for line in output.decode(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith(("E:", "npm error", "npm ERR!"))]
    return clipped((errors or lines or ["it says nothing"])[0], 200)
