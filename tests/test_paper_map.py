"""docs/paper_map.md has a row for all that the papers number, and names functions, tests, configs that are there.

It catches a system that nobody speaks of, and a row that was left behind by a change.
"""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

import pytest

from codi_tf import config

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "paper_map.md").read_text("utf-8")
NUMBERED = {  # what the text of each paper numbers
    "CoDi": {"Eq.": 18, "Algorithm": 1, "Table": 3, "Fig.": 10},
    "Guided distillation": {"Eq.": 7, "Algorithm": 1, "Table": 2, "Fig.": 12},
}
COLUMNS = ["Place", "What it says", "Function", "Test", "Config", "Result"]
PLACE = re.compile(r"(Eq\.|Algorithm|Table|Fig\.) (\d+(?:, \d+)*)(?: to (\d+))?")
NAMED = re.compile(  # `file.py:Name.method`, `:another` of the same file, `file.py::test`, `::another`
    r"`([\w/]*\.py)?(::?)([\w.]+)`"
)


def rows_of(paper: str) -> list[list[str]]:
    """The rows of a paper's tables with six columns."""
    found, inside = [], False
    for line in PAGE.split(f"\n## {paper}\n")[1].split("\n## ")[0].splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if cells == COLUMNS:
            inside = True
        elif not line.startswith("|"):
            inside = False
        elif inside and not line.startswith("|---"):
            found.append(cells)
    return found


def numbers_of(place: str) -> tuple[str, set[int]]:
    """("Eq.", {4, 5, 6, 7}) of "Eq. 4 to 7"; ("", {}) of a section."""
    found = PLACE.match(place)
    if found is None:
        return "", set()
    kind, listed, last = found.groups()
    numbers = {int(number) for number in listed.split(", ")}
    return kind, numbers | set(range(max(numbers), int(last) + 1)) if last else numbers


@pytest.mark.parametrize("paper", NUMBERED)
def test_all_that_is_numbered_has_a_row(paper):
    there = [numbers_of(place) for place, *_ in rows_of(paper)]
    for kind, last in NUMBERED[paper].items():
        assert set().union(*(numbers for of, numbers in there if of == kind)) == set(range(1, last + 1)), kind


def test_numbers_are_understood():
    assert numbers_of("Eq. 4 to 7") == ("Eq.", {4, 5, 6, 7}) and numbers_of("Fig. 9, 10") == ("Fig.", {9, 10})
    assert numbers_of("Table 2, inpainting: Palette, 1000 steps") == ("Table", {2})
    assert numbers_of("Section 4.1") == ("", set())


@pytest.mark.parametrize("row", [row for paper in NUMBERED for row in rows_of(paper)], ids=lambda row: row[0])
def test_a_row_has_everything_or_says_why_not(row):
    """Function, test, config and result; or the words "not built" and a reason."""
    assert len(row) == len(COLUMNS) and all(row)
    _, _, function, test, settings, result = row
    reason = re.search(r"not built: (.*)", function)
    if reason is None:
        assert re.search(r"`:?[\w/]+(\.py|/)", function), function
        assert re.search(r"`test_\w+\.py", test), test
    else:
        assert len(reason[1].split()) >= 4, function
    assert settings in ("-", "all", "as Table 1") or re.search(r"\w+\.yaml`|`codi ", settings), settings
    assert result == "-" or re.search(r"\]\([\w.]+md|not measured: .+", result), result


def named() -> list[tuple[str, str]]:
    """(file, name) of all functions and tests."""
    found, file = [], ""
    for path, _, name in NAMED.findall(PAGE):
        file = path or file
        found.append((file, name))
    return found


@functools.cache
def names_in(path: Path) -> set[str]:
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


def test_functions_and_tests_are_there():
    lost = []
    for file, name in dict.fromkeys(named()):
        path = ROOT / ("tests" if name.startswith("test_") else "codi_tf") / file
        if not path.is_file() or name not in names_in(path):
            lost.append(f"{file}:{name}")
    assert not lost and len(named()) > 150


def test_files_are_there():
    """Files without a name behind them, and folders."""
    for name in set(re.findall(r"`([\w/]+\.py)`", PAGE)):
        assert any((ROOT / folder / name).is_file() for folder in (".", "codi_tf", "tests")), name
    for folder in set(re.findall(r"`([\w/]+/)`", PAGE)):
        assert (ROOT / folder).is_dir(), folder


def test_configs_take_their_settings():
    configs = set(re.findall(r"`(\w+\.yaml)`(?: with ((?:`[\w.]+=\w+`(?:, )?)+))?", PAGE))
    assert len(configs) > 20
    for name, settings in configs:
        config.load(ROOT / "configs" / name, re.findall(r"`([\w.]+=\w+)`", settings))
