"""A package: graphs, manifest.json that says how to use them, report.json and report.md that say how good they are.

Imports no TensorFlow.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from codi_tf.core.errors import UserError
from codi_tf.io.hashing import file_sha256

MANIFEST, VERSION = "manifest.json", 3
OTHERS = "other_sizes"  # in a manifest and in report.json: what differs at the other sizes
REPORTS = ("report.json", "report.md")
KIND = "codi_tf sampler"  # tells our manifests from others'
# format -> how its graphs' files end; a SavedModel is a folder, and has a version for TensorFlow Serving
SUFFIXES = {"saved_model": "/1", "tflite": ".tflite", "onnx": ".onnx"}
# format -> how it keeps the weights of kernels: see `export.quantization.weights`; mixed: each as the picture needs it
WEIGHTS = {
    "saved_model": ("float32",),
    "tflite": ("float32", "float16", "int8", "int8_weight_only", "mixed"),
    "onnx": ("float32", "float16", "int8", "int8_weight_only", "int4", "mixed"),
}
LAYOUTS = {"saved_model": ("whole",), "tflite": ("whole", "parts"), "onnx": ("whole", "parts")}
SIGNATURE = "serving_default"  # of files that hold several: the first
MAX_STEPS = 16  # in LiteRT files steps are unrolled: every one is one more copy of the network's nodes


@dataclass(frozen=True)
class GraphFile:
    """A graph of a package: its file, the names of what it takes, and which of the file's graphs it is."""

    path: Path
    inputs: tuple[str, ...]
    signature: str = SIGNATURE


@dataclass(frozen=True)
class Package:
    """What running a package needs to know of it.

    Attributes:
        graphs: one, "sampler", or the parts of it: "text" and "encoder", where there are any, "step" and "decoder".
        schedule: of every step t, its features "time", and the numbers "a" and "b".
        channels: of the condition, 4 with a mask.
        task: its name.
        depth_kind: of depth to image, what maps hold: "disparity" or "depth".
        keeps_colors: whether the picture has the condition's colors.
        prompted: whether the prompt is an input; the tokenizer lies in the package then.
        others: the same for other sizes, of the same weights.
    """

    folder: Path
    format: str
    height: int
    width: int
    latent_shape: tuple[int, ...]
    graphs: dict[str, GraphFile]
    schedule: tuple[dict, ...]
    channels: int
    task: str
    depth_kind: str = "disparity"
    keeps_colors: bool = False
    prompted: bool = False
    others: tuple[Package, ...] = ()

    @property
    def steps(self) -> int:
        """Network evaluations."""
        return len(self.schedule)

    @property
    def sizes(self) -> tuple[Package, ...]:
        """The package at each of its sizes."""
        return (self, *self.others)

    def at(self, height: int, width: int) -> Package:
        """The package at one of its sizes. Raises UserError for another."""
        for size in self.sizes:
            if (size.height, size.width) == (height, width):
                return size
        there = ", ".join(f"{size.height}x{size.width}" for size in self.sizes)
        raise UserError(f"--size is {height}x{width}: {self.folder} has {there}")

    def fitting(self, height: int, width: int) -> Package:
        """The package at the size that a picture is scaled down least for; of several, that of the fewest pixels."""

        def fit(size: Package) -> tuple[float, int]:
            return min(1.0, size.height / height, size.width / width), -size.height * size.width

        return max(self.sizes, key=fit)


def read_package(folder: Path) -> Package:
    """Read the manifest of a package and verify its files.

    Raises:
        UserError: no package, or a file that is missing or is not the one that the manifest names.
    """
    manifest = read_manifest(folder)
    if manifest is None:
        raise UserError(f"{folder}: no exported package; make one with python -m export")
    try:
        package, *others = (_package(folder, {**manifest, **size}) for size in sizes_of(manifest))
        package = dataclasses.replace(package, others=tuple(others))
        files = dict(manifest["files"])
        unnamed = [
            graph.path.name
            for size in package.sizes
            for graph in size.graphs.values()
            if not any((folder / name).is_relative_to(graph.path) for name in files)
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{folder / MANIFEST}: incomplete or of another version ({error!r}); export again") from None
    if unnamed or not all(size.graphs for size in package.sizes):
        raise UserError(f"{folder / MANIFEST}: does not name the files of its graphs; export again")
    for name, digest in files.items():
        if not (folder / name).is_file():
            raise UserError(f"{folder / name}: is missing; copy the whole package again")
        if file_sha256(folder / name) != digest:
            raise UserError(f"{folder / name}: is damaged or changed (SHA-256); copy the package or export again")
    return package


def _package(folder: Path, manifest: dict) -> Package:
    """Of a manifest's first size. Raises KeyError, TypeError or ValueError for a manifest of another make."""
    height, width = (int(side) for side in manifest["image_size"])
    inputs, task = manifest["inputs"], dict(manifest["task"])
    graphs = {
        name: GraphFile(folder / graph["file"], tuple(dict(graph["inputs"])), graph.get("signature", SIGNATURE))
        for name, graph in manifest["graphs"].items()
    }
    suffix = SUFFIXES[manifest["format"]]
    if not all(str(graph.path).endswith(suffix) for graph in graphs.values()):
        raise ValueError(f"graphs that are no {suffix}")
    schedule = tuple({key: step[key] for key in ("t", "time", "a", "b")} for step in manifest["schedule"])
    return Package(
        folder=folder,
        format=manifest["format"],
        height=height,
        width=width,
        latent_shape=tuple(int(side) for side in inputs["noise"]["shape"]),
        graphs=graphs,
        schedule=schedule,
        channels=int(inputs["condition"]["shape"][-1]),
        task=str(task["name"]),
        depth_kind=str(task.get("kind", "disparity")),
        keeps_colors=bool(manifest["keeps_colors" if manifest["version"] > 2 else "keeps_colours"]),
        prompted="ids" in inputs,
    )


def format_module(name: str) -> ModuleType:
    """The module of a format: `write(programs, emit, path, keep)`, `load(graph)` and `stored_bytes(path)`.

    Raises:
        UserError: the packages that it needs are not installed.
    """
    try:
        return importlib.import_module(f"export.formats.{name}.write")
    except ModuleNotFoundError as error:
        raise UserError(f"format {name} needs the package {error.name}: pip install {error.name}") from None


def check_out(out: Path) -> None:
    """Raises UserError where no package can be: only a package is replaced."""
    if out.exists() and read_manifest(out) is None:
        raise UserError(f"{out}: exists and is no exported package; choose another --out")
    above = next(parent for parent in out.absolute().parents if parent.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise UserError(f"{out}: cannot be made, {above} is not a folder that can be written to; choose another --out")


def check_format(name: str) -> None:
    """Raises UserError for a format that is not known."""
    if name not in SUFFIXES:
        raise UserError(f"format is {name!r}: use one of {', '.join(SUFFIXES)}")


def check_weights(format: str, weights: str) -> None:
    """Raises UserError where a format does not keep weights so."""
    if weights not in WEIGHTS[format]:
        raise UserError(f"weights is {weights!r}: {format} keeps them as {', '.join(WEIGHTS[format])}")


def check_layout(format: str, layout: str) -> None:
    """Raises UserError where a format does not come in such files."""
    if layout not in LAYOUTS[format]:
        raise UserError(f"layout is {layout!r}: {format} comes as {', '.join(LAYOUTS[format])}")


def parse_size(text: str) -> tuple[int, int]:
    """(64, 64) for "64", (64, 96) for "64x96": height first. Raises UserError for anything else."""
    match = re.fullmatch(r"(\d{1,5})(?:x(\d{1,5}))?", text)
    if match is None:
        raise UserError(f"--size is {text!r}: give one side, or HEIGHTxWIDTH, for example 64 or 64x96")
    return int(match[1]), int(match[2] or match[1])


def check_steps(steps: int) -> None:
    """Raises UserError for steps that are not 1 to MAX_STEPS."""
    if not 1 <= steps <= MAX_STEPS:
        raise UserError(f"steps is {steps}: an exported sampler takes 1 to {MAX_STEPS}")


def read_manifest(folder: Path) -> dict | None:
    """The manifest of a package, None where there is no package of ours."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return manifest if isinstance(manifest, dict) and manifest.get("kind") == KIND else None


def sizes_of(manifest: dict) -> list[dict]:
    """Of every size of a package what its manifest says; of the first that is the manifest."""
    return [manifest, *manifest.get(OTHERS, [])]
