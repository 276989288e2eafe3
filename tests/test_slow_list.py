"""tests/slow.txt names tests that are there: a renamed one would quietly come back into the quick tier."""

from __future__ import annotations

import ast
import re

from conftest import SLOW


def test_every_name_is_one_of_a_test():
    lines = [line for line in SLOW.read_text("utf-8").splitlines() if not line.startswith("#")]
    assert lines == sorted(set(lines))
    for line in lines:
        if (SLOW.parent / line).is_file():  # all of its tests
            continue
        match = re.fullmatch(r"(test_\w+\.py)::(?:\w+::)?(\w+)(?:\[.*\])?", line)
        assert match is not None, line
        # Methods of the battery are inherited: their file may not hold them.
        files = [SLOW.parent / match[1], SLOW.with_name("battery.py")]
        trees = [ast.parse(file.read_text("utf-8")) for file in files]
        names = {node.name for tree in trees for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        assert match[2] in names, line
