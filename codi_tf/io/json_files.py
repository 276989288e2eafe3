"""JSON in files, also those of other people: read strictly, and within bounds. Needs no TensorFlow.

Large files, deep nesting, duplicate keys, NaN, Infinity and lone surrogates are refused. Python's own reader accepts
all of these, and each of them fails later, elsewhere, or changes what a file says.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections import Counter
from pathlib import Path
from typing import Any

from codi_tf.core.errors import UserError
from codi_tf.core.showing import clipped, shown
from codi_tf.io.plain_files import read_plain

MOST_BYTES = 1 << 24  # of a file: the JSON of the largest tokenizers and headers has a quarter of it
MOST_LEVELS = 64  # of lists and objects in each other
_HALF = re.compile(r"\\u[dD][89a-fA-F]")  # of a character, unless the other half follows


def read_json(path: Path) -> dict:
    """A JSON object from a file. Raises UserError for a missing or broken file."""
    return parse_json(_content(path, MOST_BYTES), path)


def read_json_list(path: Path, *, most_bytes: int = MOST_BYTES) -> list:
    """A JSON list from a file of at most `most_bytes`. Raises UserError for a missing or broken file."""
    value = parse_value(_content(path, most_bytes), path)
    if not isinstance(value, list):
        raise UserError(f"{path}: holds no JSON list; copy or make it again")
    return value


def parse_json(content: bytes | str, name: object, *, with_nan: bool = False) -> dict:
    """A JSON object from a text, in UTF-8. Raises UserError for anything else; the message begins with `name`.

    `with_nan`: whether NaN and Infinity, which are no JSON, are read, too.
    """
    value = parse_value(content, name, with_nan=with_nan)
    if not isinstance(value, dict):
        raise UserError(f"{name}: holds no JSON object; copy or make it again")
    return value


def parse_value(content: bytes | str, name: object, *, with_nan: bool = False) -> Any:
    """Any JSON value from a text, in UTF-8. See `parse_json`."""
    try:
        text = content if isinstance(content, str) else content.decode("utf-8-sig")
        value = json.loads(
            text,
            object_pairs_hook=_without_repeats,
            parse_constant=float if with_nan else _finite,
            parse_float=lambda digits: float(_finite(digits)),
            parse_int=lambda digits: int(_finite(digits)),
        )
        if not is_nested_within(value, MOST_LEVELS):
            raise RecursionError
        if _HALF.search(text):
            # fails for half of a character, but not for what `os.fsdecode` puts in place of a byte of a file's name
            json.dumps(value, ensure_ascii=False).encode(errors="surrogateescape")
    except RecursionError:
        raise _refusal(name, f"it is nested more than {MOST_LEVELS} levels deep") from None
    except UnicodeEncodeError:
        raise _refusal(name, "a text in it holds half of a character") from None
    except ValueError as error:
        raise _refusal(name, clipped(str(error), 200)) from None
    return value


def check_plain(what: object, values: dict) -> None:
    """Raise UserError for values that cannot be saved as JSON, as NaN; the message begins with `what`."""
    for key, value in values.items():
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError):
            raise UserError(
                f"{what}: {key} is {shown(value)}, which cannot be saved: use finite numbers, texts, lists and "
                "dictionaries"
            ) from None


def without_nan(value: Any) -> Any:
    """Measured figures as JSON can hold them: None, its null, in place of NaN and infinity."""
    if isinstance(value, dict):
        return {key: without_nan(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_json(path: Path, value: dict) -> None:
    """Write a JSON object. The file appears whole or not at all. Raises UserError as `check_plain`."""
    check_plain(path, value)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    os.replace(partial, path)


def is_nested_within(value: object, levels: int) -> bool:
    """Whether a value of dicts and lists has at most so many levels of them. Needs no recursion."""
    level = [value]
    for _ in range(levels + 1):
        level = [
            child
            for one in level
            if isinstance(one, dict | list)
            for child in (one.values() if isinstance(one, dict) else one)
            if isinstance(child, dict | list)
        ]
        if not level:
            return True
    return False


def _content(path: Path, most: int) -> bytes:
    try:
        return read_plain(path, most)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; is {path.parent} a complete model folder?") from None
    except OSError as error:
        raise _refusal(path, error.strerror or error) from None


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict:
    found = dict(pairs)
    if len(found) < len(pairs):
        count = Counter(key for key, _ in pairs)
        twice = max(count, key=lambda key: count[key])
        raise ValueError(f"the key {shown(twice)} stands there twice")
    return found


def _finite(digits: str) -> str:
    """The digits of a number. Raises ValueError for one that float64 cannot hold, and for NaN and Infinity."""
    if not math.isfinite(float(digits)):
        raise ValueError(f"{shown(digits)} is no finite number")
    return digits


def _refusal(name: object, reason: object) -> UserError:
    return UserError(f"{name}: not readable as JSON ({reason}); copy or make it again")
