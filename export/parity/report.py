"""report.json and report.md: a package's size and operations, its speed and memory on this machine, and its parity."""

from __future__ import annotations

import json
import math
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codi_tf.core.errors import UserError
from codi_tf.core.markdown import plain
from codi_tf.io.json_files import without_nan, write_json
from export.emit import sampler
from export.emit.counting import Counting
from export.formats import FORMATS
from export.package.manifest import REPORTS, Package
from export.package.schema import OTHERS
from export.runtime.choice import resolve_runtime

if TYPE_CHECKING:
    from export.emit.graph import Graph
    from export.emit.program import SamplerProgram


def write(folder: Path, made: Sequence[tuple[SamplerProgram, Package, dict]]) -> None:
    """Write both reports into a package's folder. Runs the package in another process to measure it.

    Args:
        folder: of the package.
        made: for every size the program, the package and the figures of the gate.

    Raises:
        UserError: the package does not run in that process.
    """
    first, *others = (_about(*size) for size in made)
    write_json(folder / REPORTS[0], without_nan({**first, OTHERS: others} if others else first))
    texts = (
        _markdown(program, package, about) for (program, package, _), about in zip(made, (first, *others), strict=True)
    )
    (folder / REPORTS[1]).write_text("\n".join(texts), encoding="utf-8")


def _about(program: SamplerProgram, package: Package, parity: dict) -> dict:
    parts = parts_of(program, FORMATS[package.format].new_graph)
    return {
        "evaluations_per_step": len(program.terms),
        "parts": parts,
        "multiply_adds": sum(part["multiply_adds"] * part["runs"] for part in parts.values()),
        "file_bytes": {name: _bytes(graph.path) for name, graph in package.graphs.items()},
        "here": {"machine": platform.machine(), "python": platform.python_version(), **_measured(package)},
        "parity": {name: value for name, value in parity.items() if name != "runtimes"},
        **({"runtimes": _runtimes(package, parity["runtimes"])} if "runtimes" in parity else {}),
    }


def _runtimes(package: Package, parity: dict[str, dict]) -> dict[str, dict]:
    """What is measured in each further runtime, beside its figures of the gate."""
    return {name: {"here": _measured(package, name), "parity": figures} for name, figures in parity.items()}


def parts_of(program: SamplerProgram, new_graph: Callable[[], Graph | None]) -> dict[str, dict]:
    """Parameters, multiply-adds and runs per image of every part; {} for formats without graphs."""
    parts = {}
    for name, emit in sampler.parts(program).items():
        blank = new_graph()
        if blank is None:
            return {}
        graph: Any = Counting(blank)  # it forwards all operations
        emit(graph, program)
        runs = len(program.grid.steps) if name == "step" else 1
        parts[name] = {"parameters": graph.parameters, "multiply_adds": graph.multiply_adds, "runs": runs}
    return parts


def _bytes(path: Path) -> int:
    """The bytes of a graph: of its file with external weight files, or of its folder."""
    others = path.parent.glob(f"{path.name}.*") if path.is_file() else path.rglob("*")
    return sum(file.stat().st_size for file in (path, *others) if file.is_file())


def _measured(package: Package, runtime: str | None = None) -> dict:
    """Seconds and memory of a process that only runs the package; {} if that needs TensorFlow."""
    if resolve_runtime(runtime, package.format)[0].needs_tensorflow:
        return {}
    size = f"{package.height}x{package.width}"
    command = [sys.executable, "-m", "export.parity.measure", str(package.folder), "--size", size]
    command += [] if runtime is None else ["--runtime", runtime]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"signal {-done.returncode}, as of a system without memory"]
        raise UserError(f"{package.folder}: the package does not run in a process of its own: {said[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def _markdown(program: SamplerProgram, package: Package, about: dict) -> str:
    parity, here = about["parity"], about["here"]
    lines = [
        f"# {plain(package.task)}, {package.steps} steps at {program.height}x{program.width}, {_form(package)}",
        "",
        *_guided(program),
        "| part | parameters | multiply-adds | runs per image |",
        "|---|---|---|---|",
        *(
            f"| {name} | {part['parameters']:,} | {_large(part['multiply_adds'])} | {part['runs']} |"
            for name, part in about["parts"].items()
        ),
        f"| an image | | {_large(about['multiply_adds'])} | |",
        "",
        "| file | bytes |",
        "|---|---|",
        *(f"| {name} | {size:,} |" for name, size in about["file_bytes"].items()),
        "",
        "Against the Keras model, with the same noise "
        f"({parity['cases']} images, {parity['conditions']}): PSNR {parity['psnr_db']:.1f} dB "
        f"(at least {parity['bounds']['psnr']:g}), max error {parity['max_error']:.2g}, "
        f"color shift {parity['color_shift']:.2g}.",
    ]
    for name in ("condition", "prompt"):
        if moved := parity.get(f"{name}_sensitivity"):
            lines.append(f"Another {name} moves an image by {moved['export']:.4f}; Keras' by {moved['keras']:.4f}.")
    if largest := parity.get("largest_activation"):
        lines.append(
            f"Activations are rounded to float16 for this comparison; the largest is {largest['value']:.3g}, of "
            f"{plain(largest['node'])}. float16 ends at 65504."
        )
    if parity["part_errors"]:
        errors = ", ".join(f"{name} {error:.2g}" for name, error in parity["part_errors"].items())
        lines.append(f"Relative errors of the parts: {errors}.")
    if "seconds" in here:
        lines += [
            "",
            f"Here ({here['machine']}, {here['threads']} threads): loaded in {here['load_seconds']:.2f} s, "
            f"an image in {here['seconds']:.3f} s, {here['peak_bytes'] / 2**20:,.0f} MiB of memory at most.",
        ]
    if "runtimes" in about:
        lines += ["", *_runtimes_table(about["runtimes"])]
    return "\n".join(lines) + "\n"


def _runtimes_table(runtimes: dict[str, dict]) -> Iterator[str]:
    """The package in other runtimes than that of its format."""
    yield "| also run in | PSNR | at least | max error | loaded in | an image in | memory at most |"
    yield "|---|---|---|---|---|---|---|"
    for name, about in runtimes.items():
        parity, here = about["parity"], about["here"]
        yield (
            f"| {name} | {parity['psnr_db']:.1f} dB | {parity['bounds']['psnr']:g} dB | {parity['max_error']:.2g} "
            f"| {here['load_seconds']:.2f} s | {here['seconds']:.3f} s | {here['peak_bytes'] / 2**20:,.0f} MiB |"
        )


def _form(package: Package) -> str:
    """onnx (portable, opset 23, computes in float16, unrolled)."""
    form = package.form
    said = [
        form.profile,
        None if form.opset is None else f"opset {form.opset}",
        "computes in float16" if form.in_half else None,
        "unrolled" if form.unrolled else None,
    ]
    words = ", ".join(filter(None, said))
    return f"{package.format} ({words})" if words else package.format


def _guided(program: SamplerProgram) -> list[str]:
    """A line on guidance that takes further evaluations, and an empty one; [] without."""
    if len(program.terms) == 1:
        return []
    by_prompt = "" if program.text_guidance in (None, 1.0) else f", {program.text_guidance:g} by the prompt"
    by = f"guidance {program.guidance:g} by the condition{by_prompt}"
    return [f"A step evaluates the network {len(program.terms)} times: {by}.", ""]


def _large(count: int) -> str:
    """1234567 -> 1.23 M."""
    power = max(0, min(4, int(math.log10(max(count, 1)) // 3)))
    return f"{count / 1000**power:.3g} {('', 'k', 'M', 'G', 'T')[power]}".strip()
