"""One network in and out of a diffusers folder, by the tables of its kind."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from codi_tf.checkpoints.base import make_network
from codi_tf.checkpoints.kinds import HIDDEN_ACTS, Kind
from codi_tf.checkpoints.rules import POSITIONS, Renaming
from codi_tf.core.errors import UserError
from codi_tf.io.json_files import read_json
from codi_tf.io.layouts import DENSE, Layout, Origin, Origins
from codi_tf.io.tensor_files import StoredTensor, read_header
from codi_tf.io.weights import CONFIG, make_from, save_network

VARIANTS = ("", "fp16", "bf16")  # the names of halved files; the full one comes first
PICKLES = (".ckpt", ".bin", ".pt", ".pth", ".pkl")
SIDE = 64  # of latents, at least, in the files of diffusers before OLD: those of Stable Diffusion 1.x say 32 by mistake
OLD = (0, 9)
NUMBERS = {int: "a whole number", float: "a number"}


def read_network(kind: Kind, folder: Path, *, name: str, numerics: str | None = None) -> keras.Model:
    """A network from its folder in a diffusers checkpoint, in the dtype policy that holds.

    Args:
        kind: the tables of the network's kind.
        folder: with config.json and the weights, in one file or several.
        name: of the network.
        numerics: "diffusers" or "keras_cv"; None: what config.json says.

    Raises:
        UserError: for a missing, truncated or foreign part, or a configuration that is not built here.
    """
    config = in_numerics(kind, read_config(kind, folder / CONFIG), numerics)
    stored, path = stored_tensors(folder, kind.file)
    stored = {key: tensor for key, tensor in stored.items() if not key.startswith(kind.unread)}
    weights = {key: tensor for key, tensor in stored.items() if not re.search(POSITIONS, key)}
    for key in stored.keys() - weights.keys():
        check_positions(stored[key], key)
    renamings = [renaming for renaming in kind.spellings if renaming.holds(weights)]
    return make_from(lambda: make_network(kind.network, config, name), weights, path, origins(renamings, weights))


def write_network(
    kind: Kind,
    network: keras.Model,
    folder: Path,
    *,
    dtype: str = "float32",
    extra_config: Mapping[str, object] | None = None,
    zeros: Mapping[str, tuple[int, ...]] | None = None,
    report: Callable[[int], None] | None = None,
) -> None:
    """Write a network so that the peer's class reads it: every key that its numbers depend on stands in config.json.

    `zeros` are tensors of zeros that the peer's class has besides: key -> shape.

    Raises:
        UserError: an unknown dtype, or a value that it cannot hold.
    """
    levels = len(getattr(network, "block_out_channels", ()))
    save_network(
        network,
        folder,
        dtype=dtype,
        extra_config={**peer_config(kind, levels), **(extra_config or {})},
        file=f"{kind.file}.safetensors",
        prefix=kind.prefix,
        zeros=zeros,
        report=report,
    )


def peer_config(kind: Kind, levels: int) -> dict:
    """What stands in the config.json of a network of so many levels besides the arguments of our class."""
    fixed = {key: values[0] for key, values in kind.fixed.items()}
    fixed |= {key: [fixed[key]] * levels for key in kind.per_level}
    return {"_class_name": kind.peer, **kind.written, **fixed}


def read_config(kind: Kind, path: Path) -> dict:
    """The arguments of our class, from a config.json.

    Raises:
        UserError: a missing or broken file, another class, or a key with a value that is not built here.
    """
    config = _corrected(read_json(path))
    found = config.get("_class_name", kind.peer)
    if found != kind.peer:
        raise UserError(f"{path}: describes a {found}, where a {kind.peer} should be; name another checkpoint")
    arguments = dict(kind.ours)
    for key, value in config.items():
        if key.startswith("_") or key in kind.inert:
            continue
        one = _one(value)
        if key in kind.ours:
            arguments[key] = value if isinstance(kind.ours[key], tuple) else one
        elif key in kind.fixed:
            if not any(_same(one, possible) for possible in kind.fixed[key]):
                wanted = " or ".join(repr(v) for v in kind.fixed[key])
                raise UserError(f"{path}: {key} is {value!r}, which is not built here: only {wanted} is")
        elif value is not None:
            raise UserError(f"{path}: {key} is {value!r}, which is not built here: only null is")
    check_numbers(kind, arguments, path)
    return arguments


def check_numbers(kind: Kind, arguments: Mapping[str, Any], path: Path) -> None:
    """Refuses arguments of our class that are not the positive numbers that they should be. Raises UserError."""
    for key, wanted in kind.positive.items():
        value = arguments.get(key, kind.ours[key])
        number = type(value) in (int, wanted) and 0 < value < math.inf
        if not number and not (value is None and kind.ours[key] is None):
            raise UserError(f"{path}: {key} is {value!r}: it must be {NUMBERS[wanted]} above 0")


def in_numerics(kind: Kind, arguments: Mapping[str, Any], numerics: str | None) -> dict:
    """The arguments of our class with which its numbers are those of "diffusers" or "keras_cv"; None: as they are."""
    if numerics is None:
        return dict(arguments)
    if "numerics" in kind.ours:
        return {**arguments, "numerics": numerics}
    act = arguments["hidden_act"]
    return {**arguments, "hidden_act": HIDDEN_ACTS[numerics].get(act, act)}


def stored_tensors(folder: Path, stem: str) -> tuple[dict[str, StoredTensor], Path]:
    """The tensors of `stem`.safetensors, of its shards or of its halved variant, and the file that names them.

    Raises:
        UserError: there is none, it is a pickle, or it is broken.
    """
    for variant in VARIANTS:
        single = folder / ".".join(filter(None, (stem, variant, "safetensors")))
        if single.exists():
            return read_header(single)[0], single
        for name in ((stem, "safetensors.index", variant, "json"), (stem, variant, "safetensors.index.json")):
            index = folder / ".".join(filter(None, name))
            if index.exists():
                return _sharded(index), index
    refuse_pickles(folder)
    raise UserError(
        f"{folder / stem}.safetensors: no such weight file; the folder is incomplete, copy or make it again"
    )


def refuse_pickles(path: Path) -> None:
    """Refuses a pickled checkpoint, or a folder that holds only such. Raises UserError."""
    if path.is_dir() and any(path.glob("*.safetensors")):
        return
    pickles = sorted(p for p in (path.iterdir() if path.is_dir() else [path]) if p.suffix in PICKLES)
    if pickles:
        raise UserError(
            f"{pickles[0]}: a pickle, which can run any code when it is read; where you trust it, turn it into "
            "safetensors with PyTorch: safetensors.torch.save_file(torch.load(FILE)), or, for a pipeline, "
            "save_pretrained(FOLDER, safe_serialization=True)"
        )


def origins(renamings: Sequence[Renaming], stored: Mapping[str, StoredTensor]) -> Origins:
    """Where a variable's value lies in a file, by the renamings that hold for it."""

    def origin(key: str, layout: Layout) -> Origin:
        theirs, part, parts = key, 0, 1
        for renaming in renamings:
            theirs = renaming(theirs)
            if renaming.fused:
                part, parts = renaming.part(key)
            if layout == DENSE and renaming.pointwise and re.search(renaming.pointwise, key) and theirs in stored:
                ones = len(stored[theirs].shape) - 2
                layout = layout._replace(ones=ones) if ones in (1, 2) else layout
        return Origin(theirs, layout, part, parts)

    return origin


def check_positions(stored: StoredTensor, key: str) -> None:
    """Refuses positions that are not 0, 1, 2, ... Merging in half precision moves them a little. Raises UserError."""
    values = stored.read().reshape(-1).astype("float64")
    if not np.array_equal(np.rint(values), np.arange(values.size)):
        raise UserError(f"{stored.path}: {key} is not 0, 1, 2, ...: another order of positions is not built here")


def _sharded(index: Path) -> dict[str, StoredTensor]:
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(v, str) and Path(v).name == v for v in places.values()):
        raise UserError(f"{index}: holds no weight_map of keys and file names; copy or make it again")
    stored: dict[str, StoredTensor] = {}
    for name in sorted(set(places.values())):
        tensors, _ = read_header(index.parent / name)
        wanted = {key for key, file in places.items() if file == name}
        if wanted != tensors.keys():
            key = min(wanted ^ tensors.keys())
            where = "the index" if key in tensors else name
            raise UserError(f"{index}: {key} is missing in {where}; the files do not belong together")
        stored |= tensors
    return stored


def _corrected(config: dict) -> dict:
    """The latents' side is what StableDiffusionPipeline makes of it: not below 64 in files of diffusers before 0.9."""
    version, side = re.findall(r"\d+", str(config.get("_diffusers_version"))), config.get("sample_size")
    if version and tuple(map(int, version[:2])) < OLD and isinstance(side, int) and side < SIDE:
        return {**config, "sample_size": SIDE}
    return config


def _one(value):
    """A list of equal entries, one a level, says the same as the entry."""
    if isinstance(value, list) and value and all(entry == value[0] for entry in value):
        return value[0]
    return value


def _same(a, b) -> bool:
    """Equality that tells True from 1."""
    return a == b and isinstance(a, bool) == isinstance(b, bool)
