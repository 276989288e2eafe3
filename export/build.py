"""Building packages: write the graphs, run them in their runtime, compare them with Keras, then put them in place."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codi_tf.checkpoints.lora_files import check_loras, lora_file
from codi_tf.core.errors import UserError
from codi_tf.diffusion.samplers import SAMPLERS
from codi_tf.io.bundle_files import BUNDLE, check_is_folder, decoder_at, is_bundle, model_at
from codi_tf.io.folders import check_folder, whole_folder
from codi_tf.io.hashing import file_sha256, folder_sha256
from codi_tf.io.json_files import write_json
from export.emit.limits import check_steps
from export.formats import FORMATS
from export.formats.form import PLAIN, Form
from export.formats.format import MIXED
from export.formats.runtimes import RUNTIMES
from export.package import adapters
from export.package.manifest import MANIFEST, PACKAGES, check_options, read_manifest, read_package
from export.quantization.activations import CALIBRATED
from export.quantization.targets import check_calibration, check_target
from export.runtime.choice import check_runtimes
from export.stage import stage

if TYPE_CHECKING:
    from codi_tf.models.tiny_decoder import TinyDecoder
    from export.emit.program import SamplerProgram
    from export.emit.text_model import TextModel
    from export.quantization.weights import WeightFormats

OTHER_BASE = (
    "use a model that train: adapter trained on that base, with the package's --decoder; if another version made the "
    "package, export that again, too"
)


def make_package(
    bundle: Path,
    out: Path,
    *,
    format: str,
    layout: str = "whole",
    weights: str | None = None,
    target: dict | None = None,
    calibration: str | None = None,
    form: Form = PLAIN,
    steps: int | None = None,
    sizes: Sequence[tuple[int, int]] | None = None,
    prompt: str | None = None,
    sampler: str | None = None,
    guidance: float | None = None,
    text_guidance: float | None = None,
    label: int | None = None,
    condition_scale: float = 1.0,
    fidelity: float = 0.0,
    decoder: Path | None = None,
    loras: Sequence[tuple[Path, float]] = (),
    license: str | None = None,
    runtimes: Sequence[str] = (),
    report: bool = True,
) -> list[dict]:
    """Export a bundle, or a distilled text-to-image model, as a package.

    Args:
        bundle: folder of a trained model, or of a text-to-image model in the diffusers layout.
        out: folder of the package; an existing package is replaced.
        format: a name of `FORMATS`.
        layout: "whole", one graph, or "parts", for hosts that run the steps themselves.
        weights: the number format of kernels, one of those that the format offers; None: that of `form`.
        target: for mixed weights: {"size": bytes} or {"psnr": dB}; for calibrated ones: None or {"psnr": dB}.
        calibration: for calibrated weights: a source of images as `data.load_source` names it.
        form: for which readers the graphs are written, and what they compute in.
        steps: 1 to `limits.MAX_STEPS`; None: the number that the model is made for.
        sizes: (height, width) of one or several sizes, which share the weights; the bundle's image_size unless given.
        prompt: the prompt of every image; None: the empty one, or an input for tasks with prompts and for
            text-to-image.
        sampler: a registered sampler whose steps are deterministic and of first order; None: the one that the model is
            trained for.
        guidance, text_guidance: of every image, see `CoDi.generate`; None: the model's default. What is no input of the
            network takes further evaluations in every step.
        label: the class of every image, for networks with classes; None: the null class.
        condition_scale: how many times the condition counts in every image, above 0.
        fidelity: the share of the first step's x_hat in every image, 0 to 1; of parts, the host chooses it.
        decoder: folder of a small decoder (diffusers' AutoencoderTiny) in place of the autoencoder's.
        loras: (path, scale) of LoRAs to merge into the base, see `Base.load_lora`.
        license: of the base, for the manifest.
        runtimes: further ones that the gate runs the package in, as `export.runtime.choice.Choice` names them.
        report: whether to measure speed and memory in another process, and write report.json and report.md.

    Returns:
        The figures of the gate for every size, see `parity.gate.check`.

    Raises:
        UserError: no model, an option out of its range, or an `out` that exists and is no package.
        ParityError: the package differs from the Keras model; nothing is left behind.
    """
    # Check before loading TensorFlow, which takes seconds.
    weights = weights or form.default_weights
    inputs = [bundle, decoder, *(path for path, _ in loras)]
    _check(out, format, layout, weights, target, calibration, form, inputs=inputs)
    check_runtimes(runtimes, format)
    check_loras(loras)
    if fidelity and layout == "parts":
        raise UserError("--fidelity: a package of parts takes it when it runs; give it to codi run instead")
    if steps is not None:
        check_steps(steps)
    if sampler is not None and sampler not in SAMPLERS:
        raise UserError(SAMPLERS.unknown(sampler))
    check_is_folder(bundle)
    bundle = model_at(bundle)
    if not is_bundle(bundle) and not (bundle / "unet").is_dir():
        raise UserError(f"{bundle}: no bundle (there is no {BUNDLE} in it); train one or name another")
    decoder = None if decoder is None else decoder_at(decoder)
    with stage(f"loading {bundle}"):
        import codi_tf
        from export.emit.program import SamplerProgram

        small = None if decoder is None else codi_tf.load_decoder(decoder)
        if is_bundle(bundle):
            model = codi_tf.load(bundle, decoder=small, loras=loras, merge=True)
        else:
            model = _text_model(bundle, small, loras)
        (height, width), *others = dict.fromkeys(sizes or [(model.image_size, model.image_size)])
        options = {"steps": model.steps_for(steps), "prompt": prompt, "sampler": sampler}
        options |= {"guidance": guidance, "text_guidance": text_guidance, "label": label}
        options |= {"condition_scale": condition_scale, "fidelity": fidelity}
        program = SamplerProgram(model, height=height, width=width, **options)
        programs = [program, *(program.at(*size) for size in others)]
        origin = {"name": bundle.resolve().name, "sha256": folder_sha256(bundle), "license": license}
        if decoder is not None:
            origin["decoder"] = {"name": decoder.resolve().name, "sha256": folder_sha256(decoder)}
        files = [(lora_file(path), scale) for path, scale in loras]
        if files:
            origin["loras"] = [{"name": f.name, "sha256": file_sha256(f), "scale": scale} for f, scale in files]
    stored = {"format": format, "layout": layout, "weights": weights, "target": target, "form": form}
    stored["calibration"] = calibration
    return write_package(programs, out, **stored, origin=origin, runtimes=runtimes, report=report)


def _text_model(folder: Path, decoder: TinyDecoder | None, loras: Sequence[tuple[Path, float]]) -> TextModel:
    from codi_tf import load_stable_diffusion
    from codi_tf.checkpoints.base import with_loras
    from export.emit.text_model import TextModel

    return TextModel(dataclasses.replace(with_loras(load_stable_diffusion(folder), loras), decoder=decoder))


def make_adapter(
    bundle: Path,
    out: Path,
    *,
    package: Path,
    asked: Mapping[str, Any] | None = None,
    condition_scale: float = 1.0,
    decoder: Path | None = None,
    loras: Sequence[tuple[Path, float]] = (),
    license: str | None = None,
    report: bool = True,
) -> list[dict]:
    """Export the adapter of a bundle alone, to plug into a package of parts with the same base.

    Builds the whole package, which must equal the other one in all files except the adapter's.

    Args:
        bundle, condition_scale, decoder, loras, license, report: see `make_package`.
        out: folder of the adapter.
        package: the folder of the package that it is for.
        asked: options of `make_package` that the package is expected to have been made with, by name.

    Returns:
        The figures of the gate for every size.

    Raises:
        UserError: see `make_package`; a package of another base, with other options, or without parts.
        ParityError: see `make_package`.
    """
    check_folder(out, PACKAGES, inputs=[bundle, package, decoder])
    base, options = read_package(package), adapters.options_of(package)
    if options["layout"] != "parts" or options["weights"] in (MIXED, *CALIBRATED):
        raise UserError(
            f"{package}: adapters are for packages of parts (--layout parts) whose weights are neither mixed nor "
            "calibrated"
        )
    adapters.check_asked(package, asked or {})
    with whole_folder(out, PACKAGES) as folder:
        whole = folder / "whole"
        origin = {"decoder": decoder, "loras": loras, "license": license}
        figures = make_package(bundle, whole, **options, **origin, condition_scale=condition_scale, report=report)
        wanted, manifest = adapters.base_files(whole), read_manifest(whole)
        assert manifest is not None  # of the package just made
        adapters.check_base(base, wanted, bundle, OTHER_BASE)
        adapter_files = {name: sha for name, sha in manifest["files"].items() if name not in wanted}
        for name in adapter_files:
            shutil.move(whole / name, folder / name)
        shutil.rmtree(whole)
        write_json(folder / MANIFEST, {**adapters.plug_of(manifest), "files": adapter_files, adapters.BASE: wanted})
    return figures


def write_package(
    programs: Sequence[SamplerProgram],
    out: Path,
    *,
    format: str,
    layout: str = "whole",
    weights: str | None = None,
    target: dict | None = None,
    calibration: str | None = None,
    form: Form = PLAIN,
    origin: dict | None = None,
    runtimes: Sequence[str] = (),
    report: bool = True,
) -> list[dict]:
    """Write the graphs of programs and compare them with their Keras model; the package appears only if they agree.

    Args:
        programs: of one model, one for every size.
        out, format, layout, weights, target, calibration, form: see `make_package`.
        origin: what they were made from, for the manifest.
        runtimes: as in `make_package`.
        report: as in `make_package`; if false, no process is started.

    Returns:
        The figures of the gate for every size.

    Raises:
        UserError, ParityError: see `make_package`.
    """
    from export.parity import gate as parity
    from export.parity import report as reports
    from export.quantization.weights import WeightFormats

    weights = weights or form.default_weights
    _check(out, format, layout, weights, target, calibration, form)
    FORMATS[format].check_installed()
    weight_formats = WeightFormats(weights)
    if calibration is not None:
        FORMATS["onnx"].check_installed()  # calibration runs such a graph
        RUNTIMES["onnxruntime"].installed()
        from export.calibration import calibrated

        with stage(f"calibrating with images of {calibration}"):
            lowest = parity.BOUNDS[weights].psnr if target is None else target["psnr"]
            weight_formats = calibrated(programs, weights, calibration, layout, lowest)
    elif target is not None:
        from export.quantization import mixed

        weight_formats = mixed.choose(programs[0], FORMATS[format].mixed_formats, **target)
    with whole_folder(out, PACKAGES) as folder:
        quantized = "" if weights == "float32" else f" with {weights} weights"
        sizes = " and ".join(f"{program.height}x{program.width}" for program in programs)
        with stage(f"converting {programs[0].steps} steps at {sizes} to {format}{quantized}"):
            facts = write_graphs(programs, folder, format, layout, weights, weight_formats, form)
            if calibration is not None:
                facts["calibration"] = {"source": calibration, "floats": sorted(weight_formats.exceptions)}
            write_manifest(folder, facts, origin)
        pairs, psnr = list(zip(programs, read_package(folder).sizes, strict=True)), (target or {}).get("psnr")
        with stage("comparing with the Keras model"):
            options = {"psnr": psnr, "sizes": len(pairs), "runtimes": runtimes}
            figures = [parity.check(*pair, weight_formats, **options) for pair in pairs]
        if report:
            with stage("measuring"):
                reports.write(folder, [(*pair, found) for pair, found in zip(pairs, figures, strict=True)])
            write_manifest(folder, facts, origin)
    return figures


def _check(
    out: Path,
    format: str,
    layout: str,
    weights: str,
    target: dict | None,
    calibration: str | None,
    form: Form,
    *,
    inputs: Sequence[Path | None] = (),
) -> None:
    check_options(format, weights, layout, form)
    check_calibration(weights, calibration, target)
    if weights == MIXED and target is None:
        raise UserError("weights is 'mixed': give --target-size or --min-psnr, which say how small or how exact")
    if weights not in (MIXED, *CALIBRATED) and target is not None:
        raise UserError(f"weights is {weights!r}: --target-size and --min-psnr need --weights mixed; leave them out")
    if target is not None:
        check_target(target)
    check_folder(out, PACKAGES, inputs=inputs)


def write_graphs(
    programs: Sequence[SamplerProgram],
    folder: Path,
    format: str,
    layout: str,
    weights: str,
    weight_formats: WeightFormats,
    form: Form = PLAIN,
) -> dict:
    """Write the graphs of programs, and a tokenizer where prompts are inputs; return the facts for the manifest.

    A step that is larger than a graph of the format can be is written in two halves.

    Raises:
        UserError: a graph is still larger than its format allows.
    """
    from export.emit import fidelity, sampler
    from export.facts import TOKENIZER, facts_of

    program, declared = programs[0], FORMATS[format]
    emitters = {"sampler": sampler.whole}
    if layout == "parts":
        unet = weight_formats.bytes(program.model.network.unet.variables)
        emitters = sampler.parts(program, halves=unet > declared.max_graph)
    graphs: list[dict] = [{} for _ in programs]  # one for each size
    for name, emit in emitters.items():
        path = folder / (("model" if layout == "whole" else name) + declared.suffix)
        sized = programs[:1] if name == "text" else programs  # the text encoder does not depend on the image's size
        made = declared.writer(form)(sized, emit, path, weight_formats)
        for size, graph in zip(graphs, made * len(programs) if name == "text" else made, strict=True):
            size[name] = {**graph, "file": graph["file"].relative_to(folder).as_posix()}
    if program.context is None:
        program.model.base.tokenizer.save(folder / TOKENIZER)
    facts = facts_of(programs, graphs, format, form) | {"weights": weights, "layout": layout}
    if program.model.task is not None:
        facts |= fidelity.facts(program.fidelity, layout, sampler.estimate(program)[1:])
    return facts


def write_manifest(folder: Path, facts: dict, origin: dict | None) -> None:
    """Write manifest.json: the facts, the origin, and the hashes of all files in the folder."""
    write_json(folder / MANIFEST, {**facts, "bundle": origin, "files": _files(folder)})


def _files(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    return {path.relative_to(folder).as_posix(): file_sha256(path) for path in files}
