"""Experiments from YAML files and plain data, read strictly."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import math
import types
import typing
from pathlib import Path

import yaml

from codi_tf.config.experiment import Experiment
from codi_tf.core.errors import UserError
from codi_tf.core.quiet import quiet_import
from codi_tf.core.settings import check_choice, choices_of
from codi_tf.methods import METHODS


def load(path: str | Path, overrides: typing.Sequence[str] = ()) -> Experiment:
    """Read an experiment from YAML.

    Args:
        path: the file.
        overrides: "section.key=value" strings; the values are YAML.

    Raises:
        UserError: for a missing or unreadable file, an unknown key, a value of the wrong type or out of its range.
    """
    path = Path(path)
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such config file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as a config ({error})") from None
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        raise UserError(f"{path}{f', line {where.line + 1}' if where else ''}: not valid YAML") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: a config is a mapping of sections, for example 'train: {{steps: 100}}'")
    for override in overrides:
        _override(values, override)
    try:
        return from_dict(values)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def from_dict(values: dict) -> Experiment:
    """An experiment from plain data. Raises UserError as `load` does.

    The method comes last: its module loads TensorFlow, which takes seconds.
    """
    method = values.get("method")
    names = list(METHODS)
    if not isinstance(method, dict) or "name" not in method:
        raise UserError(f"method.name is not set: use one of {', '.join(names)}")
    check_choice("method.name", method["name"], names)
    sections = _read(Experiment, {**values, "method": _LATER}, "")
    with quiet_import():
        kind = METHODS[method["name"]]
    options = {key: value for key, value in method.items() if key != "name"}
    return Experiment(**{**sections, "method": kind(**_read(kind, options, "method"))})


def _override(values: dict, override: str) -> None:
    """Set one value in place."""
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise UserError(f"{override!r} is no override: write section.key=value, for example train.steps=100")
    *sections, last = key.split(".")
    for section in sections:
        values = values.setdefault(section, {})
        if not isinstance(values, dict):
            raise UserError(f"override {override!r}: {section} has no keys below it")
    values[last] = parse_value(override, text)


def parse_value(override: str, text: str):
    """The YAML value after the = of an override. Raises UserError for text that is not YAML."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        if any("\udc80" <= character <= "\udcff" for character in text):  # a path whose bytes are not UTF-8
            return text
        raise UserError(f"override {override!r}: {text!r} is not a YAML value") from None


_LATER = object()  # stands for the method's settings, which are read last
_NAMES_OF_0_1_0 = {"data.recolour": "recolor"}


def _read(kind: type, values: typing.Any, where: str) -> dict:
    """The arguments of a dataclass, from plain data. Raises UserError for unknown, missing and invalid ones."""
    if not isinstance(values, dict):
        raise UserError(f"{where} is {values!r}: it must be a mapping")
    hints = typing.get_type_hints(kind)
    fields = {f.name: f for f in dataclasses.fields(kind)}
    prefix = f"{where}." if where else ""
    values = {_NAMES_OF_0_1_0.get(f"{prefix}{key}", key): value for key, value in values.items()}
    for key in values:
        if key not in fields:
            close = difflib.get_close_matches(str(key), fields, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"use one of {', '.join(fields)}"
            raise UserError(f"unknown key {prefix}{key}: {hint}")
    for name, f in fields.items():
        if name not in values and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
            raise UserError(f"{prefix}{name} is not set")
    return {key: _value(hints[key], value, f"{prefix}{key}") for key, value in values.items()}


def _value(hint, value, where: str):
    """Convert a value to the type `hint` of its field. Raises UserError for another type or an invalid choice."""
    if value is _LATER:
        return value
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return hint(**_read(hint, value, where))
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if value is None and type(None) in options:
        return None
    if choices := choices_of(hint):
        check_choice(where, value, choices)
        return value
    kind = next(o for o in options if o is not type(None))
    if kind is float and isinstance(value, str):  # YAML 1.1 reads 1e-4 as a string
        with contextlib.suppress(ValueError):
            value = float(value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise UserError(f"{where} is {value!r}: it must be of type {kind.__name__}")
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{where} is {value}: it must be finite")
    return value
