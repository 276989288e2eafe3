"""TensorFlow, imported at its first use.

Modules that declare something, as a task, are imported to read the declaration: a command line does so before it
checks the user's input, and must not wait for TensorFlow.
"""

from __future__ import annotations

import importlib
import types
from typing import Any


class _Lazy(types.ModuleType):
    """Stands for a module until one of its attributes is used."""

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.import_module(self.__name__), name)


tensorflow: Any = _Lazy("tensorflow")
