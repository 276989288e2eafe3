"""Random LoRAs of a base, as files in the spellings of several programs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from codi_tf.checkpoints.lora import kernels_of
from codi_tf.io.layouts import layout_of

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
ALL = (*ATTENTION, "ff.net.0.proj", "ff.net.2", "proj_in", "conv1", "conv_shortcut", "time_emb_proj", "conv")
TEXT = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")


def random_pairs(network, ends, *, rank: int = 2, seed: int = 0) -> dict:
    """Layer's name -> (down, up) in PyTorch's layout, of the layers whose names end so."""
    random, pairs = np.random.default_rng(seed), {}
    for name, kernel in kernels_of(network).items():
        if name.endswith(tuple(f".{end}" for end in ends)):
            out, *others = layout_of(kernel).stored_shape(tuple(kernel.shape))
            shapes = (rank, *others), (out, rank, *[1] * (len(others) - 1))
            pairs[name] = tuple(random.normal(0, 0.2, shape).astype("float32") for shape in shapes)
    assert {name for name in ends if any(pair.endswith(name) for pair in pairs)} == set(ends)
    return pairs


def diffusers_old(name: str) -> tuple[str, str]:
    """A layer's two keys in diffusers before PEFT."""
    if ".attn" in name:
        name = name.replace("to_out.0", "to_out")
        block, _, layer = name.rpartition(".")
        return tuple(f"unet.{block}.processor.{layer}_lora.{side}.weight" for side in ("down", "up"))
    return tuple(f"unet.{name}.lora.{side}.weight" for side in ("down", "up"))


SPELLINGS = {
    "peft": lambda name: (f"unet.{name}.lora_A.weight", f"unet.{name}.lora_B.weight"),
    "old": diffusers_old,
    "kohya": lambda name: tuple(f"lora_unet_{name.replace('.', '_')}.lora_{side}.weight" for side in ("down", "up")),
}


def write_lora(file: Path, pairs: dict, spelling: str = "kohya", *, alpha: float | None = None, others=()) -> Path:
    """Write a UNet's LoRA; an alpha is written beside each layer. `others` are further tensors, key -> array."""
    tensors = dict(others)
    for name, pair in pairs.items():
        keys = SPELLINGS[spelling](name)
        tensors |= dict(zip(keys, pair, strict=True))
        if alpha is not None:
            tensors[keys[0].split(".lora_down")[0] + ".alpha"] = np.array(alpha, "f")
    save_file(tensors, file)
    return file
