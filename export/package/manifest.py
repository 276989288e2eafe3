"""A package on disk: graphs, manifest.json, which describes how to run them, and report.json and report.md.

Imports no TensorFlow.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path

from codi_tf.core.errors import UserError
from codi_tf.io.folders import Kind, Names, recover
from codi_tf.io.hashing import file_sha256
from codi_tf.io.inside import named_file
from codi_tf.io.json_files import read_json
from export.formats import FORMATS
from export.formats.form import PLAIN, Form
from export.formats.format import SIGNATURE, GraphFile
from export.package.schema import BASE, KIND, check_manifest, sizes_of

MANIFEST = "manifest.json"
REPORTS = ("report.json", "report.md")
LOCAL = ("bicubic", "inpainting", "real_world", "super_resolution")  # tasks of 0.1.0, whose manifests lack is_local


@dataclass(frozen=True)
class Package:
    """Everything that is needed to run a package.

    Attributes:
        folder: of its files.
        format: a name of `FORMATS`.
        form: of the graphs.
        height, width: of the image.
        latent_shape: of the noise, [1, h, w, C].
        graphs: one graph, "sampler", or the parts: "text" and "encoder" (both optional), "step" (or "step_1" and
            "step_2") and "decoder".
        schedule: for every step "t", the features "time", and the numbers "a" and "b".
        channels: of the condition image, 4 with a mask; 0 for text-to-image, which takes none.
        task: the task's name.
        condition_file: the kind of file that holds a condition, see `codi_tf.io.conditions.read_condition`.
        keeps_colors: whether the image has the condition's colors.
        is_local: whether large images may be made of tiles (`Task.is_local`).
        prompted: whether the prompt is an input; the package then holds the tokenizer.
        neutral_features: of each condition feature, the number that it has where the adapter changes nothing; empty
            where a host cannot scale the condition (`export.runtime.sampler.scaled`).
        estimate: of parts, a and b with which the first step would end at x_hat; None: not known, or one graph
            (`export.runtime.fidelity.faithful`).
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
    neutral_features: dict[str, float] = dataclasses.field(default_factory=dict)
    form: Form = PLAIN
    estimate: tuple[float, float] | None = None
    others: tuple[Package, ...] = ()

    @property
    def has_mask(self) -> bool:
        """Whether a condition is an image with a mask."""
        return self.condition_file == "masked_image"

    @property
    def steps(self) -> int:
        """Steps of the sampler, each of one network evaluation, or of several for guidance."""
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


def read_package(folder: Path, *, adapter: bool = False) -> Package:
    """Read the manifest of a package and verify its files.

    Args:
        folder: the package.
        adapter: whether it may be an adapter alone, which cannot be run.

    Raises:
        UserError: no package; a manifest that `schema.check_manifest` refuses; a file that is missing, differs from its
            hash in the manifest, or is not in the folder. The reports are not checked.
    """
    if not folder.exists():
        recover(folder)
    if folder.is_file() and read_manifest(folder.parent) is not None:
        raise UserError(f"{folder}: is a file of a package; name its folder, {folder.parent}")
    path = folder / MANIFEST
    if not path.exists():
        raise UserError(f"{folder}: no exported package; make one with codi export")
    manifest = read_json(path)
    if manifest.get("kind") != KIND:
        raise UserError(f"{folder}: no exported package; make one with codi export")
    if BASE in manifest and not adapter:
        raise UserError(f"{folder}: is an adapter alone; run the package of its base, with --adapter {folder}")
    try:
        check_manifest(manifest)
        package, *others = (_package(folder, {**manifest, **size}) for size in sizes_of(manifest))
    except ValueError as error:  # Misfit, and UserError of a name or a format
        raise UserError(f"{path}: incomplete or of another version ({error}); export again") from None
    package = dataclasses.replace(package, others=tuple(others))
    for graph in (graph for size in package.sizes for graph in size.graphs.values()):
        if not any((folder / name).is_relative_to(graph.path) for name in manifest["files"]):
            raise UserError(f"{path}: does not name the files of its graphs; export again")
    _check_files(folder, manifest["files"])
    return package


def _check_files(folder: Path, files: dict[str, str]) -> None:
    """Raise UserError for a file that is missing or changed. The reports may be: nothing needs them to run."""
    for name, digest in files.items():
        if name in REPORTS:
            continue
        path = named_file(folder, name, folder / MANIFEST)
        if not path.is_file():
            raise UserError(f"{path}: is missing; copy the whole package again")
        try:
            found = file_sha256(path)
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror or error}); copy the package again") from None
        if found != digest:
            raise UserError(f"{path}: is damaged or changed (SHA-256); copy the package or export again")


def _package(folder: Path, manifest: dict) -> Package:
    """The package of a checked manifest at its first size. Raises ValueError for a format that is not known."""
    height, width = manifest["image_size"]
    inputs, task = manifest["inputs"], manifest["task"]
    graphs = {
        name: GraphFile(folder / graph["file"], tuple(graph["inputs"]), graph.get("signature", SIGNATURE))
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
        latent_shape=tuple(inputs["noise"]["shape"]),
        graphs=graphs,
        schedule=schedule,
        channels=inputs["condition"]["shape"][-1] if "condition" in inputs else 0,
        task=task["name"],
        condition_file=manifest.get("condition_file") or _condition_file(task),
        keeps_colors=manifest.get("keeps_colors" if manifest["version"] > 2 else "keeps_colours", False),
        is_local=manifest.get("is_local", task["name"] in LOCAL),
        prompted="ids" in inputs,
        neutral_features=manifest.get("neutral_features", {}),
        form=form_of(manifest),
        estimate=(manifest["estimate"]["a"], manifest["estimate"]["b"]) if "estimate" in manifest else None,
    )


def form_of(manifest: dict) -> Form:
    """The form of a package's graphs. Older manifests do not name it."""
    profile = manifest.get("profile", FORMATS[manifest["format"]].profile_of(PLAIN))
    return Form(profile, **{key: manifest[key] for key in ("opset", "compute", "unrolled") if key in manifest})


def _condition_file(task: dict) -> str:
    """`condition_file` for a manifest of version 2, which does not name it."""
    return {"inpainting": "masked_image", "depth": task.get("kind", "disparity")}.get(task["name"], "image")


def files_of(manifest: dict) -> set[str]:
    """The names of the files that a manifest lists, and its own; of one that is damaged, its own alone."""
    listed = manifest.get("files")
    return {MANIFEST, *(listed if isinstance(listed, dict) else ())}


def _of_package(folder: Path) -> Names | None:
    """The files of a package without a marker, as version 0.1.0 wrote them."""
    manifest = read_manifest(folder)
    return None if manifest is None else files_of(manifest).__contains__


PACKAGES = Kind("exported package", _of_package)


def check_options(format: str, weights: str, layout: str, form: Form = PLAIN) -> None:
    """Raise UserError for an unknown format, or for weights, a layout or a form that it does not offer."""
    declared = FORMATS[format]
    if weights not in declared.weight_choices():
        raise UserError(f"weights is {weights!r}: {format} stores them as {', '.join(declared.weight_choices())}")
    if layout not in declared.layouts:
        raise UserError(f"layout is {layout!r}: {format} offers {', '.join(declared.layouts)}")
    declared.check_form(form, layout, weights)


def parse_size(text: str) -> tuple[int, int]:
    """(64, 64) for "64", (64, 96) for "64x96": height first. Raises UserError for anything else."""
    match = re.fullmatch(r"(\d{1,5})(?:x(\d{1,5}))?", text)
    if match is None:
        raise UserError(f"--size is {text!r}: give one side, or HEIGHTxWIDTH, for example 64 or 64x96")
    return int(match[1]), int(match[2] or match[1])


def read_manifest(folder: Path) -> dict | None:
    """Read the manifest of a package; None if the folder has no manifest of this project."""
    try:
        manifest = read_json(folder / MANIFEST)
    except UserError:
        return None
    return manifest if manifest.get("kind") == KIND else None
