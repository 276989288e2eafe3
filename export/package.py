"""A package: an artefact, manifest.json that says how to use it, parity.json that says how well it was made.

Imports no TensorFlow until a package is made.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from codi_tf.errors import UserError
from codi_tf.files import whole_folder

if TYPE_CHECKING:
    from export.program import SamplerProgram

MANIFEST, PARITY = "manifest.json", "parity.json"
KIND = "codi_tf sampler"  # tells our manifests from others'
ARTEFACTS = {"saved_model": "saved_model", "tflite": "model.tflite", "onnx": "model.onnx"}  # format -> file or folder
# format -> how it keeps the weights of kernels
WEIGHTS = {"saved_model": ("float32",), "tflite": ("float32", "float16", "int8"), "onnx": ("float32", "float16")}
MAX_STEPS = 16  # the sampler is unrolled: every step is one more copy of the network's nodes


@dataclass(frozen=True)
class Package:
    """What running a package needs to know of it.

    Attributes:
        channels: of the condition, 4 with a mask.
        task: its name.
        depth_kind: of depth to image, what maps hold: "disparity" or "depth".
    """

    folder: Path
    format: str
    steps: int
    height: int
    width: int
    latent_shape: tuple[int, ...]
    channels: int
    task: str
    depth_kind: str

    @property
    def artefact(self) -> Path:
        """The file, or the folder of a SavedModel."""
        return self.folder / ARTEFACTS[self.format]


def read_package(folder: Path) -> Package:
    """Read the manifest of a package and verify its files.

    Raises:
        UserError: no package, or a file that is missing or is not the one that the manifest names.
    """
    manifest = _manifest(folder)
    if manifest is None:
        raise UserError(f"{folder}: no exported package; make one with python -m export")
    try:
        height, width = (int(side) for side in manifest["image_size"])
        latent_shape = tuple(int(side) for side in manifest["inputs"]["noise"]["shape"])
        channels, task = int(manifest["inputs"]["condition"]["shape"][-1]), dict(manifest["task"])
        package = Package(
            folder,
            manifest["format"],
            int(manifest["steps"]),
            height,
            width,
            latent_shape,
            channels,
            str(task["name"]),
            str(task.get("kind", "disparity")),
        )
        files = dict(manifest["files"])
        complete = any((folder / name).is_relative_to(package.artefact) for name in files)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{folder / MANIFEST}: incomplete or of another version ({error!r}); export again") from None
    if not complete:
        raise UserError(f"{folder / MANIFEST}: does not name the file of its format; export again")
    for name, digest in files.items():
        if not (folder / name).is_file():
            raise UserError(f"{folder / name}: is missing; copy the whole package again")
        if _sha256(folder / name) != digest:
            raise UserError(f"{folder / name}: is damaged or changed (SHA-256); copy the package or export again")
    return package


def format_module(name: str) -> ModuleType:
    """The module of a format: `write(program, path)`, `load(path) -> Sampler`, `stored_bytes(path)`.

    Raises:
        UserError: the packages that it needs are not installed.
    """
    try:
        return importlib.import_module(f"export.{name}")
    except ModuleNotFoundError as error:
        raise UserError(f"format {name} needs the package {error.name}: pip install {error.name}") from None


def check_out(out: Path) -> None:
    """Raises UserError where no package can be: only a package is replaced."""
    if out.exists() and _manifest(out) is None:
        raise UserError(f"{out}: exists and is no exported package; choose another --out")
    above = next(parent for parent in out.absolute().parents if parent.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise UserError(f"{out}: cannot be made, {above} is not a folder that can be written to; choose another --out")


def check_format(name: str) -> None:
    """Raises UserError for a format that is not known."""
    if name not in ARTEFACTS:
        raise UserError(f"format is {name!r}: use one of {', '.join(ARTEFACTS)}")


def check_weights(format: str, weights: str) -> None:
    """Raises UserError where a format does not keep weights so."""
    if weights not in WEIGHTS[format]:
        raise UserError(f"weights is {weights!r}: {format} keeps them as {', '.join(WEIGHTS[format])}")


def check_steps(steps: int) -> None:
    """Raises UserError for steps that are not 1 to MAX_STEPS."""
    if not 1 <= steps <= MAX_STEPS:
        raise UserError(f"steps is {steps}: an exported sampler takes 1 to {MAX_STEPS}")


def make_package(
    bundle: Path,
    out: Path,
    *,
    format: str,
    steps: int = 4,
    size: tuple[int, int] | None = None,
    prompt: str | None = None,
    weights: str = "float32",
) -> dict:
    """Export a bundle and return the figures of its parity with the Keras model.

    Args:
        bundle: from `codi_tf`'s training.
        out: folder of the package; one that is there is replaced.
        format: a key of ARTEFACTS.
        steps: network evaluations, 1 to MAX_STEPS.
        size: (height, width); the bundle's image_size where it is not given.
        prompt: the one that the artefact is made for; None: the empty one.
        weights: how the format keeps them: "float32", "float16" or "int8".

    Raises:
        UserError: no bundle, an impossible option, or an `out` that is no package.
        ParityError: the artefact does not do what the model does; nothing is left behind.
    """
    # What can be known before TensorFlow is loaded is said before.
    check_format(format)
    check_weights(format, weights)
    check_steps(steps)
    check_out(out)
    if not (bundle / "codi.json").is_file():
        raise UserError(f"{bundle}: no bundle (there is no codi.json in it); train one or name another")
    with stage(f"loading {bundle}"):
        import codi_tf
        from codi_tf.weights import folder_sha256
        from export.program import SamplerProgram

        model = codi_tf.load(bundle)
        height, width = size or (model.image_size, model.image_size)
        program = SamplerProgram(model, steps=steps, height=height, width=width, prompt=prompt)
        origin = {"name": bundle.resolve().name, "sha256": folder_sha256(bundle)}
    return write_package(program, out, format=format, weights=weights, origin=origin)


def write_package(
    program: SamplerProgram, out: Path, *, format: str, weights: str = "float32", origin: dict | None = None
) -> dict:
    """Convert a program, compare it with its Keras model, and only then let the package appear.

    Args:
        origin: what the program was made from, for the manifest.

    Returns, raises: see `make_package`.
    """
    from codi_tf.weights import write_json
    from export import parity

    check_format(format)
    check_weights(format, weights)
    check_out(out)
    module = format_module(format)
    with whole_folder(out) as folder:
        artefact = folder / ARTEFACTS[format]
        kept = "" if weights == "float32" else f" with {weights} weights"
        with stage(f"converting {program.steps} steps at {program.height}x{program.width} to {format}{kept}"):
            module.write(program, artefact, weights)
        with stage("comparing with the Keras model"):
            figures = parity.check(program, artefact, format, weights)
        write_json(folder / PARITY, figures)
        write_json(
            folder / MANIFEST,
            {**_facts(program, format), "weights": weights, "bundle": origin, "files": _files(folder)},
        )
    return figures


@contextlib.contextmanager
def stage(label: str) -> Iterator[None]:
    """Say what is being done and how long it took; the chatter of compilers and converters is shown if it fails."""
    print(f"{label} ...", end="", flush=True)
    began = time.monotonic()
    with tempfile.TemporaryFile() as log:
        try:
            with _redirected(log):
                yield
        except UserError:
            print(flush=True)
            raise
        except Exception:
            print(flush=True)
            log.seek(0)
            sys.stderr.write(log.read().decode(errors="replace"))
            raise
    print(f" {time.monotonic() - began:.1f} s", flush=True)


@contextlib.contextmanager
def _redirected(log) -> Iterator[None]:
    """Standard output and error, native code's too, into a file."""
    streams = (sys.stdout, sys.stderr)
    for stream in streams:
        stream.flush()
    saved = {number: os.dup(number) for number in (1, 2)}
    try:
        for number in saved:
            os.dup2(log.fileno(), number)
        yield
    finally:
        for stream in streams:
            stream.flush()
        for number, copy in saved.items():
            os.dup2(copy, number)
            os.close(copy)


def _facts(program: SamplerProgram, format: str) -> dict:
    size = [program.height, program.width]
    image = {"shape": [1, *size, 3], "dtype": "float32", "range": [0, 1], "layout": "NHWC, RGB"}
    channels = program.model.task.condition_channels
    condition = image if channels == 3 else image | {"shape": [1, *size, channels], "layout": "NHWC, RGB and mask"}
    noise = {"shape": list(program.latent_shape), "dtype": "float32", "distribution": "standard normal"}
    makers = ("tensorflow", "keras", "onnx") if format == "onnx" else ("tensorflow", "keras")
    return {
        "kind": KIND,
        "version": 1,
        "format": format,
        "steps": program.steps,
        "image_size": size,
        "inputs": {"condition": condition, "noise": noise},
        "outputs": {"image": image},
        "prompt": program.prompt,
        "task": program.model.task_config(),
        "scheduler": program.model.base.scheduler,
        "made_with": {name: importlib.import_module(name).__version__ for name in makers},
    }


def _files(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): _sha256(path) for path in files}


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _manifest(folder: Path) -> dict | None:
    """The manifest of a package, None where there is no package of ours."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return manifest if isinstance(manifest, dict) and manifest.get("kind") == KIND else None
