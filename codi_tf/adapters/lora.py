"""The LoRA that is trained beside an adapter: how it is made, read, written, and merged into the UNet."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from keras import ops

from codi_tf.checkpoints.lora import kernels_of, merged_kernel, with_kernels
from codi_tf.checkpoints.lora_files import (
    LORA,
    LORA_WEIGHTS,
    Matrices,
    Pair,
    product,
    read_pairs,
    scale_of,
    spellings,
    write_pairs,
)
from codi_tf.core.errors import UserError
from codi_tf.core.formats import check_format, numpy_dtype
from codi_tf.core.precision import built_in, make_policy
from codi_tf.io.layouts import layout_of
from codi_tf.io.tensor_files import listed
from codi_tf.models.low_rank import Change, LoraWeights
from codi_tf.models.unet import UNet

OTHER = "the file belongs to another model"
GUIDANCE = "time_embedding.cond_proj"  # the layer of a UNet that takes the guidance


def new_lora(unet: UNet, settings: dict, name: str = LORA) -> LoraWeights:
    """New changes of a UNet's layers, which leave it as it is until they are trained.

    They compute in the UNet's format; their weights are float32, because they are trained.

    Args:
        unet: the base's.
        settings: the options of `config.Lora`, "rank", "alpha", "targets" and "dropout".
        name: of the network.

    Raises:
        UserError: a target that ends no layer's name, or a rank above that of a layer.
    """
    kernels, shapes = kernels_of(unet), {}
    for target in settings["targets"]:
        found = {key: v for key, v in kernels.items() if key == target or key.endswith(f".{target}")}
        if not found:
            ends = ", ".join(sorted({_end(key) for key in kernels}))
            raise UserError(
                f"adaptation.lora.targets: no layer's name ends with {target!r}; the ends in this UNet are {ends}"
            )
        shapes |= {key: tuple(variable.shape) for key, variable in found.items()}
    rank = settings["rank"]
    for key, (*inputs, outputs) in shapes.items():
        most = min(int(np.prod(inputs)), outputs)
        if rank > most:
            raise UserError(
                f"adaptation.lora.rank is {rank}: it must be at most {most}, the rank of {key}; lower it, or leave "
                f"{_end(key)!r} out of the targets"
            )
    in_order = {key: shapes[key] for key in kernels if key in shapes}
    return _built(unet, {"name": name, "shapes": in_order, **settings})


def clone_lora(lora: LoraWeights, unet: UNet, name: str, *, dropout: float | None = None) -> LoraWeights:
    """The same changes of a UNet of the same shape, as new variables; `dropout` replaces the share that is left out."""
    config = {**lora.get_config(), "name": name}
    clone = _built(unet, config if dropout is None else {**config, "dropout": dropout})
    for value, variable in zip(lora.variables, clone.variables, strict=True):
        variable.assign(value)
    return clone


def with_guidance_input(lora: LoraWeights, unet: UNet) -> LoraWeights:
    """The same changes as new variables, and one of the layer that takes the guidance: its whole kernel, from zero on.

    Args:
        lora: of a UNet that takes no guidance.
        unet: the same with that input (`methods.networks.with_guidance`).
    """
    added = _built(unet, {**lora.get_config(), "inputs": {GUIDANCE: tuple(kernels_of(unet)[GUIDANCE].shape)}})
    for change, own in zip(lora.changes, added.changes, strict=True):
        own.down.assign(change.down)
        own.up.assign(change.up)
    return added


def brings_guidance(folder: Path) -> bool:
    """Whether the changes that `write_lora` wrote are of a UNet that took no guidance until it was distilled.

    Raises:
        UserError: a missing, truncated or foreign file.
    """
    return not read_pairs(folder / LORA_WEIGHTS).keys().isdisjoint(spellings("unet", [GUIDANCE]))


def write_lora(lora: LoraWeights, folder: Path, *, dtype: str = "float32") -> None:
    """Write the weights into a folder that `load_lora_weights` of diffusers reads.

    Raises:
        UserError: an unknown dtype, or one that cannot hold a value.
    """
    folder.mkdir(parents=True, exist_ok=True)
    check_format("dtype", dtype)
    kind = numpy_dtype(dtype)
    pairs = {
        name: Matrices(_narrowed(down, name, kind), _narrowed(up, name, kind), alpha)
        for name, (down, up, alpha) in _matrices(lora).items()
    }
    write_pairs(folder / LORA_WEIGHTS, pairs)


def read_lora(folder: Path, unet: UNet, settings: dict) -> LoraWeights:
    """The changes that `write_lora` wrote. Raises UserError for a missing, truncated or foreign file.

    The UNet takes the guidance if they are of one that does, see `brings_guidance`.
    """
    path, lora, kernels = folder / LORA_WEIGHTS, new_lora(unet, settings), kernels_of(unet)
    if GUIDANCE in kernels.keys() - lora.shapes.keys() and brings_guidance(folder):
        lora = with_guidance_input(lora, unet)
    stored, names = read_pairs(path), spellings("unet", kernels)
    pairs = {names.get(name, name): pair for name, pair in stored.items()}
    if other := sorted(pairs.keys() ^ {change.name for change in (*lora.changes, *lora.whole)}):
        raise UserError(f"{path}: {len(other)} layers are missing or left over: {listed(other)}; {OTHER}")
    for change in lora.changes:
        down, up = _read(pairs[change.name], change, kernels, lora.rank, lora.alpha, path)
        change.down.assign(down.transpose((1, 0) if down.ndim == 2 else (2, 3, 1, 0)))
        change.up.assign(up.reshape(up.shape[:2]).T)
    for whole in lora.whole:
        rank = whole.shape[0]
        down, up = _read(pairs[whole.name], whole, kernels, rank, rank, path)
        whole.kernel.assign((up @ down).T)
    return lora


def merged_unet(unet: UNet, lora: LoraWeights) -> UNet:
    """A copy of the UNet with the changes in its kernels, as `Base.load_lora` merges the file of `write_lora`."""
    kernels, merged = kernels_of(unet), {}
    for name, (down, up, alpha) in _matrices(lora).items():
        shape = layout_of(kernels[name]).stored_shape(tuple(kernels[name].shape))
        down, up = (matrix.reshape(len(matrix), -1) for matrix in (down, up))
        delta = product(down, up, scale_of(len(down), alpha)).reshape(shape)
        merged[name] = merged_kernel(kernels[name], delta)
    return with_kernels(unet, merged)


def _built(unet: UNet, config: dict) -> LoraWeights:
    with built_in(make_policy(unet.compute_dtype)):
        lora = LoraWeights(**config)
        lora.build()
    return lora


def _read(
    pair: Pair, change: Change, kernels: dict, rank: int, alpha: float, path: Path
) -> tuple[np.ndarray, np.ndarray]:
    """The matrices of a layer, float32 in PyTorch's layout. Raises UserError for others than those of the change."""
    shape = layout_of(kernels[change.name]).stored_shape(change.shape)
    same_alpha = pair.alpha is not None and np.float32(pair.alpha) == np.float32(alpha)  # as it is stored
    if not pair.fits(shape) or pair.rank != rank or not same_alpha:
        raise UserError(f"{path}: {change.name} has another rank, alpha or shape; {OTHER}")
    return pair.down.read().astype("float32"), pair.up.read().astype("float32")


def _matrices(lora: LoraWeights) -> dict[str, Matrices]:
    """Layer's name -> its matrices, float32. Those of a whole kernel are the identity and the kernel."""
    found = {}
    for change in lora.changes:
        down, up = ops.convert_to_numpy(change.down), ops.convert_to_numpy(change.up).T
        down, up = (down.transpose(3, 2, 0, 1), up[:, :, None, None]) if down.ndim == 4 else (down.T, up)
        found[change.name] = Matrices(np.ascontiguousarray(down), np.ascontiguousarray(up), lora.alpha)
    for whole in lora.whole:
        rank = whole.shape[0]
        kernel = np.ascontiguousarray(ops.convert_to_numpy(whole.kernel).T)
        found[whole.name] = Matrices(np.eye(rank, dtype="float32"), kernel, rank)
    return found


def _narrowed(matrix: np.ndarray, name: str, dtype: np.dtype) -> np.ndarray:
    with np.errstate(over="ignore"):  # the error below replaces NumPy's warning
        written = matrix.astype(dtype)
    if np.isfinite(matrix).all() and not np.isfinite(written).all():
        raise UserError(f"the LoRA of {name} has values beyond the range of {dtype.name}; save it as float32")
    return written


def _end(name: str) -> str:
    """The end of a layer's name: its last word, with a number after it."""
    *_, before, last = ("", *name.split("."))
    return f"{before}.{last}" if last.isdigit() else last
