"""Bundles, which are saved models: a folder in the diffusers layout with `adapter/` and `codi.json`."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from codi_tf.adapters import ADAPTERS
from codi_tf.adapters.adapted import Adapter
from codi_tf.checkpoints.base import Base
from codi_tf.checkpoints.folder import bytes_of, save_base
from codi_tf.checkpoints.stable_diffusion import load_stable_diffusion
from codi_tf.config import Adaptation
from codi_tf.core.errors import UserError
from codi_tf.core.formats import FloatFormat, check_format
from codi_tf.core.settings import named
from codi_tf.io.bundle_files import BUNDLE, BUNDLES, check_is_folder, is_bundle
from codi_tf.io.folders import check_folder, whole_folder
from codi_tf.io.hashing import folder_sha256
from codi_tf.io.json_files import read_json, write_json
from codi_tf.methods import METHODS
from codi_tf.methods.method import MethodSettings
from codi_tf.methods.networks import check_adaptable
from codi_tf.models.tiny_decoder import TinyDecoder
from codi_tf.tasks import Task, make_task, task_config

FORMAT = 1


@dataclass(frozen=True)
class Contents:
    """What a bundle holds.

    Attributes:
        base: the model with the UNet that generates.
        adapter: the adapter that generates.
        settings: the options of the method that trained it.
        task: what the condition is.
        adaptation: how the base was adapted.
        ema_decay, seed, image_size: see `CoDi`.
    """

    base: Base
    adapter: Adapter
    settings: MethodSettings
    task: Task
    adaptation: Adaptation
    ema_decay: float
    seed: int
    image_size: int


def write_bundle(
    contents: Contents,
    path: Path,
    *,
    overwrite: bool = True,
    dtype: FloatFormat = "float32",
    provenance: dict | None = None,
) -> None:
    """Write a bundle, whole or not at all.

    Where the adapter alone was trained, on a base that was read from a diffusers folder, the bundle holds the adapter
    alone and names the base by path and SHA-256.

    Args:
        contents: what to write.
        path: the folder.
        overwrite: whether an existing bundle is replaced.
        dtype: "float32", "float16" or "bfloat16", of the weights on disk.
        provenance: notes on how the model was made, plain data.

    Raises:
        UserError: the folder exists and is no bundle, holds other files, too, or must not be replaced; it holds the
            base that the bundle names; an unknown dtype; a full disk.
    """
    check_format("dtype", dtype)
    base = contents.base
    named_base = base.path if contents.adaptation.train == "adapter" else None
    size = 0 if named_base is not None else bytes_of(base, dtype)
    check_folder(path, BUNDLES, inputs=[named_base], size=size)
    if is_bundle(path) and not overwrite:
        raise UserError(f"{path}: exists; allow overwriting or choose another place")
    about = {
        "format": FORMAT,
        "method": named(METHODS, contents.settings),
        "task": task_config(contents.task),
        "adaptation": dataclasses.asdict(contents.adaptation),
        "ema_decay": contents.ema_decay,
        "seed": contents.seed,
        "image_size": contents.image_size,
        "base": None if named_base is None else _reference(named_base),
        "provenance": provenance or {},
    }
    with whole_folder(path, BUNDLES) as folder:
        contents.adapter.write(folder / "adapter", dtype=dtype)
        if named_base is None:
            save_base(base, folder, dtype=dtype)
        write_json(folder / BUNDLE, about)


def read_bundle(path: Path, *, compute: FloatFormat, weights: FloatFormat, decoder: TinyDecoder | None) -> Contents:
    """Read a bundle: safetensors and JSON, no code. See `codi_tf.load`.

    Raises:
        UserError: no bundle, or a missing, truncated or foreign part; an unknown format; a decoder of other latents; a
            task or method that is not registered.
    """
    check_is_folder(path)
    if not is_bundle(path) and not path.is_dir():
        raise UserError(f"{path}: no such bundle; train one or name another")
    about = read_json(path / BUNDLE)
    try:
        return _contents(path, about, compute=compute, weights=weights, decoder=decoder)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path / BUNDLE}: incomplete or of another version ({error}); make the bundle again") from None


def _contents(
    path: Path, about: dict, *, compute: FloatFormat, weights: FloatFormat, decoder: TinyDecoder | None
) -> Contents:
    if about["format"] != FORMAT:
        raise UserError(f"{path / BUNDLE}: format {about['format']!r} is not known; update codi_tf")
    options = dict(about["method"])
    settings = METHODS[options.pop("name")](**options)
    task_options = dict(about["task"])
    task = make_task(task_options.pop("name"), **task_options)
    kept = {key: about[key] for key in ("ema_decay", "seed", "image_size")}
    fields = {key: about["adaptation"][key] for key in ("adapter", "train", "mu_rate")}
    adaptation = Adaptation(**fields, pretrained=about["adaptation"].get("pretrained", True))
    source = path if about["base"] is None else _referenced(path, about["base"])
    base = load_stable_diffusion(source, compute=compute, weights=weights)
    base = dataclasses.replace(base, decoder=decoder)
    check_adaptable(base, adaptation.train)
    adapter = ADAPTERS[adaptation.adapter].read(path / "adapter", base, task.condition_channels)
    return Contents(base, adapter, settings, task, adaptation, **kept)


def _reference(path: Path) -> dict:
    return {"path": str(path.resolve()), "sha256": folder_sha256(path)}


def _referenced(bundle: Path, reference: dict) -> Path:
    source = Path(reference["path"])
    if not source.is_dir():
        raise UserError(f"{bundle}: needs its base, and {source} is missing; put it back or edit base.path in {BUNDLE}")
    if folder_sha256(source) != reference["sha256"]:
        raise UserError(f"{bundle}: its base {source} has changed since; put back the one it was trained on")
    return source
