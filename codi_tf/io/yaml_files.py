"""YAML in files and on the command line, read strictly and within bounds. Needs no TensorFlow.

Versions 1.1 and 1.2 of YAML read some plain words differently: `010` is 8 or 10, `1:30` is 90 or a text, `on` is true
or a text. Such words are refused, with the spelling that means the same in both. So are duplicate keys, tags (`!!...`),
and aliases that expand a few lines into too many values.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from yaml.scanner import ScannerError

from codi_tf.core.errors import UserError
from codi_tf.core.showing import bare, clipped, shown
from codi_tf.io.plain_files import read_plain

MOST_BYTES = 1 << 18  # of a file
MOST_VALUES = 10_000  # in a file, those of aliases counted each time
MOST_LEVELS = 32  # of lists and mappings in each other

# The words of YAML 1.2's core schema, https://yaml.org/spec/1.2.2/#103-core-schema, without octal numbers.
_WORDS = {"": None, "~": None} | {
    spelling: value
    for word, value in (("null", None), ("true", True), ("false", False))
    for spelling in (word, word.capitalize(), word.upper())
}
_WHOLE = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_HEXADECIMAL = re.compile(r"0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_LEADING_ZERO = re.compile(r"[-+]?0[0-9][0-9.eE+-]*")  # a number in 1.2, another number or a text in 1.1
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_TEXT, _DATE = "tag:yaml.org,2002:str", "tag:yaml.org,2002:timestamp"  # a date is a text in 1.2, and no trap


class Problem(Exception):
    """Why a text is not taken as YAML, in a few words; `line` counts from 1, None where it is unknown."""

    def __init__(self, reason: str, line: int | None):
        super().__init__(reason)
        self.line = line


def read_yaml(path: Path) -> Any:
    """The value in a YAML file. Raises UserError for a missing or broken file."""
    try:
        text = read_plain(path, MOST_BYTES).decode("utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path}: no such config file") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: cannot be read as a config ({reason})") from None
    try:
        return parse_yaml(text)
    except Problem as problem:
        where = f", line {problem.line}" if problem.line else ""
        raise UserError(f"{path}{where}: not valid YAML ({problem})") from None


def parse_yaml(text: str) -> Any:
    """The value of a text in YAML: None, bool, int, float, str, lists and dicts with str as keys. Raises Problem."""
    try:
        node = yaml.compose(text, Loader=_Loader)
        return None if node is None else _value(node, MOST_LEVELS, itertools.count(1))
    except RecursionError:
        raise Problem(f"it is nested more than {MOST_LEVELS} levels deep", None) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        reason = getattr(error, "problem", None) or getattr(error, "reason", None) or error
        raise Problem(clipped(" ".join(str(reason).split()), 200), mark.line + 1 if mark else None) from None


def yaml_text(value: dict) -> str:
    """Plain data as YAML, in the order of their keys. `parse_yaml` reads the same data from it."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False)


class _Dumper(yaml.SafeDumper):
    """PyYAML's, with quotes around every text that is another value in some version of YAML."""

    def ignore_aliases(self, data):
        return True


def _write_text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    try:
        quoted = "\n" not in text and _plain(text, dumper.resolve(yaml.ScalarNode, text, (True, False)), 0) != text
    except Problem:
        quoted = True
    return dumper.represent_scalar(_TEXT, text, style="'" if quoted else None)


_Dumper.add_representer(str, _write_text)


class _Loader(yaml.SafeLoader):
    """PyYAML's, without tags."""

    def fetch_tag(self):
        raise ScannerError(None, None, "a word that begins with ! must be in quotes", self.get_mark())


def _value(node: yaml.Node, levels: int, count: Iterator[int]) -> Any:
    line = node.start_mark.line + 1
    if next(count) > MOST_VALUES:
        raise Problem(f"it holds more than {MOST_VALUES:,} values, with its aliases", line)
    if levels < 0:
        raise Problem(f"it is nested more than {MOST_LEVELS} levels deep", line)
    if isinstance(node, yaml.ScalarNode):
        return node.value if node.style else _plain(node.value, node.tag, line)
    if isinstance(node, yaml.SequenceNode):
        return [_value(item, levels - 1, count) for item in node.value]
    found = {}
    for key_node, value_node in node.value:
        key, at = _value(key_node, levels - 1, count), key_node.start_mark.line + 1
        if not isinstance(key, str):
            raise Problem(f"the key {shown(key)} is no text: put it in quotes", at)
        if key in found:
            raise Problem(f"the key {shown(key)} stands there twice", at)
        found[key] = _value(value_node, levels - 1, count)
    return found


def _plain(word: str, tag: str, line: int) -> Any:
    """The value of a word without quotes. `tag`: what it is in YAML 1.1."""
    if word in _WORDS:
        return _WORDS[word]
    if _NOT_FINITE.fullmatch(word):
        raise Problem(f"{word} is no finite number", line)
    if _WHOLE.fullmatch(word) or _HEXADECIMAL.fullmatch(word) or _FLOAT.fullmatch(word):
        if len(word) > 300 or not math.isfinite(float(int(word, 16)) if "x" in word else float(word)):
            raise Problem(f"{shown(word)} is beyond the range of numbers", line)
        return int(word, 16) if "x" in word else int(word) if _WHOLE.fullmatch(word) else float(word)
    if _LEADING_ZERO.fullmatch(word) or tag not in (_TEXT, _DATE):
        raise Problem(f"{shown(word)} means different things in versions of YAML: {_remedy(word)}", line)
    return word


def _remedy(word: str) -> str:
    if word.lower() in ("yes", "on", "no", "off"):
        return f'write {"true" if word.lower() in ("yes", "on") else "false"}, or "{word}" for the text'
    if word in ("<<", "="):
        return "put it in quotes"
    return f'write the number with its digits alone, without zeros in front, or "{bare(word)}" for the text'
