"""A network's weights on disk: safetensors with the names and layouts of diffusers, read strictly.

The path of a variable below its network is its key; two rules turn Keras' layouts into PyTorch's.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from codi_tf.errors import UserError

WEIGHTS = "diffusion_pytorch_model.safetensors"
CONFIG = "config.json"
_NAMES = {"kernel": "weight", "gamma": "weight", "beta": "bias"}  # Keras -> PyTorch, of the last part of a path
_TO_TORCH = {4: (3, 2, 0, 1), 2: (1, 0)}  # HWIO -> OIHW, [in, out] -> [out, in]; by the rank of a kernel
_FROM_TORCH = {4: (2, 3, 1, 0), 2: (1, 0)}


def key_of(variable, network) -> str:
    """The key of a network's variable in a diffusers checkpoint."""
    *parents, name = variable.path.split(f"{network.name}/", 1)[1].split("/")
    return ".".join([*parents, _NAMES.get(name, name)])


def state_dict(network, dtype: str = "float32") -> dict[str, np.ndarray]:
    """All weights of a built network under their keys, in PyTorch's layouts."""
    state = {}
    for variable in network.variables:
        value = np.asarray(variable.numpy(), dtype)
        if variable.name == "kernel":
            value = value.transpose(_TO_TORCH[value.ndim])
        state[key_of(variable, network)] = np.ascontiguousarray(value)
    return state


def save_network(network, folder: Path, *, dtype: str = "float32", extra_config: dict | None = None) -> None:
    """Write `config.json` and the weights of a built network into a folder, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {key: value for key, value in network.get_config().items() if key != "name"}
    write_json(folder / CONFIG, {**(extra_config or {}), **config})
    save_file(state_dict(network, dtype), folder / WEIGHTS)
    (folder / WEIGHTS).chmod(0o644)  # safetensors makes files that nobody else can read


def load_network(network, folder: Path) -> None:
    """Set every weight of a built network from a folder's safetensors file; nothing is assigned unless all fits.

    Raises:
        UserError: for a missing, truncated or foreign file, with what is missing, left over or of another shape.
    """
    path = folder / WEIGHTS
    variables = {key_of(variable, network): variable for variable in network.variables}
    try:
        with safe_open(path, framework="numpy") as file:
            found = set(file.keys())
            _refuse(path, "missing", sorted(variables.keys() - found))
            _refuse(path, "left over", sorted(found - variables.keys()))
            values = {key: _keras_layout(file.get_tensor(key), variables[key]) for key in variables}
    except FileNotFoundError:
        raise UserError(f"{path}: no such weight file; the folder is incomplete, copy or make it again") from None
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: truncated or no safetensors file ({error}); copy or make it again") from None
    _refuse(
        path,
        "of another shape",
        [
            f"{key} {values[key].shape}, wanted {tuple(variables[key].shape)}"
            for key in variables
            if values[key].shape != tuple(variables[key].shape)
        ],
    )
    for key, variable in variables.items():
        variable.assign(values[key].astype("float32"))


def copy_weights(source, target) -> None:
    """Copy all weights of a network to another one of the same shape."""
    values = {key_of(variable, source): variable for variable in source.variables}
    for variable in target.variables:
        variable.assign(values[key_of(variable, target)])


def read_json(path: Path) -> dict:
    """A JSON object from a file. Raises UserError for a missing or broken file."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; is {path.parent} a complete model folder?") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not readable as JSON ({error}); copy or make it again") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: holds no JSON object; copy or make it again")
    return value


def write_json(path: Path, value: dict) -> None:
    """Write a JSON object, whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    os.replace(partial, path)


def folder_sha256(folder: Path) -> str:
    """SHA-256 over names and contents of all weight files and JSON files below a folder, in order of their names."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.suffix in (".safetensors", ".json")):
        digest.update(path.relative_to(folder).as_posix().encode())
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _keras_layout(value: np.ndarray, variable) -> np.ndarray:
    if variable.name == "kernel" and value.ndim in _FROM_TORCH:
        value = value.transpose(_FROM_TORCH[value.ndim])
    return value


def _refuse(path: Path, what: str, keys: list[str]) -> None:
    if keys:
        shown = ", ".join(keys[:5]) + (f" and {len(keys) - 5} more" if len(keys) > 5 else "")
        raise UserError(f"{path}: {len(keys)} weights {what}: {shown}; the file belongs to another network")
