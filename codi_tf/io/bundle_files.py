"""The folders that commands write: how they are recognized, and what a bundle's codi.json may hold.

Imports no TensorFlow.
"""

from __future__ import annotations

import difflib
import re
from pathlib import Path

from codi_tf.core.errors import UserError
from codi_tf.core.limits import MAX_SEED, MAX_SIDE, MAX_WIDTH
from codi_tf.core.paths import as_path
from codi_tf.core.showing import shown
from codi_tf.io.folders import Kind, Names, check_whole, recover
from codi_tf.io.json_files import read_json
from codi_tf.io.schema import FLAG, SHA256, Anything, Each, Keyed, Nullable, Number, OneOf, Record, Text, Whole, check
from codi_tf.io.starter import shipped_model, shipped_models

BUNDLE = "codi.json"
FORMAT = 1


_LORA = Record(
    {
        "rank": Whole(1, MAX_WIDTH),
        "alpha": Number(0, 1e12),
        "targets": Each(Text(200), 1, 1000),
        "dropout": Number(0, 1),
    }
)
SCHEMA = Record(
    {
        "format": OneOf((FORMAT,)),
        "method": Record({"name": Text(200)}),
        "task": Record({"name": Text(200)}),
        "adaptation": Record(
            {"adapter": Text(200), "train": OneOf(("all", "adapter")), "mu_rate": Number(0, 1e12)},
            {"pretrained": FLAG, "start": Nullable(Text()), "lora": Nullable(_LORA)},
        ),
        "ema_decay": Number(0, 1),
        "seed": Whole(0, MAX_SEED),
        "image_size": Whole(1, MAX_SIDE),
        "base": Nullable(Record({"path": Text(), "sha256": SHA256})),
    },
    {"provenance": Keyed(Anything()), "result_decay": Number(0, 1)},
)
RUN = "config.yaml"  # of the folder of a run, next to its result
_NAMES = re.compile(  # of version 0.1.0, which wrote no markers
    r"codi\.json|model_index\.json"
    r"|((unet|vae|text_encoder|adapter)/)?(config\.json|(diffusion_pytorch_model|model)\.safetensors)"
    r"|scheduler/scheduler_config\.json"
    r"|tokenizer/(vocab|tokenizer_config|special_tokens_map|tokenizer|added_tokens)\.json|tokenizer/merges\.txt"
)


def is_bundle(path: str | Path) -> bool:
    """Whether a folder holds a bundle, a saved `CoDi` model. Brings back one that a killed process was replacing."""
    if not as_path(path).exists():
        recover(as_path(path))
    return (as_path(path) / BUNDLE).is_file()


def is_pairs(folder: str | Path) -> bool:
    """Whether a folder was written by `codi pairs`."""
    return (as_path(folder) / PAIRS_FILE).is_file()


def read_about(folder: Path) -> dict:
    """The contents of a bundle's codi.json. Raises UserError for a file that is missing or broken, or other values."""
    path = folder / BUNDLE
    about = read_json(path)
    if "format" in about and about["format"] != FORMAT:
        raise UserError(f"{path}: format {shown(about['format'])} is not known; update codi_tf")
    check(about, SCHEMA, path, "incomplete or of another version: make the bundle again")
    return about


def check_is_folder(path: Path) -> None:
    """Raise UserError for a file of a bundle that is named in place of the bundle."""
    if path.is_file() and is_bundle(path.parent):
        raise UserError(f"{path}: is a file of a bundle; name its folder, {path.parent}")


def another_model(path: str | Path) -> str:
    """The remedy for a model that is not there: the name of one that comes with codi_tf, if that is much like it."""
    close = difflib.get_close_matches(as_path(path).as_posix(), shipped_models(), n=1, cutoff=0.8)
    return f"did you mean {close[0]}?" if close else "train one or name another"


def decoder_at(path: str | Path) -> Path:
    """The folder of a small decoder, see `model_at`. Raises UserError that names --decoder where there is none."""
    folder = model_at(path)
    if not folder.is_dir():
        raise UserError(f"--decoder is {path}: no such folder; name that of a small decoder")
    return folder


def _of_bundle(folder: Path) -> Names | None:
    return _NAMES.fullmatch if (folder / BUNDLE).is_file() else None


def _of_result(folder: Path) -> Names | None:
    return _NAMES.fullmatch if (folder.parent / RUN).is_file() else None


BUNDLES = Kind("bundle", _of_bundle)
RESULTS = Kind("result of a training", _of_result)  # of methods that make no bundle: a base, a decoder
CHECKPOINTS = Kind("checkpoint")  # a diffusers folder or a network
PAIRS = Kind("folder of pairs")
PREPARED = Kind("folder of prepared records")
PAIRS_FILE = "pairs.json"
SCENES = Kind("folder of scenes")
PHOTOS = Kind("folder of photos")
TOKENIZERS = Kind("tokenizer")
WORDS = "tokenizer"  # in the folder of a run, and of encoded examples: a tokenizer that was learned from their prompts


def model_at(path: str | Path) -> Path:
    """The folder of a model: for the folder of a run, that of its result; other paths as they are.

    Where nothing is at the path, it may be the name of a model that comes with codi_tf, see `starter.shipped_model`.

    Raises:
        UserError: the run has no result yet; or what is at a remote path is not whole.
    """
    path = as_path(path)
    if not path.exists():
        recover(path)
        path = path if path.exists() else shipped_model(path.as_posix()) or path
    is_run = (path / "config.yaml").is_file() and (path / "checkpoints").is_dir()
    if not is_run or is_bundle(path):
        check_whole(path)
        return path
    if not (path / "result").is_dir():
        raise UserError(
            f"{path}: this run has no result yet; train it to its end, or make one of its newest state: codi train "
            f"{path / 'config.yaml'} --out {path} --finish"
        )
    check_whole(path / "result")
    return path / "result"
