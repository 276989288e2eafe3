"""tests/slow.txt names tests that are there: a renamed one would quietly come back into the quick tier."""

from __future__ import annotations

import ast
import re

from conftest import SLOW


def test_every_name_is_one_of_a_test():
    lines = [line for line in SLOW.read_text("utf-8").splitlines() if not line.startswith("#")]
    assert lines == sorted(set(lines))
    for line in lines:
        file, name = re.fullmatch(r"(test_\w+\.py)::(\w+)(?:\[.*\])?", line).groups()
        tree = ast.parse((SLOW.parent / file).read_text("utf-8"))
        assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, line
