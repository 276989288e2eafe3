"""LoRAs from files, merged into networks."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from codi_tf.checkpoints.lora_files import Pair, is_of_text, lora_file, read_pairs, spellings
from codi_tf.core.errors import UserError
from codi_tf.core.paths import as_path
from codi_tf.core.precision import built_in
from codi_tf.io.layouts import key_of, layout_of
from codi_tf.io.tensor_files import listed
from codi_tf.io.weights import make_copy
from codi_tf.models.low_rank import END


def kernels_of(network: keras.Model) -> dict[str, keras.Variable]:
    """Layer's name, as diffusers has it -> its kernel: dense layers and convolutions."""
    return {key_of(v, network).removesuffix(END): v for v in network.variables if v.name == "kernel"}


def merged_networks(
    networks: Mapping[str, keras.Model | None], path: str | Path, scale: float
) -> dict[str, keras.Model]:
    """Copies of the networks that a LoRA changes: W + scale alpha / r up @ down, computed in float32.

    Args:
        networks: "unet" and "text_encoder", or None for those that a base does not have.
        path: a .safetensors file, or a folder with one, see `lora_files.lora_file`.
        scale: of the LoRA; 1 is as it was trained, 0 is without.

    Returns:
        Part -> its merged copy. The networks that are given stay as they are. Where the LoRA also changes a text
        encoder that the base does not have, one warning says so.

    Raises:
        UserError: a file that is missing, broken or no LoRA, or one for other networks; a scale that is not finite.
    """
    if not math.isfinite(scale):
        raise UserError(f"scale is {scale}: it must be a finite number")
    path = lora_file(as_path(path))
    pairs = read_pairs(path)
    if networks.get("text_encoder") is None and any(map(is_of_text, pairs)):
        warnings.warn(f"{path}: its part for the text encoder is left out, the base has none", stacklevel=3)
        pairs = {name: pair for name, pair in pairs.items() if not is_of_text(name)}
    found: dict[str, dict[str, Pair]] = {}
    for part, network in networks.items():
        if network is not None:
            names = spellings(part, kernels_of(network))
            found[part] = {names[name]: pairs.pop(name) for name in list(pairs) if name in names}
    if pairs:
        raise UserError(f"{path}: {len(pairs)} layers are not in this base: {listed(pairs)}; it is for another base")
    changed = {part: network for part, network in networks.items() if network is not None and found.get(part)}
    for part, network in changed.items():
        _check_shapes(network, found[part], path)
    return {part: with_kernels(network, _merged(network, found[part], scale)) for part, network in changed.items()}


def merged_kernel(variable: keras.Variable, delta: np.ndarray) -> np.ndarray:
    """A kernel plus a change in PyTorch's layout: float32, with the kernel's axes."""
    axes = layout_of(variable).axes
    value = ops.convert_to_numpy(variable).astype("float32")
    return value + (delta if axes is None else delta.transpose(np.argsort(axes)))


def with_kernels(network: keras.Model, kernels: Mapping[str, np.ndarray]) -> keras.Model:
    """A copy of a network with other kernels of some layers, layer's name -> kernel."""

    def make() -> keras.Model:
        copy = type(network)(**network.get_config())
        copy.build()
        return copy

    replaced = {name + END: tf.constant(kernel) for name, kernel in kernels.items()}
    with built_in(network.dtype_policy):
        return make_copy(make, network, replaced)


def _merged(network: keras.Model, pairs: Mapping[str, Pair], scale: float) -> dict[str, np.ndarray]:
    kernels = kernels_of(network)
    return {
        name: merged_kernel(kernels[name], pair.delta(_stored_shape(kernels[name]), scale))
        for name, pair in pairs.items()
    }


def _check_shapes(network: keras.Model, pairs: Mapping[str, Pair], path: Path) -> None:
    kernels = kernels_of(network)
    for name, pair in pairs.items():
        wanted = _stored_shape(kernels[name])
        if not pair.fits(wanted):
            raise UserError(
                f"{path}: {name} has {pair.up.shape} x {pair.down.shape}, the base's weight is {wanted}; "
                "it is for another base"
            )


def _stored_shape(variable: keras.Variable) -> tuple[int, ...]:
    return layout_of(variable).stored_shape(tuple(variable.shape))
