"""Calibration: the ranges of activations on the sampler's own trajectory, and the kernels that stay float.

Both come from the whole sampler with its steps unrolled, run in ONNX Runtime on the user's images, whatever format
the package has.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from export.emit import sampler
from export.emit.conditions import calibration_inputs
from export.emit.program import SamplerProgram
from export.formats.format import Run, Tensors
from export.formats.onnx.calibrated import Observing, Switching
from export.formats.onnx.graph import OnnxGraph
from export.formats.runtimes.onnx_runtime import load_as_written
from export.formats.threads import default_threads
from export.quantization.activations import Calibrated, Place, Range
from export.quantization.sensitivity import floats

IMAGES = 4  # the first of the images: for the search of the kernels that stay float, and not for ranges


def calibrated(programs: Sequence[SamplerProgram], kind: str, source: str, layout: str, psnr: float) -> Calibrated:
    """`calibrate` with images of a source, for packages of a layout.

    Raises:
        UserError: see `calibration_inputs` and `calibrate`.
    """
    inputs = [calibration_inputs(program, source) for program in programs]
    return calibrate(programs, kind, inputs, each_step=layout == "whole", psnr=psnr)


def calibrate(
    programs: Sequence[SamplerProgram], kind: str, inputs: Sequence[Sequence[Tensors]], *, each_step: bool, psnr: float
) -> Calibrated:
    """Find the ranges of activations, and the kernels that stay float so that images keep a PSNR.

    Args:
        programs: one for every size.
        kind: one of CALIBRATED.
        inputs: for every program its inputs with each image, as `calibration_inputs` makes them; more than IMAGES.
        each_step: whether each step has ranges of its own, as in one graph with all steps.
        psnr: dB of images, at least, against those of float kernels and activations.

    Raises:
        UserError: the PSNR is missed.
    """
    ranges: dict[Place, Range] = {}
    for program, cases in zip(programs, inputs, strict=True):
        for found in _observed(program, kind, cases[IMAGES:]):
            ranges = {place: ranges.get(place, numbers) | numbers for place, numbers in found.items()}
    formats = Calibrated(kind, ranges, each_step=each_step)
    with tempfile.TemporaryDirectory() as folder:
        rounding = Switching(formats)
        run = _loaded(programs[0], OnnxGraph(formats, calibrating=rounding), Path(folder))
        images = functools.partial(_images, run, rounding.inputs, inputs[0][:IMAGES])
        expected = images(frozenset())

        def error(kernels: frozenset[str]) -> float:
            return float(np.square(images(kernels) - expected).mean(axis=(1, 2, 3)).max())  # of the worst image

        kept = floats(list(rounding.inputs), error, psnr)
    return Calibrated(kind, ranges, floats=kept, each_step=each_step)


def _observed(program: SamplerProgram, kind: str, cases: Sequence[Tensors]) -> list[dict[Place, Range]]:
    """The ranges on each input."""
    observing = Observing()
    with tempfile.TemporaryDirectory() as folder:
        run = _loaded(program, OnnxGraph(Calibrated(kind, {}), calibrating=observing), Path(folder))
        return [observing.ranges(run(case)) for case in cases]


def _images(run: Run, switches: dict[str, str], cases: Sequence[Tensors], kernels: frozenset[str]) -> np.ndarray:
    """The images of inputs with these kernels rounded, [N, H, W, 3] in [0, 1]."""
    states = {name: np.array(path in kernels) for path, name in switches.items()}
    return np.concatenate([run({**case, **states})["image"] for case in cases])


def _loaded(program: SamplerProgram, graph: OnnxGraph, folder: Path) -> Run:
    """The whole sampler of a program in ONNX Runtime."""
    sampler.whole(graph, program)
    graph.write(folder / "model.onnx")
    return load_as_written(folder / "model.onnx", default_threads())
