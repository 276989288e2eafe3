"""Registries: entries of one kind by their names, found by reading a folder and imported when they are used.

A module declares an entry with a decorator, and no other file needs a change:

    @TASKS.register("depth")
    class Depth(Task): ...

The registry reads the modules of its package as text, so all names are known before any of them is imported. Modules
from outside join once they are imported: by the user's program, by the environment variable CODI_TF_PLUGINS
("my_tasks,my_metrics"), or by an installed package's entry point in the group "codi_tf.plugins".
"""

from __future__ import annotations

import ast
import difflib
import functools
import importlib
import importlib.metadata
import importlib.util
import os
import pkgutil
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar, cast

from codi_tf.core.errors import UserError
from codi_tf.core.quiet import quiet_import

PLUGINS = "CODI_TF_PLUGINS"
ENTRY_POINTS = "codi_tf.plugins"
T = TypeVar("T")
Entry = TypeVar("Entry")  # of T, with its own type: a decorated class keeps it


class Registry(Generic[T]):
    """Entries of one kind by their names.

    Args:
        kind: the word for an entry in messages, such as "task".
        variable: the name of the registry in source code, such as "TASKS".
        package: the package whose modules declare the built-in entries.

    The first use that needs entries from outside raises UserError for a plug-in that cannot be imported.
    """

    def __init__(self, kind: str, variable: str, package: str):
        self.kind, self.variable, self.package = kind, variable, package
        self._entries: dict[str, T] = {}

    def register(self, name: str) -> Callable[[Entry], Entry]:
        """A decorator that declares an entry. Raises UserError for a name that another entry has."""

        def declare(entry: Entry) -> Entry:
            there = self._entries.get(name)
            reloaded = getattr(there, "__qualname__", None) == getattr(entry, "__qualname__", "")
            if there is not None and not reloaded:
                raise UserError(f"{self.kind} {name!r} is registered already: choose another name")
            self._entries[name] = cast(T, entry)  # an entry of the registry that keeps its own type
            return entry

        return declare

    def __iter__(self) -> Iterator[str]:
        """Iterate over all names: those of the package by module, without importing it, then those from outside."""
        _import_plugins()
        return iter(dict.fromkeys([*self._modules, *self._entries]))

    def __contains__(self, name: object) -> bool:
        return name in list(self)

    def __getitem__(self, name: str) -> T:
        """The entry with a name. Raises UserError for an unknown name."""
        if name not in self._entries and name in self._modules:
            importlib.import_module(self._modules[name])
        if name not in self._entries:
            _import_plugins()
        if name not in self._entries:
            raise UserError(self.unknown(name))
        return self._entries[name]

    def name_of(self, entry: T) -> str:
        """The name of an entry. Raises UserError for an entry that is not registered."""
        for name, known in self._entries.items():
            if known is entry:
                return name
        title = getattr(entry, "__name__", repr(entry))
        raise UserError(f"{self.kind} {title} is not registered: decorate it with {self.variable}.register(NAME)")

    def unknown(self, name: object) -> str:
        """The error message for an unknown name, in one line."""
        close = difflib.get_close_matches(str(name), list(self), n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        return f"unknown {self.kind} {name!r}: {hint}known are {', '.join(self)}; others must be imported first"

    @functools.cached_property
    def _modules(self) -> dict[str, str]:
        """name -> module, of the package, read from the sources."""
        spec, found = importlib.util.find_spec(self.package), {}
        assert spec is not None  # the package declares this registry
        for module in pkgutil.iter_modules(spec.submodule_search_locations):
            source = cast(Any, module.module_finder).find_spec(module.name, None).loader.get_source(module.name)
            for name in _declared(source or "", self.variable):
                found[name] = f"{self.package}.{module.name}"
        return found


def _declared(source: str, variable: str) -> list[str]:
    """The names in decorators `@VARIABLE.register("name")` of a module."""
    names = []
    for node in ast.parse(source).body:
        for decorator in getattr(node, "decorator_list", ()):
            match decorator:
                case ast.Call(ast.Attribute(ast.Name(owner), "register"), [ast.Constant(str(name))]):
                    names += [name] if owner == variable else []
    return names


@functools.cache
def _import_plugins() -> None:
    """Import the modules that the environment and installed packages name. Raises UserError for one that is missing."""
    modules = [name.strip() for name in os.environ.get(PLUGINS, "").split(",") if name.strip()]
    points = importlib.metadata.entry_points(group=ENTRY_POINTS)
    with quiet_import():  # they may bring TensorFlow with them
        for module in modules:
            try:
                importlib.import_module(module)
            except ImportError as error:
                raise UserError(
                    f"{PLUGINS} names {module!r}, which cannot be imported ({error}): "
                    "correct the name, or add the module's folder to PYTHONPATH"
                ) from None
        for point in points:
            try:
                point.load()
            except (ImportError, AttributeError) as error:
                raise UserError(
                    f"the plug-in {point.value!r} of an installed package cannot be imported ({error}): "
                    "repair or uninstall the package"
                ) from None
