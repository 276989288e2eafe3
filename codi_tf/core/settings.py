"""Settings as dataclasses: checks of fields of type Literal, and registered settings as plain data."""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from typing import Any

from codi_tf.core.errors import UserError
from codi_tf.core.registry import Registry
from codi_tf.core.showing import shown


def check_choices(settings: Any, prefix: str = "") -> None:
    """Check all fields of a dataclass whose type is Literal[...]; `prefix`, as "train.", precedes names in messages.

    Raises:
        UserError: a value is none of the choices.
    """
    for name, choices in _choices_of_class(type(settings)).items():
        check_choice(f"{prefix}{name}", getattr(settings, name), choices)


def check_choice(name: str, value: object, choices: typing.Collection) -> None:
    """Raise UserError for a value that is none of the choices."""
    if not any(value == choice and type(value) is type(choice) for choice in choices):
        raise UserError(f"{name} is {shown(value)}: use one of {', '.join(map(str, choices))}")


def choices_of(hint: Any) -> tuple:
    """The values that a type Literal[...] allows, alone or in a union with None; () for other types."""
    if typing.get_origin(hint) is typing.Literal:
        return typing.get_args(hint)
    if isinstance(hint, types.UnionType) and any(choices_of(option) for option in typing.get_args(hint)):
        return tuple(c for option in typing.get_args(hint) for c in (choices_of(option) or (None,)))
    return ()


def named(registry: Registry, settings: Any) -> dict:
    """Settings as plain data: {"name": the name of their class in the registry, option: value, ...}.

    Raises:
        UserError: the class is not registered, or is no dataclass, so its options are unknown.
    """
    name, title = registry.name_of(type(settings)), type(settings).__name__
    if not dataclasses.is_dataclass(settings) or isinstance(settings, type):
        raise UserError(
            f"{registry.kind} {title} is no dataclass: add @dataclass(frozen=True), so that it can be saved"
        )
    return {"name": name, **dataclasses.asdict(settings)}


@functools.cache
def _choices_of_class(kind: type) -> dict[str, tuple]:
    hints = typing.get_type_hints(kind)
    found = {field.name: choices_of(hints[field.name]) for field in dataclasses.fields(kind)}
    return {name: choices for name, choices in found.items() if choices}
