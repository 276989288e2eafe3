"""Files of LoRA weights (Hu et al. 2022): two small matrices for each layer, in the spellings of several programs.

A LoRA adds scale * alpha / r * up @ down to a layer's weight, with down [r, in] and up [out, r], or [r, in, h, w] and
[out, r, 1, 1] for a convolution.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from codi_tf.core.errors import UserError
from codi_tf.core.formats import FORMATS
from codi_tf.io.json_files import parse_json
from codi_tf.io.tensor_files import StoredTensor, TensorToWrite, listed, read_header, write_tensors

LORA_WEIGHTS = "pytorch_lora_weights.safetensors"  # the name that diffusers looks for in a folder
LORA = "lora"  # the folder of a bundle's LoRA
ENDS = (  # of a layer's two keys, (down, up)
    (".lora_A.weight", ".lora_B.weight"),  # PEFT and diffusers
    (".lora_A.default.weight", ".lora_B.default.weight"),
    (".lora.down.weight", ".lora.up.weight"),  # diffusers before PEFT
    (".lora_linear_layer.down.weight", ".lora_linear_layer.up.weight"),
    ("_lora.down.weight", "_lora.up.weight"),
    (".lora_down.weight", ".lora_up.weight"),  # kohya
)
ALPHA = ".alpha"
OTHER_KINDS = {  # parts of keys -> what such a file is
    "hada_": "a LoHa",
    "lokr_": "a LoKr",
    "lora_mid": "a LoCon with three matrices a layer",
    "dora_scale": "a DoRA",
    "lora_magnitude_vector": "a DoRA",
    "oft_": "an OFT",
}
METADATA = "lora_adapter_metadata"  # of diffusers: PEFT's settings as JSON
UNSUPPORTED = ("use_rslora", "use_dora", "lora_bias")  # of these settings
PREFIXES = {"unet": ("unet.", "", "base_model.model."), "text_encoder": ("text_encoder.text_model.", "text_encoder.")}
FLAT_PREFIXES = {"unet": ("lora_unet_",), "text_encoder": ("lora_te_text_model_", "lora_te1_text_model_")}
OLD_NAMES = (  # of attention layers in diffusers before PEFT
    (r"\.(attn[12])\.to_out\.0$", r".\1.processor.to_out"),
    (r"\.(attn[12])\.(to_[qkv])$", r".\1.processor.\2"),
    (r"\.self_attn\.([qkv])_proj$", r".self_attn.to_\1"),
    (r"\.self_attn\.out_proj$", r".self_attn.to_out"),
)


class Pair(NamedTuple):
    """The two matrices of one layer in a file."""

    down: StoredTensor
    up: StoredTensor
    alpha: float | None  # None: as large as the rank

    @property
    def rank(self) -> int:
        """r, the number of rows of down."""
        return self.down.shape[0] if self.down.shape else 0

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether the product has the shape of a layer's weight in PyTorch's layout, up to sides of 1 at its end."""
        down, up = self.down.shape, self.up.shape
        if len(down) < 2 or len(up) < 2 or not 0 < down[0] == up[1] or set(up[2:]) - {1}:
            return False
        return _without_ones((up[0], *down[1:])) == _without_ones(shape)

    def delta(self, shape: tuple[int, ...], scale: float) -> np.ndarray:
        """scale alpha / r up @ down, float32 of a layer's weight in PyTorch's layout."""
        up, down = (tensor.read().astype("float32").reshape(tensor.shape[0], -1) for tensor in (self.up, self.down))
        return product(down, up, scale_of(self.rank, self.alpha) * scale).reshape(shape)


def scale_of(rank: int, alpha: float | None) -> float:
    """alpha / r; 1 without an alpha."""
    return 1.0 if alpha is None else alpha / rank


def product(down: np.ndarray, up: np.ndarray, scale: float) -> np.ndarray:
    """scale up @ down: float32 [r, n] and [out, r] -> [out, n]. All that merges LoRAs computes this."""
    return np.float32(scale) * (up @ down)


def lora_file(path: Path) -> Path:
    """The file of a LoRA: the path itself, or the file of that name in a folder, or in a bundle. Raises UserError."""
    if path.is_dir():
        path = next((place for place in (path / LORA, path) if (place / LORA_WEIGHTS).is_file()), path) / LORA_WEIGHTS
    if not path.is_file():
        raise UserError(f"{path}: no such LoRA; name a .safetensors file, or a folder with {LORA_WEIGHTS}")
    if path.suffix != ".safetensors":
        raise UserError(f"{path}: a LoRA is read from a .safetensors file; convert this one")
    return path


def check_loras(loras: Iterable[tuple[Path, float]]) -> None:
    """Raises UserError for a LoRA that is missing or broken, or of a kind that is not supported."""
    for path, _ in loras:
        read_pairs(lora_file(path))


def read_pairs(path: Path) -> dict[str, Pair]:
    """A layer's name in the file -> its matrices, not read yet.

    Raises:
        UserError: the file is missing, truncated, no LoRA, or one of a kind that is not supported.
    """
    stored, metadata = read_header(path)
    for part, kind in OTHER_KINDS.items():
        if any(part in key for key in stored):
            raise UserError(f"{path}: is {kind}, which is not supported: only plain LoRA is")
    settings, pairs, used = _settings(metadata, path), {}, set()
    for key in stored:
        down, up = next((ends for ends in ENDS if key.endswith(ends[0])), ("", ""))
        name = key.removesuffix(down)
        if not down or name + up not in stored:
            continue
        used |= {key, name + up, name + ALPHA}
        alpha = stored.get(name + ALPHA)
        if alpha is None:
            number = _alpha(settings, name)
        else:
            number = float(alpha.read().astype("float64").reshape(())) if math.prod(alpha.shape) == 1 else math.nan
        if number is not None and not (isinstance(number, int | float) and math.isfinite(number)):
            raise UserError(f"{path}: the alpha of {name} is no finite number; save the LoRA again")
        pairs[name] = Pair(stored[key], stored[name + up], number)
    if not pairs:
        raise UserError(f"{path}: holds no LoRA weights; for a whole model, name it as the model")
    if left := sorted(stored.keys() - used):
        raise UserError(f"{path}: {len(left)} weights are no LoRA's: {listed(left)}; only plain LoRA is supported")
    for name, pair in pairs.items():
        if not {pair.down.dtype.name, pair.up.dtype.name} <= set(FORMATS):
            raise UserError(f"{path}: {name} is stored in {pair.down.dtype}; use one of {', '.join(FORMATS)}")
    return pairs


class Matrices(NamedTuple):
    """The two matrices of one layer in PyTorch's layout, and their alpha."""

    down: np.ndarray
    up: np.ndarray
    alpha: float


def write_pairs(path: Path, pairs: Mapping[str, Matrices]) -> None:
    """Write the LoRA of a UNet in kohya's spelling, which diffusers reads, too.

    Args:
        path: the file; its folder exists.
        pairs: a layer's name -> its matrices.
    """
    tensors = {}
    for module, (down, up, alpha) in pairs.items():
        name = flat(FLAT_PREFIXES["unet"][0], module)
        value = np.array(alpha, "float32")
        for end, array in ((ENDS[-1][0], down), (ENDS[-1][1], up), (ALPHA, value)):
            tensors[name + end] = TensorToWrite(array.dtype, array.shape, array.copy)
    write_tensors(path, tensors)


def spellings(part: str, modules: Iterable[str]) -> dict[str, str]:
    """Name in a file -> layer of our network, for all spellings of the layers of a part, "unet" or "text_encoder"."""
    found = {}
    for module in modules:
        old = module
        for pattern, replacement in OLD_NAMES:
            old = re.sub(pattern, replacement, old)
        for prefix in PREFIXES[part]:
            found[prefix + module] = found[prefix + old] = module
        for prefix in FLAT_PREFIXES[part]:
            found[flat(prefix, module)] = module
    return found


def flat(prefix: str, module: str) -> str:
    """A layer's name in kohya's spelling."""
    return prefix + module.replace(".", "_")


def is_of_text(name: str) -> bool:
    """Whether a name in a file is that of a text encoder's layer."""
    return name.startswith(("text_encoder.", "lora_te_", "lora_te1_"))


def _settings(metadata: Mapping[str, str], path: Path) -> dict:
    """PEFT's settings that diffusers writes into a file's header; {} without them."""
    settings = parse_json(metadata.get(METADATA, "{}"), f"{path}: its {METADATA}")
    if not all(isinstance(settings[key] or {}, dict) for key in settings if key.endswith(".alpha_pattern")):
        raise UserError(f"{path}: its {METADATA} is no JSON of settings; save the LoRA again")
    for name in UNSUPPORTED:
        if any(key.endswith(f".{name}") and value for key, value in settings.items()):
            raise UserError(f"{path}: was made with {name}, which is not supported: only plain LoRA is")
    return settings


def _alpha(settings: Mapping, name: str) -> float | None:
    """The alpha of a layer in PEFT's settings, whose patterns are ends of names; None where they say nothing."""
    part, _, module = name.partition(".")
    patterns = settings.get(f"{part}.alpha_pattern") or {}
    ends = (key for key in patterns if f".{module}".endswith("." + key.removeprefix("^")))
    return patterns.get(next(ends, None), settings.get(f"{part}.lora_alpha"))


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape without sides of 1 at its end, but for the first two."""
    while len(shape) > 2 and shape[-1] == 1:
        shape = shape[:-1]
    return shape
