"""python -m benchmarks.full_export FOLDER [onnx/whole/float32 onnx/whole/float32/portable ...]: full-size exports.

UNet, mu adapter and autoencoder of Stable Diffusion 1.x with random weights, 512 px, four steps. Each export is
written, which is timed, and passes through the gate in all its runtimes, in another process; then its report is
written. Random weights are more sensitive to rounding than trained ones, so a package stays that the gate refuses, and
the table says what the gate says. FOLDER keeps everything; what is done there is not done again.
"""

from __future__ import annotations

import json
import math
import pickle
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from codi_tf.core.command_line import ArgumentParser, run_command, start_tensorflow
from export.formats import FORMATS
from export.formats.form import Form
from export.package.manifest import MANIFEST, check_options, read_package
from export.parity.measure import peak
from export.quantization.activations import CALIBRATED

EXPORTS = (
    *(f"onnx/whole/{weights}" for weights in ("float32", "float16", "int8", "int4")),
    *(f"onnx/parts/{how}" for how in ("float32/portable", "float16/portable/in-float16", "w8a8/portable")),
    *(f"tflite/parts/{weights}" for weights in ("float32", "float16", "int8", "float16/gpu")),
    "tflite/whole/int8",
)
SMALL, OPSET, HALF = "small-decoder", "opset-23", "in-float16"  # further words of names
COLUMNS = ("export", "written in", "peak of writing", "files", "runtime", "PSNR", "parts", "peak of running", "gate")
STEPS, SIZE = 4, 512
REFERENCE = "reference.pickle"
OF_PARTS = "onnx/parts/float32/portable"  # must be there for calibrated ones


class Export(NamedTuple):
    """What the name of an export says: FORMAT/LAYOUT/WEIGHTS, then a profile, SMALL, OPSET, HALF, in any order."""

    format: str
    layout: str
    weights: str
    form: Form
    small: bool

    @classmethod
    def named(cls, name: str) -> Export:
        """Raises UserError for what the format does not offer."""
        format, layout, weights, *words = name.split("/")
        profile = next((word for word in words if word not in (SMALL, OPSET, HALF)), None)
        form = Form(profile, 23 if OPSET in words else None, "float16" if HALF in words else "float32")
        check_options(format, weights, layout, form)
        return cls(format, layout, weights, form, SMALL in words)

    @property
    def runtimes(self) -> tuple[str, ...]:
        """In which the gate runs it beside its format's own."""
        if not self.form.portable or self.form.in_half:
            return ()
        return ("openvino",) if self.weights in CALIBRATED else ("openvino", "openvino:bfloat16")


def make_model(small_decoder: bool = False):
    """A CoDi model with random weights, the same each time; with a small decoder in TAESD's shapes if wanted."""
    import keras
    import numpy as np

    import codi_tf
    from codi_tf.checkpoints.base import Base, make_autoencoder, make_unet
    from codi_tf.checkpoints.compvis import SCHEDULER
    from codi_tf.models.tiny_decoder import TinyDecoder

    keras.utils.set_random_seed(0)
    decoder = TinyDecoder() if small_decoder else None
    if small_decoder:
        decoder.build()
    scheduler = {**SCHEDULER, "prediction_type": "v_prediction"}
    base = Base(make_unet({}), make_autoencoder({}), scheduler, decoder=decoder)
    random = np.random.default_rng(0)
    conv = base.unet.conv_out.kernel  # it starts at 0
    conv.assign(random.normal(0, 0.01, conv.shape))
    model = codi_tf.CoDi(base, image_size=SIZE)
    mu = model.student.adapter.mu
    mu.assign(random.uniform(0.2, 0.8, mu.shape))
    return model


def make_program(small_decoder: bool = False):
    """The program of `make_model`, of STEPS steps."""
    from export.emit.program import SamplerProgram

    return SamplerProgram(make_model(small_decoder), steps=STEPS, height=SIZE, width=SIZE)


def write(program, folder: Path, name: str) -> None:
    """Write one export, unless it is there, and note what it took; the peak of memory includes the model."""
    from export.build import write_graphs, write_manifest
    from export.parity import gate
    from export.quantization.weights import WeightFormats

    if _noted(folder):
        return
    export = Export.named(name)
    formats = (
        calibrated(program, export, folder.parent) if export.weights in CALIBRATED else WeightFormats(export.weights)
    )
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    _forget_peak()
    began = time.perf_counter()
    facts = write_graphs([program], folder, export.format, export.layout, export.weights, formats, export.form)
    seconds, held = time.perf_counter() - began, peak() / 2**30
    if export.weights in CALIBRATED:
        facts["calibration"] = {"source": "a random image", "floats": []}
    write_manifest(folder, facts, None)
    package, weights = read_package(folder), sum(4 * math.prod(v.shape) for v in program.variables_in_use())
    sizes = [f.stat().st_size / 1e6 for f in sorted(folder.iterdir()) if f.name != MANIFEST]
    weighed = gate.weigh(program, gate.constants_of(package), formats, len(package.graphs))
    noted = {"name": name, "seconds": seconds, "peak": held, "of_weights": held * 2**30 / weights, "sizes": sizes}
    _note(folder, {**noted, "bounds": formats.bounds, "weighed": weighed})


def calibrated(program, export: Export, root: Path):
    """Calibrated formats of packages of parts, with the ranges of one random image. No kernel stays float.

    `export.calibration` unrolls the steps and searches for kernels that had better stay float, which would take days
    here. So one part is loaded at a time, at half the size.
    """
    import numpy as np

    from codi_tf.core.noise import gaussian_noise
    from export.emit import sampler
    from export.formats.onnx.calibrated import Observing
    from export.formats.onnx.graph import OnnxGraph
    from export.formats.runtimes.onnx_runtime import load_as_written
    from export.formats.threads import default_threads
    from export.quantization.activations import Calibrated
    from export.runtime.sampler import Sampler

    package, ranges, loaded = read_package(folder_of(root, OF_PARTS)), {}, {}  # its schedule, and names of inputs
    program = program.at(SIZE // 2, SIZE // 2)

    def noting(path: Path, observing: Observing):
        def noted(inputs):
            if path not in loaded:
                loaded.clear()
                loaded[path] = load_as_written(path, default_threads())
            outputs = loaded[path](inputs)
            for place, numbers in observing.ranges(outputs).items():
                place = place._replace(use=0)
                ranges[place] = ranges.get(place, numbers) | numbers
            return outputs

        return noted

    with tempfile.TemporaryDirectory(dir=root) as scratch:
        graphs = {}
        for name, emit in sampler.parts(program).items():
            observing, path = Observing(), Path(scratch) / f"{name}.onnx"
            graph = OnnxGraph(Calibrated(export.weights, {}), calibrating=observing)
            emit(graph, program)
            graph.write(path)
            graphs[name] = noting(path, observing)
        condition = np.random.default_rng(2).random((1, program.height, program.width, 3), "float32")
        Sampler(package, graphs)(condition, gaussian_noise(1000, program.latent_shape))
    return Calibrated(export.weights, ranges, each_step=False)


def reference(program, path: Path):
    """Keras' seconds an image, and the gate's reference, with one condition of its own and one swapped; kept in a file.

    `program` is needed where there is no file.
    """
    from export.parity import gate

    if not path.exists():
        began = time.perf_counter()
        made = gate.reference_of(program, parts=True)
        seconds = (time.perf_counter() - began) / (len(made.cases) + 1)
        made = made._replace(count=1, cases=made.cases[:: made.count], images=made.images[:: made.count])
        path.write_bytes(pickle.dumps((seconds, tuple(made))))
    seconds, made = pickle.loads(path.read_bytes())
    return seconds, gate.Reference(*made)


def judge(folder: Path) -> None:
    """Run a written export in its runtimes, and note the figures and what the gate says of them."""
    from export.parity import gate

    package, noted = read_package(folder), _noted(folder)
    _, expected = reference(None, folder.parent / REFERENCE)
    if "sampler" in package.graphs:
        expected = expected._replace(calls=[])
    figures = dict(noted.get("figures", {}))
    for runtime in (None, *Export.named(noted["name"]).runtimes):
        key = runtime or FORMATS[package.format].runtimes[0]
        if key in figures:
            continue
        bounds = gate.bounds_of(package, noted["bounds"])
        bounds = bounds if runtime is None else gate.bounds_in(package, bounds, runtime)
        found: dict[str, Any] = {"size": [SIZE, SIZE], "conditions": expected.source, **noted["weighed"]}
        _forget_peak()
        try:
            found |= {**gate.figures_in(expected, package, runtime), "bounds": bounds._asdict()}
            gate.refuse(key, found)
            found["gate"] = "passes"
        except gate.ParityError as error:
            found["gate"] = str(error)
        figures[key] = {**found, "peak": peak() / 2**30}
        _note(folder, {**noted, "figures": figures})


def report(program, folder: Path) -> None:
    """Write the reports of a judged export, with the runtimes that run it."""
    from export.parity import report as reports

    ran = {name: found for name, found in _noted(folder)["figures"].items() if "psnr_db" in found}
    default = next(iter(ran))
    others = {name: found for name, found in ran.items() if name != default}
    figures = {**ran[default], **({"runtimes": others} if others else {})}
    reports.write(folder, [(program, read_package(folder), figures)])


def rows(folder: Path) -> list[str]:
    """The table's rows of a judged export, one for each runtime."""
    noted, made = _noted(folder), []
    sizes = " + ".join(f"{size:,.0f}" for size in noted["sizes"] if size >= 1)
    held = f"{noted['peak']:.1f} GiB, {noted['of_weights']:.2f} x"
    start = f"{noted['name']} | {noted['seconds']:.0f} s | {held} | {sizes} MB"
    for runtime, found in noted["figures"].items():
        parts = max(found.get("part_errors", {}).values(), default=None)
        psnr = f"{found['psnr_db']:.1f} dB" if "psnr_db" in found else ""
        psnr += " | " if parts is None else f" | {parts:.1e}"
        made.append(f"| {start} | {runtime} | {psnr} | {found['peak']:.1f} GiB | {found['gate']} |")
        start = " | | | "
    return made


def _make(root: Path, names: list[str], *, only: str | None) -> None:
    start_tensorflow()
    program = None
    for name in sorted(names, key=lambda name: Export.named(name).small):
        small, folder = Export.named(name).small, folder_of(root, name)
        if program is None or (program.model.base.decoder is not None) != small:
            program = None  # one model at a time
            program = make_program(small)
        write(program, folder, name)
        if only != "write" and not small:  # a small decoder is here for its time
            reference(program, root / REFERENCE)
            if only != "reference":
                subprocess.run([sys.executable, "-m", "benchmarks.full_export", str(root), "--judge", name], check=True)
                report(program, folder)
                print("\n".join(rows(folder)), flush=True)


def folder_of(root: Path, name: str) -> Path:
    """Where an export is."""
    return root / name.replace("/", "-")


def _noted(folder: Path) -> dict:
    path = folder.with_suffix(".json")
    return json.loads(path.read_text("utf-8")) if path.exists() else {}


def _note(folder: Path, noted: dict) -> None:
    folder.with_suffix(".json").write_text(json.dumps(noted), encoding="utf-8")


def _forget_peak() -> None:
    reset = Path("/proc/self/clear_refs")
    if reset.exists():
        reset.write_text("5", encoding="ascii")


def _main(arguments: list[str]) -> None:
    parser = ArgumentParser(prog="python -m benchmarks.full_export", description=__doc__)
    parser.add_argument("folder", type=Path, help="of the packages and what is noted of them")
    parser.add_argument("exports", nargs="*", default=EXPORTS, help="FORMAT/LAYOUT/WEIGHTS[/WORD...] (default: all)")
    parser.add_argument("--only", choices=("write", "reference", "table"), help="stop there")
    parser.add_argument("--judge", help="used by the script itself")
    options = parser.parse_args(arguments)
    if options.judge:
        return judge(folder_of(options.folder, options.judge))
    for name in options.exports:
        Export.named(name)
    options.folder.mkdir(parents=True, exist_ok=True)
    if options.only != "table":
        return _make(options.folder, options.exports, only=options.only)
    seconds, expected = reference(None, options.folder / REFERENCE)
    print(f"Keras: {seconds:.0f} s an image, of spread {expected.images.std():.2f}\n")
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    print("\n".join(row for name in options.exports for row in rows(folder_of(options.folder, name))))


if __name__ == "__main__":
    sys.exit(run_command(_main))
