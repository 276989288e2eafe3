"""Making a package: graphs are written, run in their runtime and compared with Keras; only then does it appear."""

from __future__ import annotations

import contextlib
import importlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from codi_tf.core.errors import UserError
from codi_tf.io.files import whole_folder
from codi_tf.io.hashing import file_sha256, folder_sha256
from codi_tf.io.json_files import write_json
from export.package import adapters
from export.package.manifest import (
    KIND,
    MANIFEST,
    OTHERS,
    SUFFIXES,
    VERSION,
    check_format,
    check_layout,
    check_out,
    check_steps,
    check_weights,
    format_module,
    read_manifest,
    read_package,
)

if TYPE_CHECKING:
    from export.emit.program import SamplerProgram
    from export.quantization.weights import WeightFormats

TOKENIZER = "tokenizer"


def make_package(
    bundle: Path,
    out: Path,
    *,
    format: str,
    layout: str = "whole",
    weights: str = "float32",
    target: dict | None = None,
    steps: int = 4,
    sizes: Sequence[tuple[int, int]] | None = None,
    prompt: str | None = None,
    decoder: Path | None = None,
    license: str | None = None,
) -> list[dict]:
    """Export a bundle and return the figures of its parity with the Keras model, of every size.

    Args:
        bundle: from `codi_tf`'s training.
        out: folder of the package; one that is there is replaced.
        format: a key of `package.SUFFIXES`.
        layout: "whole", one graph, or "parts", for hosts that take the steps themselves.
        weights: how kernels are kept: one of the format's `package.WEIGHTS`.
        target: of mixed weights: {"size": bytes} or {"psnr": dB}.
        steps: network evaluations, 1 to MAX_STEPS.
        sizes: (height, width) of one or several, which share the weights; the bundle's image_size unless given.
        prompt: the one that the graphs are made for; None: the empty one, or an input where the task wants one.
        decoder: the folder of a small decoder (diffusers' AutoencoderTiny) in place of the autoencoder's.
        license: of the base, for the manifest.

    Raises:
        UserError: no bundle, an impossible option, or an `out` that is no package.
        ParityError: the package does not do what the model does; nothing is left behind.
    """
    # What can be known before TensorFlow is loaded is said before.
    _check(out, format, layout, weights, target)
    check_steps(steps)
    if not (bundle / "codi.json").is_file():
        raise UserError(f"{bundle}: no bundle (there is no codi.json in it); train one or name another")
    if decoder is not None and not decoder.is_dir():
        raise UserError(f"--decoder is {decoder}: no such folder; name that of a small decoder")
    with stage(f"loading {bundle}"):
        import codi_tf
        from export.emit.program import SamplerProgram

        small = None if decoder is None else codi_tf.load_decoder(decoder)
        model = codi_tf.load(bundle, decoder=small)
        (height, width), *others = dict.fromkeys(sizes or [(model.image_size, model.image_size)])
        program = SamplerProgram(model, steps=steps, height=height, width=width, prompt=prompt)
        programs = [program, *(program.at(*size) for size in others)]
        origin = {"name": bundle.resolve().name, "sha256": folder_sha256(bundle), "license": license}
        if decoder is not None:
            origin["decoder"] = {"name": decoder.resolve().name, "sha256": folder_sha256(decoder)}
    return write_package(programs, out, format=format, layout=layout, weights=weights, target=target, origin=origin)


def make_adapter(
    bundle: Path, out: Path, *, package: Path, decoder: Path | None = None, license: str | None = None
) -> list[dict]:
    """Export the adapter of a bundle alone, to be plugged into a package of parts of the same base.

    The whole package is made, and must be that of the base in all but the adapter.

    Returns, raises: see `make_package`; UserError for a package of another base.
    """
    check_out(out)
    base, options = read_package(package), adapters.options_of(package)
    if options["layout"] != "parts" or options["weights"] == "mixed":
        raise UserError(f"{package}: adapters are for packages of parts whose weights are not mixed")
    with whole_folder(out) as folder:
        whole = folder / "whole"
        figures = make_package(bundle, whole, **options, decoder=decoder, license=license)
        wanted, manifest = adapters.base_files(whole), read_manifest(whole)
        adapters.check_base(base, wanted, out)
        own = {name: sha for name, sha in manifest["files"].items() if name not in wanted}
        for name in own:
            shutil.move(whole / name, folder / name)
        shutil.rmtree(whole)
        write_json(folder / MANIFEST, {**adapters.plug_of(manifest), "files": own, adapters.BASE: wanted})
    return figures


def write_package(
    programs: Sequence[SamplerProgram],
    out: Path,
    *,
    format: str,
    layout: str = "whole",
    weights: str = "float32",
    target: dict | None = None,
    origin: dict | None = None,
) -> list[dict]:
    """Write the graphs of programs, compare them with their Keras model, and only then let the package appear.

    Args:
        programs: of one model, one for every size.
        origin: what they were made from, for the manifest.

    Returns, raises: see `make_package`.
    """
    from export.package import report
    from export.parity import gate as parity
    from export.quantization.weights import WeightFormats

    _check(out, format, layout, weights, target)
    format_module(format)  # its packages are there
    weight_formats = WeightFormats(weights)
    if weights == "mixed":
        from export.quantization import mixed

        weight_formats = mixed.choose(programs[0], format, **target)
    with whole_folder(out) as folder:
        kept = "" if weights == "float32" else f" with {weights} weights"
        sizes = " and ".join(f"{program.height}x{program.width}" for program in programs)
        with stage(f"converting {programs[0].steps} steps at {sizes} to {format}{kept}"):
            facts = write_graphs(programs, folder, format, layout, weights, weight_formats)
            write_manifest(folder, facts, origin)
        pairs, psnr = list(zip(programs, read_package(folder).sizes, strict=True)), (target or {}).get("psnr")
        with stage("comparing with the Keras model"):
            figures = [parity.check(*pair, weight_formats, psnr=psnr, sizes=len(pairs)) for pair in pairs]
        with stage("measuring"):
            report.write(folder, [(*pair, found) for pair, found in zip(pairs, figures, strict=True)])
        write_manifest(folder, facts, origin)
    return figures


def _check(out: Path, format: str, layout: str, weights: str, target: dict | None) -> None:
    check_format(format)
    check_weights(format, weights)
    check_layout(format, layout)
    if (weights == "mixed") != (target is not None):
        raise UserError("mixed weights need --target-size or --min-psnr, and these need --weights mixed")
    check_out(out)


def write_graphs(
    programs: Sequence[SamplerProgram],
    folder: Path,
    format: str,
    layout: str,
    weights: str,
    weight_formats: WeightFormats,
) -> dict:
    """Write the graphs of programs and what goes with them into a folder; what the manifest says of it all.

    A LiteRT file holds less than 2 GiB: a step that is larger is written in two halves.
    """
    from export.emit import sampler

    program, module = programs[0], format_module(format)
    emitters = {"sampler": sampler.whole}
    if layout == "parts":
        unet = weight_formats.bytes(program.model.network.unet.variables)
        emitters = sampler.parts(program, halves=unet > module.MAX_GRAPH)
    graphs: list[dict] = [{} for _ in programs]  # of every size
    for name, emit in emitters.items():
        path = folder / (("model" if layout == "whole" else name) + SUFFIXES[format])
        own = programs[:1] if name == "text" else programs  # a prompt has no size
        made = module.write(own, emit, path, weight_formats)
        for size, graph in zip(graphs, made * len(programs) if name == "text" else made, strict=True):
            size[name] = {**graph, "file": graph["file"].relative_to(folder).as_posix()}
    if program.context is None:
        program.model.base.tokenizer.save(folder / TOKENIZER)
    first, *others = (_facts_of_size(*pair) for pair in zip(programs, graphs, strict=True))
    facts = {**_facts(program, format), "weights": weights, "layout": layout, **first}
    return {**facts, OTHERS: others} if others else facts


def write_manifest(folder: Path, facts: dict, origin: dict | None) -> None:
    """Write manifest.json: the facts, what the package was made from, and the hashes of all files in its folder."""
    write_json(folder / MANIFEST, {**facts, "bundle": origin, "files": _files(folder)})


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


def _facts_of_size(program: SamplerProgram, graphs: dict) -> dict:
    size = [program.height, program.width]
    image = {"shape": [1, *size, 3], "dtype": "float32", "range": [0, 1], "layout": "NHWC, RGB"}
    channels = program.model.task.condition_channels
    condition = image if channels == 3 else image | {"shape": [1, *size, channels], "layout": "NHWC, RGB and mask"}
    noise = {"shape": list(program.latent_shape), "dtype": "float32", "distribution": "standard normal (docs/noise.md)"}
    ids = {"shape": list(program.context_shape[:1]), "dtype": "int32", "tokenizer": TOKENIZER}
    return {
        "image_size": size,
        "inputs": {"condition": condition, "noise": noise, **({"ids": ids} if program.context is None else {})},
        "outputs": {"image": image},
        "graphs": graphs,
    }


def _facts(program: SamplerProgram, format: str) -> dict:
    from codi_tf.inference.rendering import keeps_colors
    from export.emit import sampler

    makers = ("tensorflow", "keras", "onnx") if format == "onnx" else ("tensorflow", "keras")
    times = zip(sampler.step_numbers(program.model, program.steps), sampler.tables(program)[0], strict=True)
    return {
        "kind": KIND,
        "version": VERSION,
        "format": format,
        "steps": program.steps,
        "schedule": [{**step._asdict(), "time": [float(value) for value in time]} for step, time in times],
        "prompt": program.prompt,
        "task": program.model.task_config(),
        "keeps_colors": keeps_colors(program.model.task),
        "scheduler": program.model.base.scheduler,
        "made_with": {name: importlib.import_module(name).__version__ for name in makers},
    }


def _files(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    return {path.relative_to(folder).as_posix(): file_sha256(path) for path in files}
