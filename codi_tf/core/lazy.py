"""TensorFlow, imported at its first use.

Command lines import the modules that declare tasks and other entries before they check the user's input. They must not
wait for TensorFlow.
"""

from __future__ import annotations

import importlib
import types
from typing import TYPE_CHECKING, Any


class _Lazy(types.ModuleType):
    """A stand-in for a module, which is imported when one of its attributes is used."""

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.import_module(self.__name__), name)


if TYPE_CHECKING:
    import tensorflow
else:
    tensorflow = _Lazy("tensorflow")
