"""Reading and writing one network of a diffusers folder by the tables of its kind."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from codi_tf.checkpoints.base import make_network
from codi_tf.checkpoints.kinds import HIDDEN_ACTS, UNET, Kind
from codi_tf.checkpoints.rules import POSITIONS, Renaming
from codi_tf.core.errors import UserError
from codi_tf.core.limits import MAX_BLOCKS, MAX_LAYERS, MAX_LEVELS, MAX_WIDTH, MAX_WORDS
from codi_tf.core.showing import bare, shown
from codi_tf.io.inside import check_name
from codi_tf.io.json_files import read_json
from codi_tf.io.layouts import DENSE, Layout, Origin, Origins
from codi_tf.io.tensor_files import StoredTensor, read_header
from codi_tf.io.weights import CONFIG, make_from, save_network

VARIANTS = ("", "fp16", "bf16")  # in the names of files in half precision; the full file comes first
PICKLES = (".ckpt", ".bin", ".pt", ".pth", ".pkl")
SIDE = 64  # the smallest side of latents in files of diffusers before OLD: Stable Diffusion 1.x says 32 by mistake
OLD = (0, 9)
SIZES = (  # ends of names -> the largest sizes; of others MAX_WIDTH
    ("_layers", MAX_LAYERS),
    ("layers_per_block", MAX_BLOCKS),
    ("_blocks", MAX_BLOCKS),
    ("vocab_size", MAX_WORDS),
)
NUMBERS = {int: "a whole number", float: "a number"}


def read_network(kind: Kind, folder: Path, *, name: str, numerics: str | None = None) -> keras.Model:
    """A network from its folder in a diffusers checkpoint, with the current dtype policy.

    Args:
        kind: the tables of the network.
        folder: the folder of config.json and the weights, in one file or several.
        name: the name of the network.
        numerics: "diffusers" or "keras_cv"; None: the value in config.json.

    Raises:
        UserError: a part is missing, truncated or of another network, or the configuration is not supported.
    """
    config = in_numerics(kind, read_config(kind, folder / CONFIG), numerics)
    stored, path = stored_tensors(folder, kind.file)
    stored = {key: tensor for key, tensor in stored.items() if not key.startswith(kind.unread)}
    weights = {key: tensor for key, tensor in stored.items() if not re.search(POSITIONS, key)}
    for key in stored.keys() - weights.keys():
        check_positions(stored[key], key)
    renamings = [renaming for renaming in kind.spellings if renaming.applies(weights)]
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
    """Write a network so that the peer's class reads it; config.json has every key that affects the results.

    `zeros`: key -> shape of tensors that only the peer's class has; they are written as zeros.

    Raises:
        UserError: an unknown dtype, or a value beyond its range.
    """
    levels = len(getattr(network, "block_out_channels", ()))
    save_network(
        network,
        folder,
        dtype=dtype,
        extra_config={**peer_config(kind, levels), **(extra_config or {})},
        file=f"{kind.file}.safetensors",
        prefix=kind.prefix,
        implied=kind.implied,
        zeros=zeros,
        report=report,
    )


def peer_config(kind: Kind, levels: int) -> dict:
    """The entries of config.json that are no arguments of our class, for a network with this number of levels."""
    fixed = {key: values[0] for key, values in kind.fixed.items()}
    fixed |= {key: [fixed[key]] * levels for key in kind.per_level}
    return {"_class_name": kind.peer, **kind.written, **fixed}


def read_config(kind: Kind, path: Path) -> dict:
    """The arguments of our class from a config.json.

    Raises:
        UserError: the file is missing, broken or of another class, or a value is not supported.
    """
    config = read_json(path)
    config = _corrected(config) if kind is UNET else config
    found = config.get("_class_name", kind.peer)
    if found != kind.peer:
        raise UserError(f"{path}: describes a {bare(found)}, expected a {kind.peer}; name another checkpoint")
    arguments = {**kind.ours, **kind.implied}
    for key, value in config.items():
        if key.startswith("_") or key in kind.inert:
            continue
        one = _one(value)
        if key in kind.ours:
            arguments[key] = value if isinstance(kind.ours[key], tuple) else one
        elif key in kind.fixed:
            if not any(_same(one, possible) for possible in kind.fixed[key]):
                wanted = " or ".join(repr(v) for v in kind.fixed[key])
                raise UserError(f"{path}: {key} is {shown(value)}, which is not supported: only {wanted} is")
        elif value is not None:
            raise UserError(f"{path}: {key} is {shown(value)}, which is not supported: only null is")
    check_numbers(kind, arguments, path)
    return arguments


def check_numbers(kind: Kind, arguments: Mapping[str, Any], path: Path) -> None:
    """Raises UserError for arguments of our class that must be positive numbers, true or false, or lists."""
    for key, wanted in kind.positive.items():
        value = arguments.get(key, kind.ours[key])
        numbers = value if key in kind.lists and isinstance(value, list | tuple) else [value]
        valid = all(type(number) in (int, wanted) and 0 < number < math.inf for number in numbers)
        if not valid and not (value is None and kind.ours[key] is None):
            raise UserError(f"{path}: {key} is {shown(value)}: it must be {NUMBERS[wanted]} above 0")
    for key, default in kind.ours.items():
        if isinstance(default, bool) and not isinstance(arguments.get(key, default), bool | None):  # null means false
            raise UserError(f"{path}: {key} is {shown(arguments[key])}: it must be true or false")
        if isinstance(default, tuple) and not isinstance(arguments.get(key, default), list | tuple):
            raise UserError(f"{path}: {key} is {shown(arguments[key])}: it must be a list")
    check_sizes(arguments, path)


def check_sizes(arguments: Mapping[str, Any], path: Path) -> None:
    """Raise UserError for sizes of a network beyond `core.limits`: time and memory before a weight is read."""
    for key, value in arguments.items():
        most = next((limit for end, limit in SIZES if key.endswith(end)), MAX_WIDTH)
        if isinstance(value, list | tuple) and len(value) > MAX_LEVELS:
            raise UserError(f"{path}: {key} has {len(value)} entries: it must be at most {MAX_LEVELS}")
        for number in value if isinstance(value, list | tuple) else [value]:
            if isinstance(number, int | float) and number > most:
                raise UserError(f"{path}: {key} is {shown(value)}: it must be at most {most}")


def in_numerics(kind: Kind, arguments: Mapping[str, Any], numerics: str | None) -> dict:
    """The arguments of our class for the numerics "diffusers" or "keras_cv"; None: unchanged."""
    if numerics is None:
        return dict(arguments)
    if "numerics" in kind.ours:
        return {**arguments, "numerics": numerics}
    act = arguments["hidden_act"]
    return {**arguments, "hidden_act": HIDDEN_ACTS[numerics].get(act, act)}


def stored_tensors(folder: Path, stem: str) -> tuple[dict[str, StoredTensor], Path]:
    """(key -> tensor, file) of `stem`.safetensors, its shards or its variant in half precision.

    Raises:
        UserError: there is no such file, only a pickle, or the file is broken.
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
    """Raises UserError for a pickled checkpoint, and for a folder with nothing but pickles."""
    if path.is_dir() and any(path.glob("*.safetensors")):
        return
    pickles = sorted(p for p in (path.iterdir() if path.is_dir() else [path]) if p.suffix in PICKLES)
    if pickles:
        raise UserError(
            f"{pickles[0]}: a pickle, which can run any code when it is read; if you trust it, convert it to "
            "safetensors with PyTorch: safetensors.torch.save_file(torch.load(FILE)), or, for a pipeline, "
            "save_pretrained(FOLDER, safe_serialization=True)"
        )


def origins(renamings: Sequence[Renaming], stored: Mapping[str, StoredTensor]) -> Origins:
    """The origins of variables in a file to which these renamings apply."""

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
    """Raises UserError for positions other than 0, 1, 2, ...; rounding by merges in half precision is allowed."""
    values = stored.read().reshape(-1).astype("float64")
    if not np.array_equal(np.rint(values), np.arange(values.size)):
        raise UserError(f"{stored.path}: {key} is not 0, 1, 2, ...: another order of positions is not supported")


def _sharded(index: Path) -> dict[str, StoredTensor]:
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(v, str) and Path(v).name == v for v in places.values()):
        raise UserError(f"{index}: holds no weight_map of keys and file names; copy or make it again")
    for name in set(places.values()):
        check_name(name, index)  # links are allowed: caches of downloads are made of them
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
    """As StableDiffusionPipeline does, raise `sample_size` to at least 64 in files of diffusers before 0.9."""
    version, side = re.findall(r"\d+", str(config.get("_diffusers_version"))[:40]), config.get("sample_size")
    if version and tuple(map(int, version[:2])) < OLD and isinstance(side, int) and side < SIDE:
        return {**config, "sample_size": SIDE}
    return config


def _one(value):
    """A list with one equal entry for each level means the same as the entry."""
    if isinstance(value, list) and value and all(entry == value[0] for entry in value):
        return value[0]
    return value


def _same(a, b) -> bool:
    """Equality that distinguishes True from 1."""
    return a == b and isinstance(a, bool) == isinstance(b, bool)
