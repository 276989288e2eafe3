"""JSON objects in files. Needs no TensorFlow."""

from __future__ import annotations

import json
import os
from pathlib import Path

from codi_tf.core.errors import UserError


def read_json(path: Path) -> dict:
    """A JSON object from a file. Raises UserError for a missing or broken file."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; is {path.parent} a complete model folder?") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not readable as JSON ({error}); copy or make it again") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: holds no JSON object; copy or make it again")
    return value


def write_json(path: Path, value: dict) -> None:
    """Write a JSON object. The file appears whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    os.replace(partial, path)
