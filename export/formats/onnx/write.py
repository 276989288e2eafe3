"""Writing ONNX files."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path

import onnx

from export.emit.program import SamplerProgram
from export.formats.form import PLAIN, Form
from export.formats.onnx.calibrated import Rounding
from export.formats.onnx.graph import OnnxGraph, bodies
from export.formats.onnx.half import HalfGraph
from export.formats.onnx.store import Store
from export.quantization.activations import Calibrated
from export.quantization.weights import WeightFormats


def write(
    programs: Sequence[SamplerProgram],
    emit: Callable[[OnnxGraph, SamplerProgram], None],
    path: Path,
    weight_formats: WeightFormats,
    form: Form = PLAIN,
) -> list[dict]:
    """Write one file per program; the programs differ in their size only. See `Format.write`.

    Weights of several graphs, or more than a gibibyte of weights, go into separate files, each weight once.
    """
    made, kind = [], HalfGraph if form.in_half else OnnxGraph
    with Store(path) if len(programs) > 1 else contextlib.nullcontext() as store:
        for place, program in enumerate(programs):
            calibrated = isinstance(weight_formats, Calibrated)
            rounding = Rounding(weight_formats, signed=form.portable) if calibrated else None
            graph, file = kind(weight_formats, form, rounding), path
            if place:
                file = path.with_stem(f"{path.stem}-{program.height}x{program.width}")
            emit(graph, program)
            graph.write(file, store)
            made.append({"file": file, **graph.signature})
    return made


def stored_bytes(path: Path) -> int:
    """Bytes of all constants of an ONNX file, external weight files included."""
    graph = onnx.load(path, load_external_data=False).graph
    return sum(_bytes(tensor) for part in (graph, *bodies(graph.node)) for tensor in part.initializer)


def _bytes(tensor: onnx.TensorProto) -> int:
    outside = {entry.key: entry.value for entry in tensor.external_data}
    return int(outside["length"]) if outside else len(tensor.raw_data)
