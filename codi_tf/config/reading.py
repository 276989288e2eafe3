"""Experiments from YAML files and plain data, read strictly."""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from pathlib import Path

from codi_tf.config import places
from codi_tf.config.experiment import Experiment
from codi_tf.core.errors import UserError
from codi_tf.core.limits import MAX_SEED
from codi_tf.core.paths import as_path
from codi_tf.core.quiet import check_backend, quiet_import
from codi_tf.core.settings import check_choice, choices_of
from codi_tf.core.showing import bare, shown
from codi_tf.io.starter import has_config
from codi_tf.io.yaml_files import Problem, parse_yaml, read_yaml
from codi_tf.methods import METHODS


def load(path: str | Path, overrides: typing.Sequence[str] = ()) -> Experiment:
    """Read an experiment from YAML.

    Args:
        path: the file.
        overrides: "section.key=value" strings; the values are YAML.

    Raises:
        UserError: for a missing or unreadable file, an unknown key, a value of the wrong type or out of its range.
    """
    check_backend()  # first: this error has nothing to do with the file
    path = as_path(path)
    if not path.exists() and has_config(path.name):
        raise UserError(
            f"{path}: no such config file; `codi init` writes those that come with codi_tf into this folder"
        )
    values = read_yaml(path)
    if not isinstance(values, dict):
        raise UserError(f"{path}: a config is a mapping of sections, for example 'train: {{steps: 100}}'")
    places.resolve(values, path)
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
    sections = arguments_of(Experiment, {**values, "method": _LATER}, "")
    with quiet_import():
        kind = METHODS[method["name"]]
    options = {key: value for key, value in method.items() if key != "name"}
    return Experiment(**{**sections, "method": kind(**arguments_of(kind, options, "method"))})


def from_record(values: dict) -> Experiment:
    """An experiment from the settings that a run wrote, maybe one of an earlier version. Raises UserError as `load`.

    An option that did not exist then has the value that means the same, not today's default.
    """
    train = values.get("train")
    return from_dict({**values, "train": {"result_decay": 0.0, **train}} if isinstance(train, dict) else values)


def _override(values: dict, override: str) -> None:
    """Set one value in place."""
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise UserError(f"{shown(override)} is no override: write section.key=value, for example train.steps=100")
    *sections, last = key.split(".")
    for section in sections:
        values = values.setdefault(section, {})
        if not isinstance(values, dict):
            raise UserError(f"override {shown(override)}: {bare(section)} has no keys below it")
    values[last] = parse_value(override, text)


def parse_value(override: str, text: str):
    """The YAML value after the = of an override. Raises UserError for text that is not YAML."""
    try:
        return parse_yaml(text)
    except Problem as problem:
        if any("\udc80" <= character <= "\udcff" for character in text):  # a path whose bytes are not UTF-8
            return text
        raise UserError(f"override {shown(override)}: {shown(text)} is not a YAML value ({problem})") from None


LARGEST_COUNT = 2**31 - 1  # TensorFlow counts in 32 bits
LARGEST_FLOAT = 3.4e38

_LATER = object()  # stands for the method's settings, which are read last
_NAMES_OF_0_1_0 = {"data.recolour": "recolor"}


def arguments_of(kind: type, values: typing.Any, where: str) -> dict:
    """The arguments of a dataclass, from plain data. Raises UserError for unknown, missing and invalid ones.

    Args:
        kind: the dataclass.
        values: argument -> value.
        where: the name of the values in messages, such as "train".
    """
    if not isinstance(values, dict):
        raise UserError(f"{where} is {shown(values)}: it must be a mapping")
    hints = _hints(kind)
    fields = {f.name: f for f in dataclasses.fields(kind)}
    prefix = f"{where}." if where else ""
    values = {_NAMES_OF_0_1_0.get(f"{prefix}{key}", key): value for key, value in values.items()}
    for key in values:
        if key not in fields:
            close = difflib.get_close_matches(str(key), fields, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"use one of {', '.join(fields)}"
            raise UserError(f"unknown key {bare(f'{prefix}{key}')}: {hint}")
    for name, f in fields.items():
        if name not in values and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
            raise UserError(f"{prefix}{name} is not set")
    return {key: _value(hints[key], value, f"{prefix}{key}") for key, value in values.items()}


def _hints(kind: type) -> dict:
    """The types of a dataclass's fields; Any where a class of the user's own names types that cannot be found."""
    try:
        return typing.get_type_hints(kind)
    except NameError:
        return {f.name: typing.Any for f in dataclasses.fields(kind)}


def _value(hint, value, where: str):
    """Convert a value to the type `hint` of its field. Raises UserError for another type or an invalid choice."""
    if value is _LATER:
        return value
    options = typing.get_args(hint) if typing.get_origin(hint) in (types.UnionType, typing.Union) else (hint,)
    if value is None and type(None) in options:
        return None
    if section := next((kind for kind in options if isinstance(kind, type) and dataclasses.is_dataclass(kind)), None):
        return section(**arguments_of(section, value, where))
    if choices := choices_of(hint):
        check_choice(where, value, choices)
        return value
    # list for list[str]
    kinds = [typing.get_origin(option) or option for option in options if option is not type(None)]
    if tuple in kinds and list not in kinds and isinstance(value, list):
        value = tuple(value)
    if float in kinds and int not in kinds and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    checkable = all(isinstance(kind, type) for kind in kinds)  # a method of the user's own may say Any, or a TypeVar
    if checkable and not any(isinstance(value, bool) == (kind is bool) and isinstance(value, kind) for kind in kinds):
        raise UserError(f"{where} is {shown(value)}: it must be of type {' or '.join(k.__name__ for k in kinds)}")
    if isinstance(value, float) and not abs(value) <= LARGEST_FLOAT:
        raise UserError(f"{where} is {value}: it must be finite, also in float32")
    if isinstance(value, int) and abs(value) > (MAX_SEED if where.endswith("seed") else LARGEST_COUNT):
        raise UserError(f"{where} is {shown(value)}: the number is too large")
    return value
