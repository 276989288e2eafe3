"""Bundles, which are saved models: a folder in the diffusers layout with `adapter/` and `codi.json`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from codi_tf.adapters import ADAPTERS
from codi_tf.adapters.adapted import Adapter, Starts
from codi_tf.adapters.concat import separated
from codi_tf.adapters.lora import brings_guidance, merged_unet, read_lora, write_lora
from codi_tf.checkpoints.base import Base, with_loras
from codi_tf.checkpoints.folder import bytes_of, save_base
from codi_tf.checkpoints.kinds import UNET
from codi_tf.checkpoints.lora_files import LORA
from codi_tf.checkpoints.networks import stored_tensors
from codi_tf.checkpoints.skeleton import read_skeleton
from codi_tf.checkpoints.stable_diffusion import load_stable_diffusion
from codi_tf.config import Adaptation, Lora
from codi_tf.config.reading import arguments_of
from codi_tf.core.errors import UserError
from codi_tf.core.formats import INTEGERS, STORED, FloatFormat, StoredFormat, check_format
from codi_tf.core.paths import as_path, joined
from codi_tf.core.settings import named
from codi_tf.core.showing import clipped
from codi_tf.io.bundle_files import (
    BUNDLE,
    BUNDLES,
    FORMAT,
    another_model,
    check_is_folder,
    is_bundle,
    model_at,
    read_about,
)
from codi_tf.io.folders import check_folder, whole_folder
from codi_tf.io.hashing import folder_sha256
from codi_tf.io.json_files import check_plain, write_json
from codi_tf.io.weights import CONFIG
from codi_tf.methods import METHODS
from codi_tf.methods.finetune import Finetune
from codi_tf.methods.method import MethodSettings, Space
from codi_tf.methods.networks import check_adaptable, with_guidance
from codi_tf.models.low_rank import LoraWeights
from codi_tf.models.tiny_decoder import TinyDecoder
from codi_tf.tasks import Task, make_task, task_config

SPACES: dict[str, Space] = {"epsilon": "noise", "v_prediction": "velocity", "sample": "signal"}  # of a prediction type


@dataclass(frozen=True)
class Contents:
    """What a bundle holds.

    Attributes:
        base: the model with the UNet that generates.
        adapter: the adapter that generates.
        lora: the changes of the UNet with which it generates; None: none.
        settings: the options of the method that trained it.
        task: what the condition is.
        adaptation: how the base was adapted.
        ema_decay, result_decay, seed, image_size: see `CoDi`.
    """

    base: Base
    adapter: Adapter
    settings: MethodSettings
    task: Task
    adaptation: Adaptation
    ema_decay: float
    result_decay: float
    seed: int
    image_size: int
    lora: LoraWeights | None = None


def describe(
    settings: MethodSettings,
    task: Task,
    adaptation: Adaptation,
    *,
    ema_decay: float,
    result_decay: float,
    seed: int,
    image_size: int,
) -> dict:
    """What a bundle says about a model, as plain data; see `Contents`. Called before training, too.

    Raises:
        UserError: a task or method that could not be read again: it is not registered, or has an option that is no
            plain data.
    """
    about = {
        "format": FORMAT,
        "method": named(METHODS, settings),
        "task": task_config(task),
        "adaptation": dataclasses.asdict(adaptation),
        "ema_decay": ema_decay,
        "result_decay": result_decay,
        "seed": seed,
        "image_size": image_size,
    }
    for what, make in (("method", lambda name, **options: METHODS[name](**options)), ("task", make_task)):
        check_plain(f"{what} {about[what]['name']}", about[what])
        try:
            make(**json.loads(json.dumps(about[what])))
        except (TypeError, ValueError) as error:
            raise UserError(f"{what} {about[what]['name']}: cannot be made again from its options ({error})") from None
    return about


def write_bundle(
    contents: Contents,
    path: str | Path,
    *,
    overwrite: bool = True,
    dtype: StoredFormat = "float32",
    provenance: dict | None = None,
) -> None:
    """Write a bundle, whole or not at all.

    Where the adapter alone was trained, on a base that was read from a diffusers folder, the bundle holds the adapter
    alone, with its LoRA, and names the base by path and SHA-256.

    Args:
        contents: what to write.
        path: the folder.
        overwrite: whether an existing bundle is replaced.
        dtype: "float32", "float16" or "bfloat16", of the weights on disk; or, where the bundle holds the adapter alone,
            "int8", or "int4" of adapter "mu" (changes of the base's weights). Its LoRA is then in float16.
        provenance: notes on how the model was made, plain data.

    Raises:
        UserError: the folder exists and is no bundle, holds other files, too, or must not be replaced; it holds the
            base that the bundle names; an unknown dtype, or one that its parts cannot have; a full disk.
    """
    check_format("dtype", dtype, STORED)
    base, path = contents.base, as_path(path)
    named_base = base.path if contents.adaptation.train == "adapter" else None
    if dtype in INTEGERS and named_base is None:
        raise UserError(f"dtype is {dtype}: that is for bundles that hold the adapter alone; use float16")
    if dtype == "int4" and contents.adapter.copied is None:
        raise UserError(
            f"dtype is int4: adapter {contents.adaptation.adapter} does not start as a copy of its base; use int8"
        )
    others: FloatFormat = "float16" if dtype == "int8" or dtype == "int4" else dtype  # of what is never in integers
    check_plain("provenance", provenance or {})
    about = describe(
        contents.settings,
        contents.task,
        contents.adaptation,
        ema_decay=contents.ema_decay,
        result_decay=contents.result_decay,
        seed=contents.seed,
        image_size=contents.image_size,
    )
    about["base"] = None if named_base is None else _reference(named_base, path)
    about["provenance"] = provenance or {}
    size = 0 if named_base is not None else bytes_of(base, others)
    check_folder(path, BUNDLES, inputs=[named_base], size=size)
    if is_bundle(path) and not overwrite:
        raise UserError(f"{path}: exists; allow overwriting or choose another place")
    with whole_folder(path, BUNDLES) as folder:
        contents.adapter.write(folder / "adapter", dtype=dtype, **_starts(contents.adapter, named_base))
        if contents.lora is not None:
            write_lora(contents.lora, folder / LORA, dtype=others)
        if named_base is None:
            save_base(base, folder, dtype=others)
        write_json(folder / BUNDLE, about)


def read_bundle(
    path: Path,
    *,
    compute: FloatFormat,
    weights: FloatFormat,
    decoder: TinyDecoder | None,
    loras: Iterable[tuple[str | Path, float]] = (),
    merge: bool = False,
) -> Contents:
    """Read a bundle: safetensors and JSON, no code. See `codi_tf.load`.

    Of a diffusers folder whose UNet takes the condition beside the latents: `from_checkpoint`.

    Raises:
        UserError: no bundle, or a missing, truncated or foreign part; an unknown format; a decoder of other latents; a
            task or method that is not registered.
    """
    check_is_folder(path)
    if not is_bundle(path) and not path.is_dir():
        raise UserError(f"{path}: no such bundle; {another_model(path)}")
    if not is_bundle(path) and _takes_condition(path):
        base = load_stable_diffusion(path, compute=compute, weights=weights)
        return from_checkpoint(dataclasses.replace(with_loras(base, loras), decoder=decoder))
    about = read_about(path)
    try:
        settings, task, adaptation = _settings(about)
    except UserError as error:
        raise UserError(f"{path / BUNDLE}: {error}") from None
    except (TypeError, ValueError, AttributeError, ArithmeticError) as error:  # raised by checks of options
        raise UserError(f"{path / BUNDLE}: incomplete or of another version ({error}); make the bundle again") from None
    kept = {key: about[key] for key in ("ema_decay", "seed", "image_size")}
    kept["result_decay"] = about.get("result_decay", 0.0)  # of earlier versions: theta- is the result
    source = path if about["base"] is None else _referenced(path, about["base"])
    base = load_stable_diffusion(source, compute=compute, weights=weights)
    base = dataclasses.replace(with_loras(base, loras), decoder=decoder)
    check_adaptable(base, adaptation.train)
    kind = ADAPTERS[adaptation.adapter]
    starts = _starts(kind, None if about["base"] is None else source)
    adapter = kind.read(path / "adapter", base, task.condition_channels, **starts)
    lora = None
    if adaptation.lora is not None and base.unet is not None:
        unet = base.unet
        if unet.time_cond_proj_dim is None and brings_guidance(path / LORA):
            unet = with_guidance(unet, "unet")
            base = dataclasses.replace(base, unet=unet)
        lora = read_lora(path / LORA, unet, adaptation.lora.settings())
    if lora is not None and merge and base.unet is not None:
        base = dataclasses.replace(base, unet=merged_unet(base.unet, lora), path=None)
        adaptation, lora = dataclasses.replace(adaptation, lora=None), None
    return Contents(base, adapter, settings, task, adaptation, lora=lora, **kept)


def copy_bundle(source: str | Path, target: str | Path, *, dtype: StoredFormat = "float32") -> None:
    """Write a bundle again, with the weights in another format and the same notes on how it was made.

    Args:
        source: the folder of a bundle, or of the run whose result it is.
        target: the new folder; a bundle that is there is replaced.
        dtype: of the weights on disk, see `write_bundle`.

    Raises:
        UserError: see `read_bundle` and `write_bundle`.
    """
    path = model_at(source)
    contents = read_bundle(path, compute="float32", weights="float32", decoder=None)
    write_bundle(contents, target, dtype=dtype, provenance=read_about(path).get("provenance"))


def from_checkpoint(base: Base, task: Task | None = None) -> Contents:
    """What a bundle of a checkpoint holds whose UNet takes the condition beside the latents, as adapter "concat" does.

    Args:
        base: Stable Diffusion inpainting, with 9 input channels, or InstructPix2Pix, with 8. The prompt can guide both
            of them, the condition the second.
        task: what the condition is; None: inpainting where the UNet takes a mask, editing where it takes none.

    Raises:
        UserError: the UNet takes something else, or the task has a mask and the UNet takes none, or the reverse.
    """
    base, adapter = separated(base)
    assert base.unet is not None  # `separated` refuses a base without one
    takes_mask = adapter.in_channels > base.vae.latent_channels
    task = task or make_task("inpainting" if takes_mask else "editing")
    if task.has_mask != takes_mask:
        channels = base.unet.in_channels + adapter.in_channels
        has, takes = ("a mask" if one else "no mask" for one in (task.has_mask, takes_mask))
        raise UserError(
            f"task {task.name} has {has}, but a UNet of {channels} input channels takes {takes}: use a task with "
            f"{takes}, as {'inpainting' if takes_mask else 'editing'}"
        )
    drop_condition = 0.0 if takes_mask else 0.1
    settings = Finetune(space=SPACES[base.prediction_type], drop_condition=drop_condition, drop_prompt=0.1)
    return Contents(
        base=base,
        adapter=adapter,
        settings=settings,
        task=task,
        adaptation=Adaptation(adapter="concat"),
        ema_decay=0.999,
        result_decay=0.0,
        seed=0,
        image_size=(base.unet.sample_size or 64) * base.vae.factor,
    )


def merged_base(path: Path) -> Base | None:
    """The base of a bundle with the adapter as a part of its UNet; None for an adapter that does not merge.

    Raises:
        UserError: see `read_bundle`.
    """
    if not ADAPTERS[read_about(path)["adaptation"]["adapter"]].merges:
        return None
    contents = read_bundle(path, compute="float32", weights="float32", decoder=None, merge=True)
    return contents.adapter.merged(contents.base)


def _takes_condition(path: Path) -> bool:
    """Whether a diffusers folder has a UNet with more input channels than its latents have."""
    if not (path / "unet" / CONFIG).is_file() or not (path / "vae" / CONFIG).is_file():
        return False
    base = read_skeleton(path)
    assert base.unet is not None  # its config.json is there
    return base.unet.in_channels != base.vae.latent_channels


def _settings(about: dict) -> tuple[MethodSettings, Task, Adaptation]:
    """Method, task and adaptation of a bundle. Raises UserError, or what else the checks of an option raise."""
    method = METHODS[about["method"]["name"]]
    options = {key: value for key, value in about["method"].items() if key != "name"}
    task = {key: value for key, value in about["task"].items() if key != "name"}
    fields = {key: about["adaptation"][key] for key in ("adapter", "train", "mu_rate")}
    lora = about["adaptation"].get("lora")
    fields["lora"] = None if lora is None else Lora(**arguments_of(Lora, lora, "adaptation.lora"))
    adaptation = Adaptation(**fields, pretrained=about["adaptation"].get("pretrained", True))
    return method(**arguments_of(method, options, "method")), make_task(about["task"]["name"], **task), adaptation


def _starts(adapter: Adapter | type[Adapter], base: Path | None) -> dict[str, Starts]:
    """The argument `starts` of adapters that are copies of a base's encoder, where a bundle names this base."""
    if adapter.copied is None or base is None:
        return {}
    stored, _ = stored_tensors(base / "unet", UNET.file)
    return {"starts": {adapter.copied + key: tensor for key, tensor in stored.items()}}


def _reference(base: Path, bundle: Path) -> dict:
    """The base that a bundle names: by "../NAME" where it lies beside the bundle, so that both can move together."""
    base, bundle = base.resolve(), bundle.resolve()
    path = Path("..", base.name) if base.parent == bundle.parent else base
    return {"path": str(path), "sha256": folder_sha256(base)}


def _referenced(bundle: Path, reference: dict) -> Path:
    """The base that a bundle names: a folder anywhere, because bases are large and shared; relative to the bundle.

    What is there must be a model before it is hashed: a path such as / would be read as a whole.
    """
    source = joined(bundle.resolve(), reference["path"])
    if not source.is_dir():
        raise UserError(
            f"{bundle}: needs its base, and {clipped(str(source), 400)} is missing; put it back or edit base.path in "
            f"{BUNDLE}"
        )
    if not (source / "vae" / CONFIG).is_file():
        raise UserError(f"{bundle}: its base {source} is no model (it has no vae/{CONFIG}); edit base.path in {BUNDLE}")
    try:
        found = folder_sha256(source)
    except OSError as error:
        raise UserError(f"{bundle}: its base {source} cannot be read ({error.strerror or error})") from None
    if found != reference["sha256"]:
        raise UserError(f"{bundle}: its base {source} has changed since; put back the one it was trained on")
    return source
