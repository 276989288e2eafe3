"""Building packages: write the graphs, run them in their runtime, compare them with Keras, then put them in place."""

from __future__ import annotations

import dataclasses
import importlib
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codi_tf.checkpoints.lora_files import check_loras, lora_file
from codi_tf.core.errors import UserError
from codi_tf.diffusion.samplers import SAMPLERS
from codi_tf.io.bundle_files import BUNDLE, check_is_folder, is_bundle, model_at
from codi_tf.io.folders import check_folder, whole_folder
from codi_tf.io.hashing import file_sha256, folder_sha256
from codi_tf.io.json_files import write_json
from codi_tf.tasks import Task, task_config
from export.emit.limits import check_steps
from export.formats import FORMATS
from export.formats.format import MIXED
from export.package import adapters
from export.package.manifest import MANIFEST, PACKAGES, check_options, read_manifest, read_package
from export.package.schema import KIND, OTHERS, TEXT_TO_IMAGE, VERSION
from export.quantization.targets import check_target
from export.stage import stage

if TYPE_CHECKING:
    from codi_tf.models.tiny_decoder import TinyDecoder
    from export.emit.program import SamplerProgram
    from export.emit.text_model import TextModel
    from export.quantization.weights import WeightFormats

TOKENIZER = "tokenizer"
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
    weights: str = "float32",
    target: dict | None = None,
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
    report: bool = True,
) -> list[dict]:
    """Export a bundle, or a distilled text-to-image model, as a package.

    Args:
        bundle: folder of a trained model, or of a text-to-image model in the diffusers layout.
        out: folder of the package; an existing package is replaced.
        format: a name of `FORMATS`.
        layout: "whole", one graph, or "parts", for hosts that run the steps themselves.
        weights: the number format of kernels, one of those that the format offers.
        target: for mixed weights: {"size": bytes} or {"psnr": dB}.
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
        report: whether to measure speed and memory in another process, and write report.json and report.md.

    Returns:
        The figures of the gate for every size, see `parity.gate.check`.

    Raises:
        UserError: no model, an option out of its range, or an `out` that exists and is no package.
        ParityError: the package differs from the Keras model; nothing is left behind.
    """
    # Check before loading TensorFlow, which takes seconds.
    _check(out, format, layout, weights, target, inputs=[bundle, decoder, *(path for path, _ in loras)])
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
    if decoder is not None and not decoder.is_dir():
        raise UserError(f"--decoder is {decoder}: no such folder; name that of a small decoder")
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
    stored = {"format": format, "layout": layout, "weights": weights, "target": target}
    return write_package(programs, out, **stored, origin=origin, report=report)


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
    if options["layout"] != "parts" or options["weights"] == MIXED:
        raise UserError(f"{package}: adapters are for packages of parts (--layout parts) whose weights are not mixed")
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
    weights: str = "float32",
    target: dict | None = None,
    origin: dict | None = None,
    report: bool = True,
) -> list[dict]:
    """Write the graphs of programs and compare them with their Keras model; the package appears only if they agree.

    Args:
        programs: of one model, one for every size.
        out, format, layout, weights, target: see `make_package`.
        origin: what they were made from, for the manifest.
        report: as in `make_package`; if false, no process is started.

    Returns:
        The figures of the gate for every size.

    Raises:
        UserError, ParityError: see `make_package`.
    """
    from export.parity import gate as parity
    from export.parity import report as reports
    from export.quantization.weights import WeightFormats

    _check(out, format, layout, weights, target)
    FORMATS[format].check_installed()
    weight_formats = WeightFormats(weights)
    if target is not None:
        from export.quantization import mixed

        weight_formats = mixed.choose(programs[0], FORMATS[format].mixed_formats, **target)
    with whole_folder(out, PACKAGES) as folder:
        quantized = "" if weights == "float32" else f" with {weights} weights"
        sizes = " and ".join(f"{program.height}x{program.width}" for program in programs)
        with stage(f"converting {programs[0].steps} steps at {sizes} to {format}{quantized}"):
            facts = write_graphs(programs, folder, format, layout, weights, weight_formats)
            write_manifest(folder, facts, origin)
        pairs, psnr = list(zip(programs, read_package(folder).sizes, strict=True)), (target or {}).get("psnr")
        with stage("comparing with the Keras model"):
            figures = [parity.check(*pair, weight_formats, psnr=psnr, sizes=len(pairs)) for pair in pairs]
        if report:
            with stage("measuring"):
                reports.write(folder, [(*pair, found) for pair, found in zip(pairs, figures, strict=True)])
            write_manifest(folder, facts, origin)
    return figures


def _check(
    out: Path, format: str, layout: str, weights: str, target: dict | None, *, inputs: Sequence[Path | None] = ()
) -> None:
    check_options(format, weights, layout)
    if (weights == MIXED) != (target is not None):
        raise UserError("mixed weights need --target-size or --min-psnr, and these need --weights mixed")
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
) -> dict:
    """Write the graphs of programs, and a tokenizer where prompts are inputs; return the facts for the manifest.

    A step that is larger than a graph of the format can be is written in two halves.

    Raises:
        UserError: a graph is still larger than its format allows.
    """
    from export.emit import fidelity, sampler

    program, declared = programs[0], FORMATS[format]
    emitters = {"sampler": sampler.whole}
    if layout == "parts":
        unet = weight_formats.bytes(program.model.network.unet.variables)
        emitters = sampler.parts(program, halves=unet > declared.max_graph)
    graphs: list[dict] = [{} for _ in programs]  # one for each size
    for name, emit in emitters.items():
        path = folder / (("model" if layout == "whole" else name) + declared.suffix)
        sized = programs[:1] if name == "text" else programs  # the text encoder does not depend on the image's size
        made = declared.write(sized, emit, path, weight_formats)
        for size, graph in zip(graphs, made * len(programs) if name == "text" else made, strict=True):
            size[name] = {**graph, "file": graph["file"].relative_to(folder).as_posix()}
    if program.context is None:
        program.model.base.tokenizer.save(folder / TOKENIZER)
    first, *others = (_facts_of_size(*pair) for pair in zip(programs, graphs, strict=True))
    facts = {**_facts(program, format), "weights": weights, "layout": layout, **_neutral(program, first), **first}
    if program.model.task is not None:
        facts |= fidelity.facts(program.fidelity, layout, sampler.estimate(program)[1:])
    return {**facts, OTHERS: others} if others else facts


def write_manifest(folder: Path, facts: dict, origin: dict | None) -> None:
    """Write manifest.json: the facts, the origin, and the hashes of all files in the folder."""
    write_json(folder / MANIFEST, {**facts, "bundle": origin, "files": _files(folder)})


def _facts_of_size(program: SamplerProgram, graphs: dict) -> dict:
    size = [program.height, program.width]
    image = {"shape": [1, *size, 3], "dtype": "float32", "range": [0, 1], "layout": "NHWC, RGB"}
    task, inputs = program.model.task, {}
    if task is not None:
        masked = image | {"shape": [1, *size, task.condition_channels], "layout": "NHWC, RGB and mask"}
        inputs["condition"] = masked if task.has_mask else image
    noise = {"shape": list(program.latent_shape), "dtype": "float32", "distribution": "standard normal (docs/noise.md)"}
    ids = {"shape": list(program.context_shape[:1]), "dtype": "int32", "tokenizer": TOKENIZER}
    return {
        "image_size": size,
        "inputs": {**inputs, "noise": noise, **({"ids": ids} if program.context is None else {})},
        "outputs": {"image": image},
        "graphs": graphs,
    }


def _facts(program: SamplerProgram, format: str) -> dict:
    from export.emit import sampler

    model, task = program.model, program.model.task
    times = zip(sampler.step_numbers(model, program.grid), sampler.tables(program)[0], strict=True)
    return {
        "kind": KIND,
        "version": VERSION,
        "format": format,
        "sampler": program.sampler,
        "steps": program.steps,
        "schedule": [{**step._asdict(), "time": [float(value) for value in time]} for step, time in times],
        "prompt": program.prompt,
        **({"guidance": program.guidance} if model.network.takes_guidance or program.guidance != 1.0 else {}),
        **({"text_guidance": program.text_guidance} if program.text_guidance not in (None, 1.0) else {}),
        **({"evaluations": len(program.terms)} if len(program.terms) > 1 else {}),
        **({"label": program.asked_label} if program.asked_label is not None else {}),
        **({"condition_scale": program.condition_scale} if program.condition_scale != 1.0 else {}),
        **({"task": {"name": TEXT_TO_IMAGE}} if task is None else _facts_of_task(task)),
        "scheduler": model.base.scheduler,
        "made_with": {name: importlib.import_module(name).__version__ for name in FORMATS[format].makers},
    }


def _neutral(program: SamplerProgram, size: dict) -> dict:
    """Where a host can scale the condition: the neutral number of each condition feature that a part gives out."""
    if "encoder" not in size["graphs"]:
        return {}
    names = [name for name in size["graphs"]["encoder"]["outputs"] if name.startswith("condition_features_")]
    adapter = program.model.network.adapter
    assert adapter is not None  # the encoder part is its
    of_view = adapter.neutral_features(len(names) // len(program.views))
    neutral = None if of_view is None else of_view * len(program.views)
    ordered = sorted(names, key=lambda name: int(name.rpartition("_")[2]))
    return {} if neutral is None else {"neutral_features": dict(zip(ordered, neutral, strict=True))}


def _facts_of_task(task: Task) -> dict:
    facts = {name: getattr(task, name) for name in ("condition_file", "keeps_colors", "is_local")}
    return {"task": task_config(task), **facts}


def _files(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    return {path.relative_to(folder).as_posix(): file_sha256(path) for path in files}
