"""docs/paper_map.md names functions and tests that are there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NAMED = re.compile(
    r"`([\w/]*\.py)?(::?)([\w.]+)`"
)  # `file.py:Name.method`, `file.py::test`, `::another` of the same file


def names_of(path: Path) -> set[str]:
    """Functions, classes, Class.method and assigned names of a module."""
    found = set()
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{one.name}" for one in node.body if isinstance(one, ast.FunctionDef)}
        if isinstance(node, ast.Assign):
            found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return found


def named() -> list[tuple[str, str]]:
    found, file = [], ""
    for path, _, name in NAMED.findall((ROOT / "docs" / "paper_map.md").read_text("utf-8")):
        file = path or file
        found.append((file, name))
    return found


@pytest.mark.parametrize(("file", "name"), sorted(set(named())))
def test_it_is_there(file, name):
    path = ROOT / ("tests" if name.startswith("test_") else "codi_tf") / file
    assert path.is_file() and name in names_of(path)


def test_names_are_found():
    assert len(named()) > 100
