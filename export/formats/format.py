"""`Format`: the base class of file formats. Imports no TensorFlow."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import numpy as np

from codi_tf.core.errors import UserError
from export.emit.graph import Graph
from export.formats import FORMATS
from export.formats.form import COMPUTES, OPSETS, PORTABLE, Form
from export.quantization.weights import WeightFormats

SamplerProgram: TypeAlias = Any  # that of `export.emit.program`, which imports TensorFlow
SIGNATURE = "serving_default"  # of the first graph in a file that holds several
MIXED = "mixed"  # the weight format of packages that choose one for each kernel
Tensors = dict[str, np.ndarray]
Run = Callable[[Tensors], Tensors]  # a graph in its runtime
Emit = Callable[[Graph, SamplerProgram], None]  # adds a program, or a part of it, to a graph


@dataclass(frozen=True)
class GraphFile:
    """A graph of a package: its file, the names of its inputs, and which of the file's graphs it is."""

    path: Path
    inputs: tuple[str, ...]
    signature: str = SIGNATURE


class Format:
    """Base class of file formats. Formats are never instantiated: everything belongs to the class.

    Attributes:
        suffix: the end of a graph's path.
        weight_formats: number formats in which it can store kernels, of `export.quantization.weights`.
        mixed_formats: those of them that mixed weights choose from, most bits first; none: it cannot mix.
        calibrated_formats: further ones, of `export.quantization.activations`, for which images are needed.
        layouts: "whole", one graph, and "parts", one graph for each part of the sampler.
        profiles: the readers that graphs can be written for, the default first; none: there is nothing to choose.
        has_loop: whether the steps of a whole sampler are a loop.
        max_graph: bytes of weights that a graph can hold; a larger step is written in two halves.
        makers: Python packages whose versions the manifest names.
        requires: further requirements of writing, module -> name of its package on PyPI.
        runtimes: names of `RUNTIMES` that run its graphs, the default first.
    """

    suffix: ClassVar[str]
    weight_formats: ClassVar[tuple[str, ...]] = ("float32",)
    mixed_formats: ClassVar[tuple[str, ...]] = ()
    calibrated_formats: ClassVar[tuple[str, ...]] = ()
    layouts: ClassVar[tuple[str, ...]] = ("whole",)
    profiles: ClassVar[tuple[str, ...]] = ()
    has_loop: ClassVar[bool] = False
    max_graph: ClassVar[float] = math.inf
    makers: ClassVar[tuple[str, ...]] = ("tensorflow", "keras")
    requires: ClassVar[Mapping[str, str]] = {}
    runtimes: ClassVar[tuple[str, ...]]

    @staticmethod
    def write(programs: Sequence[SamplerProgram], emit: Emit, path: Path, weight_formats: WeightFormats) -> list[dict]:
        """Write a graph of one or several programs, which differ in their size only.

        Returns:
            for each program "file" and, where a file holds several, "signature"; and "inputs" and "outputs", by name
            their shapes and dtypes.
        """
        raise NotImplementedError

    @classmethod
    def writer(cls, form: Form) -> Callable[..., list[dict]]:
        """`write` for graphs in this form; formats with `profiles` have several."""
        return cls.write

    @staticmethod
    def stored_bytes(path: Path) -> int:
        """Bytes of all constants in a graph's file and in its external weight files."""
        raise NotImplementedError

    @staticmethod
    def new_graph() -> Graph | None:
        """An empty graph, to count a program's operations; None for formats that are not written from graphs."""
        return None

    @classmethod
    def weight_choices(cls) -> tuple[str, ...]:
        """The values of the option `weights`."""
        return (*cls.weight_formats, *cls.calibrated_formats, *([MIXED] if cls.mixed_formats else []))

    @classmethod
    def profile_of(cls, form: Form) -> str | None:
        """The profile of graphs in this form; None for a format without profiles."""
        return form.profile or next(iter(cls.profiles), None)

    @classmethod
    def check_form(cls, form: Form, layout: str, weights: str) -> None:
        """Raise UserError for a form that the format does not offer, or not with this layout or these weights."""
        name = FORMATS.name_of(cls)
        if form.profile is not None and form.profile not in cls.profiles:
            offers = f"{name} offers {', '.join(cls.profiles)}" if cls.profiles else f"{name} has none; leave it out"
            raise UserError(f"profile is {form.profile!r}: {offers}")
        if form.compute not in COMPUTES:
            raise UserError(f"compute is {form.compute!r}: use {' or '.join(COMPUTES)}")
        if form.in_half and not form.portable:
            raise UserError(f"compute is 'float16': it takes --format onnx --profile {PORTABLE}")
        if form.in_half and weights != form.default_weights:
            raise UserError(f"weights is {weights!r}: a graph that computes in float16 holds float16; leave it out")
        if form.opset is not None and not form.portable:
            raise UserError(f"opset is {form.opset}: only --profile {PORTABLE} leaves a choice; leave it out")
        if form.opset is not None and form.opset not in OPSETS:
            raise UserError(f"opset is {form.opset}: use {' or '.join(map(str, OPSETS))}")
        if form.unrolled and not (cls.has_loop and layout == "whole"):
            raise UserError(f"unrolled: {name} has no loop in the layout {layout}; leave it out")

    @classmethod
    def check_installed(cls) -> None:
        """Raise UserError if a package that writing needs is not installed."""
        for module, package in cls.requires.items():
            try:
                importlib.import_module(module)
            except ModuleNotFoundError:
                name = FORMATS.name_of(cls)
                raise UserError(f"format {name} needs the package {package}: pip install {package}") from None


def signatures(programs: Sequence[SamplerProgram]) -> list[str]:
    """The names of programs of several sizes in a file that holds them all; the first is the default."""
    return [SIGNATURE, *(f"serving_{program.height}x{program.width}" for program in programs[1:])]
