"""What a file may hold, as data: types, ranges and sizes of the values in a JSON object. Needs no TensorFlow.

    SCHEMA = Record({"image_size": Whole(1, 8192), "task": Record({"name": Text()})})
    check(read_json(path), SCHEMA, path, "make the bundle again")

The whole file is checked before any of its values is used, so no size is used before it is known to be in bounds.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from codi_tf.core.errors import UserError
from codi_tf.core.showing import bare, shown


class Schema(Protocol):
    """What a value may be."""

    def check(self, value: object, name: str) -> None:
        """Raise Misfit for a value that is not allowed; `name` is what messages call it."""
        ...


class Misfit(ValueError):
    """A value that a schema does not allow. The message names the value and what is allowed."""


def check(value: object, schema: Schema, path: object, remedy: str) -> None:
    """Raise UserError, with the path of the file and the remedy, for a value that its schema does not allow."""
    try:
        schema.check(value, "")
    except Misfit as misfit:
        raise UserError(f"{path}: {misfit}; {remedy}") from None


@dataclass(frozen=True)
class Anything:
    """Any value; other code checks it."""

    def check(self, value: object, name: str) -> None:
        pass


@dataclass(frozen=True)
class Whole:
    """A whole number from `least` to `most`."""

    least: int
    most: int

    def check(self, value: object, name: str) -> None:
        if type(value) is not int or not self.least <= value <= self.most:
            raise _misfit(name, value, f"a whole number from {self.least} to {self.most}")


@dataclass(frozen=True)
class Number:
    """A finite number from `least` to `most`."""

    least: float = -math.inf
    most: float = math.inf

    def check(self, value: object, name: str) -> None:
        number = value if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
        if not (self.least <= number <= self.most and abs(number) < math.inf):
            limited = math.isfinite(self.least) and math.isfinite(self.most)
            raise _misfit(name, value, "a finite number" + f" from {self.least:g} to {self.most:g}" * limited)


@dataclass(frozen=True)
class Text:
    """A text of at most `most` characters and, if a pattern is given, of that form; `what` says the form in words."""

    most: int = 4096
    pattern: str = r"(?s:.*)"
    what: str = "a text"

    def check(self, value: object, name: str) -> None:
        if not isinstance(value, str) or len(value) > self.most or not re.fullmatch(self.pattern, value):
            raise _misfit(name, value, f"{self.what} of at most {self.most} characters")


SHA256 = Text(64, "[0-9a-f]{64}", "a SHA-256")


@dataclass(frozen=True)
class OneOf:
    """One of some values: texts, numbers, True or False, None."""

    values: tuple

    def check(self, value: object, name: str) -> None:
        if not any(type(value) is type(one) and value == one for one in self.values):
            raise _misfit(name, value, " or ".join(map(repr, self.values)))


FLAG = OneOf((True, False))


@dataclass(frozen=True)
class Nullable:
    """None, or what another schema allows."""

    item: Schema

    def check(self, value: object, name: str) -> None:
        if value is not None:
            self.item.check(value, name)


@dataclass(frozen=True)
class Each:
    """A list of `least` to `most` values that `item` allows."""

    item: Schema
    least: int
    most: int

    def check(self, value: object, name: str) -> None:
        if not isinstance(value, list) or not self.least <= len(value) <= self.most:
            count = f"{self.least}" if self.least == self.most else f"{self.least} to {self.most}"
            raise _misfit(name, value, f"a list of {count}")
        for number, one in enumerate(value):
            self.item.check(one, f"{name}[{number}]")


@dataclass(frozen=True)
class Keyed:
    """An object of at most `most` names and values that `item` allows."""

    item: Schema
    least: int = 0
    most: int = 10_000

    def check(self, value: object, name: str) -> None:
        if not isinstance(value, dict) or not self.least <= len(value) <= self.most:
            raise _misfit(name, value, f"an object of {self.least} to {self.most} entries")
        for key, one in value.items():
            self.item.check(one, f"{name}.{bare(key)}")


@dataclass(frozen=True)
class Record:
    """An object with these entries and, where they are there, optional ones. Others are allowed, and not used."""

    entries: Mapping[str, Schema]
    optional: Mapping[str, Schema] = field(default_factory=dict)

    def check(self, value: object, name: str) -> None:
        if not isinstance(value, dict):
            raise _misfit(name, value, "an object")
        prefix = f"{name}." if name else ""
        for key in self.entries:
            if key not in value:
                raise Misfit(f"{prefix}{key} is missing")
        for key, schema in {**self.entries, **self.optional}.items():
            if key in value:
                schema.check(value[key], f"{prefix}{key}")


def _misfit(name: str, value: object, wanted: str) -> Misfit:
    return Misfit(f"{name or 'it'} is {shown(value)}: it must be {wanted}")
