"""Bundles, which are saved models: a folder in the diffusers layout with `adapter/` and `codi.json`."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from codi_tf.adapters import ADAPTERS
from codi_tf.adapters.adapted import Adapter
from codi_tf.checkpoints.base import Base
from codi_tf.checkpoints.folder import save_base
from codi_tf.checkpoints.stable_diffusion import load_stable_diffusion
from codi_tf.config import Adaptation
from codi_tf.core.errors import UserError
from codi_tf.core.formats import FloatFormat, check_format
from codi_tf.core.settings import named
from codi_tf.io.bundle_files import BUNDLE, is_bundle
from codi_tf.io.files import whole_folder
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


def describe(
    settings: MethodSettings, task: Task, adaptation: Adaptation, *, ema_decay: float, seed: int, image_size: int
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


def check_plain(what: str, options: dict) -> None:
    """Raises UserError for options that are no plain data, and hence cannot be saved as JSON."""
    for key, value in options.items():
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError):
            raise UserError(
                f"{what}: {key} is {value!r}, which cannot be saved: use numbers, texts, lists and dictionaries"
            ) from None


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
        UserError: the folder exists and is no bundle, or must not be replaced; an unknown dtype.
    """
    check_format("dtype", dtype)
    if path.exists() and not is_bundle(path):
        raise UserError(f"{path}: exists and is no bundle; choose another place")
    if path.exists() and not overwrite:
        raise UserError(f"{path}: exists; allow overwriting or choose another place")
    base = contents.base
    named_base = base.path if contents.adaptation.train == "adapter" else None
    check_plain("provenance", provenance or {})
    about = describe(
        contents.settings,
        contents.task,
        contents.adaptation,
        ema_decay=contents.ema_decay,
        seed=contents.seed,
        image_size=contents.image_size,
    )
    about["base"] = None if named_base is None else _reference(named_base)
    about["provenance"] = provenance or {}
    with whole_folder(path) as folder:
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
    if not path.is_dir():
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
