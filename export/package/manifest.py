"""A package on disk: graphs, manifest.json, which describes how to run them, and report.json and report.md.

Imports no TensorFlow.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

from codi_tf.core.errors import UserError
from codi_tf.io.hashing import file_sha256
from export.formats import FORMATS
from export.formats.format import SIGNATURE, GraphFile

MANIFEST, VERSION = "manifest.json", 3
OTHERS = "other_sizes"  # key of a manifest and of report.json: the entries that differ at the other sizes
REPORTS = ("report.json", "report.md")
LOCAL = ("bicubic", "inpainting", "real_world", "super_resolution")  # tasks of 0.1.0, whose manifests lack is_local
KIND = "codi_tf sampler"  # value of "kind" in our manifests


@dataclass(frozen=True)
class Package:
    """Everything that is needed to run a package.

    Attributes:
        format: a name of `FORMATS`.
        height, width: of the image.
        latent_shape: of the noise, [1, h, w, C].
        graphs: one graph, "sampler", or the parts: "text" and "encoder" (both optional), "step" (or "step_1" and
            "step_2") and "decoder".
        schedule: for every step "t", the features "time", and the numbers "a" and "b".
        channels: of the condition image, 4 with a mask.
        task: the task's name.
        condition_file: the kind of file that holds a condition, see `codi_tf.io.conditions.read_condition`.
        keeps_colors: whether the image has the condition's colors.
        is_local: whether large images may be made of tiles (`Task.is_local`).
        prompted: whether the prompt is an input; the package then holds the tokenizer.
        others: the package at its other sizes, with the same weights.
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
    condition_file: str = "image"
    keeps_colors: bool = False
    is_local: bool = False
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
        """The package at one of its sizes. Raises UserError for any other size."""
        for size in self.sizes:
            if (size.height, size.width) == (height, width):
                return size
        there = ", ".join(f"{size.height}x{size.width}" for size in self.sizes)
        raise UserError(f"--size is {height}x{width}: {self.folder} has {there}")

    def fitting(self, height: int, width: int) -> Package:
        """The package at the size that shrinks an image of this size least; among equals, the smallest size."""

        def fit(size: Package) -> tuple[float, int]:
            return min(1.0, size.height / height, size.width / width), -size.height * size.width

        return max(self.sizes, key=fit)


def read_package(folder: Path) -> Package:
    """Read the manifest of a package and verify its files.

    Raises:
        UserError: no package, or a file that is missing or differs from its hash in the manifest.
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
    except (KeyError, TypeError, ValueError, UserError) as error:
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
    """The package of a manifest at its first size. Raises KeyError, TypeError or ValueError for a foreign manifest."""
    if manifest["version"] > VERSION:
        raise ValueError(f"version {manifest['version']}")
    height, width = (int(side) for side in manifest["image_size"])
    inputs, task = manifest["inputs"], dict(manifest["task"])
    graphs = {
        name: GraphFile(folder / graph["file"], tuple(dict(graph["inputs"])), graph.get("signature", SIGNATURE))
        for name, graph in manifest["graphs"].items()
    }
    suffix = FORMATS[manifest["format"]].suffix
    if not all(str(graph.path).endswith(suffix) for graph in graphs.values()):
        raise ValueError(f"graphs that do not end with {suffix}")
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
        condition_file=str(manifest.get("condition_file") or _condition_file(task)),
        keeps_colors=bool(manifest["keeps_colors" if manifest["version"] > 2 else "keeps_colours"]),
        is_local=bool(manifest.get("is_local", task["name"] in LOCAL)),
        prompted="ids" in inputs,
    )


def _condition_file(task: dict) -> str:
    """`condition_file` for a manifest of version 2, which does not name it."""
    return {"inpainting": "masked_image", "depth": task.get("kind", "disparity")}.get(task["name"], "image")


def check_out(out: Path) -> None:
    """Raise UserError if no package can be written here. Only a package may be replaced."""
    if out.exists() and read_manifest(out) is None:
        raise UserError(f"{out}: exists and is no exported package; choose another --out")
    above = next(parent for parent in out.absolute().parents if parent.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise UserError(f"{out}: cannot be created, {above} is not a writable folder; choose another --out")


def check_options(format: str, weights: str, layout: str) -> None:
    """Raise UserError for an unknown format, or for weights or a layout that it does not offer."""
    declared = FORMATS[format]
    if weights not in declared.weight_choices():
        raise UserError(f"weights is {weights!r}: {format} stores them as {', '.join(declared.weight_choices())}")
    if layout not in declared.layouts:
        raise UserError(f"layout is {layout!r}: {format} offers {', '.join(declared.layouts)}")


def parse_size(text: str) -> tuple[int, int]:
    """(64, 64) for "64", (64, 96) for "64x96": height first. Raises UserError for anything else."""
    match = re.fullmatch(r"(\d{1,5})(?:x(\d{1,5}))?", text)
    if match is None:
        raise UserError(f"--size is {text!r}: give one side, or HEIGHTxWIDTH, for example 64 or 64x96")
    return int(match[1]), int(match[2] or match[1])


def read_manifest(folder: Path) -> dict | None:
    """Read the manifest of a package; None if the folder has no manifest of this project."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return manifest if isinstance(manifest, dict) and manifest.get("kind") == KIND else None


def sizes_of(manifest: dict) -> list[dict]:
    """The entries of a manifest for each size; for the first size the manifest itself."""
    return [manifest, *manifest.get(OTHERS, [])]
