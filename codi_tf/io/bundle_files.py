"""The folders that commands write, and how they are recognized. Imports no TensorFlow."""

from __future__ import annotations

import re
from pathlib import Path

from codi_tf.core.errors import UserError
from codi_tf.io.folders import Kind, Names, recover

BUNDLE = "codi.json"
RUN = "config.yaml"  # of the folder of a run, next to its result
_NAMES = re.compile(  # of version 0.1.0, which wrote no markers
    r"codi\.json|model_index\.json"
    r"|((unet|vae|text_encoder|adapter)/)?(config\.json|(diffusion_pytorch_model|model)\.safetensors)"
    r"|scheduler/scheduler_config\.json"
    r"|tokenizer/(vocab|tokenizer_config|special_tokens_map|tokenizer|added_tokens)\.json|tokenizer/merges\.txt"
)


def is_bundle(path: str | Path) -> bool:
    """Whether a folder holds a bundle, a saved `CoDi` model. Brings back one that a killed process was replacing."""
    if not Path(path).exists():
        recover(Path(path))
    return (Path(path) / BUNDLE).is_file()


def check_is_folder(path: Path) -> None:
    """Raise UserError for a file of a bundle that is named in place of the bundle."""
    if path.is_file() and is_bundle(path.parent):
        raise UserError(f"{path}: is a file of a bundle; name its folder, {path.parent}")


def _of_bundle(folder: Path) -> Names | None:
    return _NAMES.fullmatch if (folder / BUNDLE).is_file() else None


def _of_result(folder: Path) -> Names | None:
    return _NAMES.fullmatch if (folder.parent / RUN).is_file() else None


BUNDLES = Kind("bundle", _of_bundle)
RESULTS = Kind("result of a training", _of_result)  # of methods that make no bundle: a base, a decoder
CHECKPOINTS = Kind("checkpoint")  # a diffusers folder or a network
PAIRS = Kind("folder of pairs")
