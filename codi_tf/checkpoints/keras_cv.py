"""Reading KerasCV's Stable Diffusion from an object or from .h5 files, without KerasCV.

The names of its layers do not identify them, but a network's layers of one kind have a fixed order, as have the weights
of a layer. The tables in `keras_cv_rules` map them to our modules.
"""

from __future__ import annotations

import functools
import gzip
import math
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import h5py
import keras
import numpy as np

from codi_tf.checkpoints.base import Base, make_network
from codi_tf.checkpoints.compvis import SCHEDULER
from codi_tf.checkpoints.keras_cv_rules import (
    ACTIVATIONS,
    BPE,
    BPE_MERGES,
    DENSE_HERE,
    HEAD_WIDTH,
    LAYERS,
    ONE_WEIGHT,
    PADDING,
    PARTS,
    SOMETIMES,
    UNET_HEADS,
    WIDTHS,
)
from codi_tf.checkpoints.tokenizer import END, Tokenizer
from codi_tf.core.errors import UserError
from codi_tf.core.paths import as_path
from codi_tf.io.json_files import MOST_BYTES
from codi_tf.io.layouts import PLAIN, Layout, Origin
from codi_tf.io.plain_files import check_plain, open_plain
from codi_tf.io.remote import kept_copy
from codi_tf.io.tensor_files import make_room
from codi_tf.io.weights import make_from
from codi_tf.models.autoencoder import AutoencoderKL
from codi_tf.models.numerics import check_numerics
from codi_tf.models.text_encoder import TextEncoder
from codi_tf.models.unet import UNet

MOST_UNPACKED = 64  # times the size of a weight in the file, if it is compressed


class Weight(NamedTuple):
    """A weight of a KerasCV network, as a tensor for `weights.make_from` (`io.values.Stored`).

    Attributes:
        path: the file or the object, for messages.
        dtype, shape: of the values.
        values: reads them.
    """

    path: str
    dtype: np.dtype
    shape: tuple[int, ...]
    values: Callable[[], np.ndarray]

    @property
    def nbytes(self) -> int:
        """The size of the values in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize

    def read(self, *, part: int = 0, parts: int = 1, room: np.ndarray | None = None) -> np.ndarray:
        """The values in aligned memory of their own. KerasCV's weights have the axes of ours and are never in parts."""
        values = make_room(self.nbytes).view(self.dtype).reshape(self.shape)
        values[...] = self.values().reshape(self.shape)
        return values


Layers = dict[str, list[list[Weight]]]  # kind of layer -> its layers in order -> their weights in order


def read(source, *, numerics: str = "keras_cv", tokenizer: Path | None = None) -> Base:
    """A base from KerasCV's Stable Diffusion, 1.x or 2.x, with the current dtype policy.

    Args:
        source: a keras_cv.models.StableDiffusion or StableDiffusionV2 (or any object with its four networks and its
            tokenizer as attributes); a folder with the `.h5` files of the four networks (in Keras 2's layout, which
            KerasCV downloads, or Keras 3's `.weights.h5`, with any file names); or one of these files, whose folder
            then supplies the files that fit it.
        numerics: "keras_cv", for the results of KerasCV's networks, or "diffusers", for those of the code that trained
            the weights. They differ in the epsilon of group normalization and in the form of GELU.
        tokenizer: the folder of the tokenizer's files; None: the object's tokenizer, or that of the folder (vocab.json
            and merges.txt, or the file that KerasCV downloads), or none. `Tokenizer` cleans up the text, and unlike
            KerasCV's does not decode HTML entities such as `&amp;`. The padding token of 2.x is "!" with diffusers'
            numerics and the end token with KerasCV's.

    Raises:
        UserError: a part is missing, broken, ambiguous or of another network; the parts do not belong together.
    """
    check_numerics("numerics", numerics)
    if isinstance(source, (str, Path)):
        path = as_path(source)
        folder = kept_copy(path if path.is_dir() else path.parent)
        path = folder if path.is_dir() else folder / path.name
        parts = _parts_of_files(path)
    else:
        path = folder = None
        parts = {part: _part_of_object(source, part) for part in PARTS}
    family = _family(parts["diffusion_model"])
    configs = _configs(parts, family, numerics)
    padding = PADDING[family, numerics]
    loaded = _tokenizer(source, folder, padding) if tokenizer is None else Tokenizer.load(tokenizer, padding=padding)
    return Base(
        unet=load(UNet, configs["unet"], "unet", parts["diffusion_model"]),
        vae=load(AutoencoderKL, configs["vae"], "vae", {**parts["image_encoder"], **parts["decoder"]}),
        scheduler={**SCHEDULER, "prediction_type": "epsilon"},  # as KerasCV samples both families
        path=path,
        text_encoder=load(TextEncoder, configs["text_encoder"], "text_encoder", parts["text_encoder"]),
        tokenizer=loaded,
    )


def load(kind: type[keras.Model], config: Mapping[str, object], name: str, weights: Mapping[str, Weight]):
    """Our network with weights that have our keys and Keras' layouts. Raises UserError if they do not fit."""
    place = " and ".join(dict.fromkeys(weight.path for weight in weights.values()))
    return make_from(lambda: make_network(kind, dict(config), name), weights, place, _unchanged)


def layers_of(source: keras.Model | Path | str, name: str) -> Layers:
    """The weights of a KerasCV network or of an `.h5` file; error messages use `name`.

    Raises:
        UserError: the file is missing, truncated or not of Keras.
    """
    if not isinstance(source, (Path, str)):
        found = [(layer.name, [_of_variable(v, name) for v in layer.weights]) for layer in source.layers]
    else:
        try:
            check_plain(source)
            with h5py.File(source) as file:
                found = _old_layers(file, name) if "layer_names" in file.attrs else _new_layers(file, name)
        except FileNotFoundError:
            raise UserError(f"{source}: no such file; name another") from None
        except (OSError, KeyError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UserError(f"{source}: truncated or not weights of Keras ({reason}); copy it again") from None
    layers: Layers = {}
    for layer, weights in found:
        if weights:
            layers.setdefault(_kind(layer), []).append(weights)
    return layers


def part_of(layers: Layers) -> str | None:
    """The part of Stable Diffusion with layers of these kinds and numbers, or None."""
    for part, kinds in PARTS.items():
        if kinds.keys() == layers.keys() and all(
            isinstance(names, str) or len(names) == len(layers[kind]) for kind, names in kinds.items()
        ):
            return part
    return None


def renamed(layers: Layers, part: str) -> dict[str, Weight]:
    """The weights of a part under our keys.

    Raises:
        UserError: a layer has a wrong number of weights.
    """
    weights = {}
    for kind, names in PARTS[part].items():
        for i, layer in enumerate(layers[kind]):
            name = names.format(i) if isinstance(names, str) else names[i]
            keys = [key for key, _ in _rows(kind)]
            if len(layer) < len(keys):
                keys = [key for key in keys if not key.startswith(SOMETIMES)]
            if len(layer) != len(keys):
                raise UserError(
                    f"{layer[0].path}: {kind} number {i} has {len(layer)} weights, wanted {len(keys)}; "
                    "it belongs to another network"
                )
            for key, weight in zip(keys, layer, strict=True):
                if kind in DENSE_HERE and len(weight.shape) == 4 and weight.shape[:2] == (1, 1):
                    weight = weight._replace(shape=weight.shape[2:])
                weights[f"{name}.{key}"] = weight
    return weights


def _family(unet: Mapping[str, Weight]) -> str:
    """2.x projects with dense layers, 1.x with convolutions."""
    return "2.x" if len(unet["mid_block.attentions.0.proj_in.weight"].shape) == 2 else "1.x"


def _configs(parts: Mapping[str, Mapping[str, Weight]], family: str, numerics: str) -> dict[str, dict]:
    """The arguments of our networks, from shapes and from the model family."""
    unet, encoder, text = (parts[part] for part in ("diffusion_model", "image_encoder", "text_encoder"))
    convolutions = [f"down_blocks.{i}.resnets.0.conv1.weight" for i in range(4)]  # one for each level
    widths = [unet[key].shape[-1] for key in convolutions]
    context, width = (_width(part, parts[part]) for part in ("diffusion_model", "text_encoder"))
    if width != context:
        raise UserError(
            f"{_place(text)}: embeds prompts in {width} channels, the diffusion model takes {context} (768 in 1.x, "
            "1024 in 2.x); they do not belong together"
        )
    return {
        "unet": {
            "in_channels": unet["conv_in.weight"].shape[2],
            "block_out_channels": widths,
            "cross_attention_dim": context,
            "attention_head_dim": UNET_HEADS if family == "1.x" else [w // HEAD_WIDTH for w in widths],
            "use_linear_projection": family == "2.x",
            "sample_size": 64,
            "numerics": numerics,
        },
        "vae": {
            "block_out_channels": [encoder[f"encoder.{key}"].shape[-1] for key in convolutions],
            "numerics": numerics,
        },
        "text_encoder": {
            "vocab_size": text["embeddings.token_embedding.weight"].shape[0],
            "hidden_size": width,
            "intermediate_size": text["encoder.layers.0.mlp.fc1.weight"].shape[-1],
            "num_hidden_layers": sum(key.endswith("mlp.fc1.weight") for key in text),
            "num_attention_heads": width // HEAD_WIDTH,
            "max_position_embeddings": text["embeddings.position_embedding.weight"].shape[0],
            "hidden_act": ACTIVATIONS[family, numerics],
        },
    }


def _rows(kind: str) -> list[tuple[str, str]]:
    """(our key below the module, path below the layer in Keras 3's files) for the weights of a layer, in order."""
    return [
        (f"{ours}.{leaf}".lstrip("."), f"{theirs}/vars/{i}".lstrip("/"))
        for ours, theirs in LAYERS[kind].items()
        for i, leaf in enumerate(("weight",) if ours in ONE_WEIGHT else ("weight", "bias"))
    ]


def _unchanged(key: str, layout: Layout) -> Origin:
    return Origin(key, PLAIN)


def _kind(layer: str) -> str:
    """The kind in Keras' names of layers: res_block, res_block_1, ..."""
    return re.sub(r"_\d+$", "", layer)


def _of_variable(variable: keras.Variable, name: str) -> Weight:
    return Weight(name, np.dtype(variable.dtype), tuple(variable.shape), variable.numpy)


def _of_dataset(dataset: h5py.Dataset, name: str) -> Weight:
    """A weight of the file `name`. Raises OSError for one that is elsewhere, or claims a size that the file lacks."""
    if dataset.is_virtual or dataset.external or not os.path.samefile(dataset.file.filename, name):
        raise OSError(f"{dataset.name} leads to another file")
    if dataset.nbytes > MOST_UNPACKED * dataset.id.get_storage_size() + MOST_BYTES:
        raise OSError(f"{dataset.name} unpacks to {dataset.nbytes:,} bytes")
    values = functools.partial(_dataset, dataset.file.filename, dataset.name)
    return Weight(name, dataset.dtype, tuple(dataset.shape), values)


def _dataset(path: str, name: str) -> np.ndarray:
    with h5py.File(path) as file:
        return file[name][()]


def _old_layers(file: h5py.File, name: str) -> list[tuple[str, list[Weight]]]:
    """Keras 2: attributes list the layers, and each layer's weights, in their order."""
    return [
        (layer, [_of_dataset(file[layer][weight], name) for weight in _texts(file[layer].attrs["weight_names"])])
        for layer in _texts(file.attrs["layer_names"])
    ]


def _new_layers(file: h5py.File, name: str) -> list[tuple[str, list[Weight]]]:
    """Keras 3: layers are numbered by kind, and weights are stored under the attributes that hold them."""
    groups = file.get("layers", {})
    layers = []
    for layer in sorted(groups, key=lambda layer: (len(layer), layer)):
        found: dict[str, Weight] = {}

        def visit(path: str, item, found=found):
            if isinstance(item, h5py.Dataset):
                found[re.sub(r"(^|/)conv2d/", r"\1", path)] = _of_dataset(item, name)

        groups[layer].visititems(visit)
        rows = [path for _, path in _rows(_kind(layer))] if _kind(layer) in LAYERS else []
        known = [found.pop(path) for path in rows if path in found]
        layers.append((layer, [*known, *found.values()]))
    return layers


def _texts(attribute) -> list[str]:
    return [text.decode() if isinstance(text, bytes) else str(text) for text in attribute]


def _part_of_object(source, part: str) -> dict[str, Weight]:
    model, name = getattr(source, part, None), type(source).__name__
    if not isinstance(model, keras.Model):
        raise UserError(
            f"{name}: not a KerasCV Stable Diffusion, because it has no network {part!r}; give a path or an object "
            f"with {', '.join(PARTS)}"
        )
    layers = layers_of(model, f"{name}.{part}")
    if part_of(layers) != part:
        raise UserError(f"{name}.{part}: its layers are not those of KerasCV's {part.replace('_', ' ')}")
    return renamed(layers, part)


def _parts_of_files(path: Path) -> dict[str, dict[str, Weight]]:
    """The parts in a folder's `.h5` files. If `path` is a file, it decides between several candidates."""
    folder = path if path.is_dir() else path.parent
    files = sorted(folder.glob("*.h5"))
    if path not in files and not path.is_dir():
        raise UserError(f"{path}: no such .h5 file; name another")
    found: dict[str, list[dict[str, Weight]]] = {part: [] for part in PARTS}
    for file in files:
        layers = layers_of(file, str(file))
        part = part_of(layers)
        if part is not None:
            found[part].append(renamed(layers, part))
    named = None
    for part, several in found.items():
        for weights in several:
            if _place(weights) == str(path):
                named, found[part] = part, [weights]
    if named is None and path != folder:
        raise UserError(f"{path}: not a part of KerasCV's Stable Diffusion; name another file")
    missing = [part.replace("_", " ") for part in PARTS if not found[part]]
    if missing:
        alone = f"{path} is the {named.replace('_', ' ')} alone" if named else f"{path}"
        raise UserError(
            f"{alone}: no .h5 file in the folder holds the {', nor the '.join(missing)}; KerasCV downloads a network "
            "on first use (StableDiffusion().image_encoder); put all four into one folder"
        )
    for this, other in (("text_encoder", "diffusion_model"), ("diffusion_model", "text_encoder")):
        if named == other:
            width = _width(other, found[other][0])
            fitting = [weights for weights in found[this] if _width(this, weights) == width]
            found[this] = fitting or found[this]
    for part, several in found.items():
        if len(several) > 1:
            names = ", ".join(Path(_place(weights)).name for weights in several)
            raise UserError(
                f"{folder}: several files hold the {part.replace('_', ' ')} ({names}); name the file of one "
                "diffusion model, or put one set of files into a folder of its own"
            )
    return {part: several[0] for part, several in found.items()}


def _place(weights: Mapping[str, Weight]) -> str:
    return next(iter(weights.values())).path


def _width(part: str, weights: Mapping[str, Weight]) -> int:
    """The channels of the prompt's embedding."""
    key, axis = WIDTHS[part]
    return weights[key].shape[axis]


def _tokenizer(source, folder: Path | None, padding: str) -> Tokenizer | None:
    if folder is None:
        theirs = source.tokenizer
        merges = sorted(theirs.bpe_ranks, key=theirs.bpe_ranks.__getitem__)
        special = {**dict.fromkeys(theirs.special_tokens, True), padding: padding == END}
        return Tokenizer(theirs.encoder, merges, padding=padding, special=special)
    if (folder / "vocab.json").is_file():
        return Tokenizer.load(folder)
    if (folder / BPE).is_file():
        try:
            with open_plain(folder / BPE) as packed:
                content = gzip.GzipFile(fileobj=packed).read(MOST_BYTES + 1)
            if len(content) > MOST_BYTES:
                raise ValueError(f"it unpacks to more than {MOST_BYTES:,} bytes")
            lines = content.decode("utf-8").split("\n")
        except (OSError, EOFError, ValueError) as error:
            raise UserError(f"{folder / BPE}: not readable ({error}); copy it again") from None
        merges = [(first, second) for first, second in (line.split() for line in lines[1 : 1 + BPE_MERGES] if line)]
        return Tokenizer.from_merges(merges, padding=padding)
    return None
