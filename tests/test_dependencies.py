"""Every library that a file imports is declared in setup.cfg; what is always imported is always installed."""

from __future__ import annotations

import ast
import configparser
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {  # import -> package, where the names differ by more than "_" and "-"
    "PIL": "pillow",
    "cv2": "opencv-python-headless",
    "google_crc32c": "google-crc32c",
    "grpc": "grpcio",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}
OPTIONAL = {"codi_tf": (), "export": ("export",)}  # folder -> extras that all of it may rely on


def declared() -> tuple[set[str], dict[str, set[str]]]:
    """The packages of a plain installation, and those of each extra."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")

    def packages(text: str) -> set[str]:
        return {re.split(r"[\s<>=!\[]", line)[0].lower() for line in text.strip().splitlines()}

    extras = {name: packages(text) for name, text in setup["options.extras_require"].items()}
    return packages(setup["options"]["install_requires"]), extras


def files(folder: str) -> list[Path]:
    """The Python files of a folder, without what lies below a hidden one."""
    return [path for path in sorted((ROOT / folder).rglob("*.py")) if not any(part[0] == "." for part in path.parts)]


def imports(nodes: list[ast.stmt], *, always: bool) -> Iterator[str]:
    """The modules that a file imports; `always`: only those that are imported when the file itself is."""
    for statement in nodes:
        for node in [statement] if always else ast.walk(statement):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and not node.level:
                yield node.module
            elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "importorskip":
                yield node.args[0].value


def undeclared(path: Path, packages: set[str], *, always: bool) -> list[str]:
    """The imports of a file that none of the packages stand for."""
    own = {entry.stem for entry in (*ROOT.iterdir(), *path.parent.iterdir())}
    roots = {name.split(".")[0] for name in imports(ast.parse(path.read_text(encoding="utf-8")).body, always=always)}
    outside = roots - sys.stdlib_module_names - own
    return [root for root in sorted(outside) if PACKAGES.get(root, root.replace("_", "-")).lower() not in packages]


@pytest.mark.parametrize("folder", ["codi_tf", "export", "benchmarks", "studies", "tests"])
def test_every_library_that_is_imported_is_declared(folder):
    always, extras = declared()
    packages = {name.replace("_", "-") for name in always.union(*extras.values())}
    for path in files(folder):
        assert not undeclared(path, packages, always=False), path


@pytest.mark.parametrize("folder", OPTIONAL)
def test_a_plain_installation_has_all_that_is_always_imported(folder):
    always, extras = declared()
    packages = {name.replace("_", "-") for name in always.union(*(extras[name] for name in OPTIONAL[folder]))}
    for path in files(folder):
        assert not undeclared(path, packages, always=True), path
