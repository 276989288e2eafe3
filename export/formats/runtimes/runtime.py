"""`Runtime`: the base class of runtimes. Imports no TensorFlow."""

from __future__ import annotations

import importlib
import math
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import ClassVar

from codi_tf.core.errors import UserError
from export.formats.format import GraphFile, Run


@dataclass(frozen=True)
class RunOptions:
    """How a runtime runs a graph.

    Attributes:
        threads: of the processor.
        compute: the number format of what it computes, one of the runtime's `computes`.
        provider: where it computes, one of the runtime's `providers()`.
        cache: a folder for compiled graphs, for runtimes that have one.
    """

    threads: int = 1
    compute: str = "float32"
    provider: str = "cpu"
    cache: Path | None = None


class Runtime:
    """Base class of runtimes. Runtimes are never instantiated: everything belongs to the class.

    Attributes:
        title: its name in messages.
        module: what it is imported as.
        package: what it is called on PyPI.
        computes: the number formats that a graph's float32 can be computed in, the default first.
        max_threads: threads beyond which it gets slower rather than faster.
        caches: whether it can keep compiled graphs.
        needs_tensorflow: whether it is TensorFlow.
    """

    title: ClassVar[str]
    module: ClassVar[str]
    package: ClassVar[str]
    computes: ClassVar[tuple[str, ...]] = ("float32",)
    max_threads: ClassVar[float] = math.inf
    caches: ClassVar[bool] = False
    needs_tensorflow: ClassVar[bool] = False

    @classmethod
    def providers(cls) -> tuple[str, ...]:
        """Where it can compute on this machine, in lower case, in its own order. Raises UserError if not installed."""
        cls.installed()
        return ("cpu",)

    @classmethod
    def load(cls, graph: GraphFile, options: RunOptions) -> Run:
        """Load a graph. What is returned may be called by several threads at a time.

        Raises UserError if the runtime is not installed, or computes neither there nor so.
        """
        raise NotImplementedError

    @classmethod
    def installed(cls, graph: GraphFile | None = None) -> ModuleType:
        """The runtime's Python module. Raises UserError, which names the graph that needs it, if it is missing."""
        try:
            return importlib.import_module(cls.module)
        except ModuleNotFoundError:
            what = f"{cls.title} is not installed" if graph is None else f"{graph.path}: needs {cls.title}"
            raise UserError(f"{what}: pip install {cls.package}") from None
