"""python -m benchmarks.make_checkpoint TARGET: random weights in the true shapes of Stable Diffusion.

Writes a diffusers folder, or a single file in the original layout, tensor by tensor, which needs little memory. The
weights are scaled so that activations neither vanish nor explode; the images are noise. The tokenizer has a vocabulary
of the true size with made-up words.
"""

from __future__ import annotations

import functools
import itertools
import json
import math
import re
import sys
import zlib
from pathlib import Path

import numpy as np

from codi_tf.core.command_line import ArgumentParser, run_command, start_tensorflow
from codi_tf.core.errors import UserError
from codi_tf.core.formats import FORMATS

VOCABULARY = 49408
FAMILIES = {
    "1.x": {
        "unet": {"cross_attention_dim": 768, "attention_head_dim": 8},
        "text_encoder": {},
        "prediction_type": "epsilon",
    },
    "2.x": {
        "unet": {"cross_attention_dim": 1024, "attention_head_dim": [5, 10, 20, 20], "use_linear_projection": True},
        "text_encoder": {
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 23,
            "num_attention_heads": 16,
            "hidden_act": "gelu",
        },
        "prediction_type": "v_prediction",
    },
}
RESIDUAL = ("conv2.", "to_out.0.", "net.2.", "proj_out.", "out_proj.", "fc2.")  # last layers of residual branches


def random_values(key: str, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Weights by their key: norms 1, biases 0, kernels of deviation fan-in^-0.5, a tenth of it where a branch ends."""
    if len(shape) == 1:
        return np.full(shape, float("norm" in key and key.endswith("weight")), dtype)
    random = np.random.Generator(np.random.SFC64(zlib.crc32(key.encode())))
    fan_in = 1e4 if "embedding.weight" in key else math.prod(shape[1:])
    scale = (0.1 if any(name in key for name in RESIDUAL) else 1.0) * fan_in**-0.5
    values = random.standard_normal(math.prod(shape), np.float32)
    values *= scale
    return values.reshape(shape).astype(dtype)


def networks(family: str, in_channels: int) -> dict:
    """The parts of a checkpoint of the family: part -> (kind, config)."""
    from codi_tf.checkpoints.kinds import AUTOENCODER, TEXT_ENCODER, UNET

    about = FAMILIES[family]
    side = 96 if about["prediction_type"] == "v_prediction" else 64
    return {
        "unet": (UNET, {"in_channels": in_channels, "sample_size": side, **about["unet"]}),
        "vae": (AUTOENCODER, about.get("vae", {})),
        "text_encoder": (TEXT_ENCODER, about["text_encoder"]),
    }


def write_folder(target: Path, family: str, in_channels: int, dtype: np.dtype) -> None:
    """Write a diffusers folder."""
    from codi_tf.checkpoints.base import SCHEDULER, make_network
    from codi_tf.checkpoints.compvis import SCHEDULER as DDIM
    from codi_tf.checkpoints.folder import write_index
    from codi_tf.checkpoints.networks import peer_config
    from codi_tf.io.json_files import write_json
    from codi_tf.io.tensor_files import TensorToWrite, write_tensors
    from codi_tf.io.weights import CONFIG, shapes_of

    for part, (kind, config) in networks(family, in_channels).items():
        shapes, config = shapes_of(functools.partial(make_network, kind.network, config, part))
        (target / part).mkdir()
        write_json(target / part / CONFIG, {**peer_config(kind, len(config.get("block_out_channels", ()))), **config})
        later = {key: functools.partial(random_values, key, shape, dtype) for key, shape in shapes.items()}
        tensors = {kind.prefix + key: TensorToWrite(dtype, shapes[key], values) for key, values in later.items()}
        write_tensors(target / part / f"{kind.file}.safetensors", tensors)
    target.joinpath(SCHEDULER[0]).mkdir()
    write_json(target.joinpath(*SCHEDULER), {**DDIM, "prediction_type": FAMILIES[family]["prediction_type"]})
    write_tokenizer(target / "tokenizer", "<|endoftext|>" if family == "1.x" else "!")
    write_index(target, extra_channels=in_channels - 4, scheduler=DDIM["_class_name"])


def single_file(family: str, in_channels: int, dtype: np.dtype) -> dict:
    """Key -> TensorToWrite: the same weights in the original layout."""
    from codi_tf.checkpoints import rules
    from codi_tf.checkpoints.base import make_network
    from codi_tf.io.tensor_files import TensorToWrite
    from codi_tf.io.weights import shapes_of

    renamings = {
        "unet": rules.unet_renaming(4, 2, (1, 2, 3)),
        "vae": rules.autoencoder_renaming(4),
        "text_encoder": rules.CLIP_RENAMING if family == "1.x" else rules.OPEN_CLIP_RENAMING,
    }
    pieces: dict[str, list[tuple[int, str, tuple[int, ...]]]] = {}  # in one tensor: part, key, shape
    for part, (kind, config) in networks(family, in_channels).items():
        shapes, _ = shapes_of(functools.partial(make_network, kind.network, config, part))
        renaming = renamings[part]
        for key, shape in shapes.items():
            if renaming.pointwise and re.search(renaming.pointwise, key) and len(shape) == 2:
                shape = (*shape, 1, 1)
            pieces.setdefault(renaming(key), []).append((renaming.part(key)[0], key, shape))
    if family == "2.x":  # a last layer that is not used
        first = f"{rules.OPEN_CLIP}transformer.resblocks.0."
        pieces |= {key.replace(".0.", ".23.", 1): pieces[key] for key in list(pieces) if key.startswith(first)}
    tensors = {}
    for key, parts in pieces.items():
        shape = (sum(shape[0] for _, _, shape in parts), *parts[0][2][1:])
        tensors[key] = TensorToWrite(dtype, shape, functools.partial(_joined, sorted(parts), dtype))
    return tensors


def _joined(parts: list[tuple[int, str, tuple[int, ...]]], dtype: np.dtype) -> np.ndarray:
    return np.concatenate([random_values(key, shape, dtype) for _, key, shape in parts])


def write_tokenizer(folder: Path, padding: str) -> None:
    """Write a vocabulary of the true size: the letters of all bytes, and merges of two letters, then of three."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    letters = [chr(code) for code in printable] + [chr(256 + i) for i in range(256 - len(printable))]
    tokens = [*letters, *(letter + "</w>" for letter in letters)]
    wanted = VOCABULARY - len(tokens) - 2
    small = [letter for letter in letters if letter.isascii() and letter.isalpha() and letter.islower()]
    pairs = [(a, b + end) for end in ("", "</w>") for a, b in itertools.product(small, small)]
    triples = ((a + b, c + end) for end in ("", "</w>") for a, b, c in itertools.product(small, small, small))
    merges = list(itertools.islice(itertools.chain(pairs, triples), wanted))
    more = itertools.product(small, small, small, small)
    merges += [(a + b, c + d) for a, b, c, d in itertools.islice(more, wanted - len(merges))]
    tokens += ["".join(pair) for pair in merges] + ["<|startoftext|>", "<|endoftext|>"]
    folder.mkdir()
    vocabulary = {token: number for number, token in enumerate(tokens)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), "utf-8")
    lines = "".join(f"{a} {b}\n" for a, b in merges)
    (folder / "merges.txt").write_text(f"#version: 0.2\n{lines}", "utf-8")
    special = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    special["pad_token"] = padding
    (folder / "special_tokens_map.json").write_text(json.dumps(special), "utf-8")
    settings = {**special, "model_max_length": 77, "tokenizer_class": "CLIPTokenizer", "do_lower_case": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), "utf-8")


def _main(arguments: list[str]) -> None:
    parser = ArgumentParser(
        prog="python -m benchmarks.make_checkpoint", description="Random weights in the shapes of Stable Diffusion."
    )
    parser.add_argument("target", type=Path, metavar="TARGET", help="a new folder, or a new file with --single-file")
    parser.add_argument("--family", choices=FAMILIES, default="1.x")
    parser.add_argument("--dtype", choices=FORMATS, default="float32")
    parser.add_argument("--in-channels", type=int, choices=(4, 8, 9), default=4)
    parser.add_argument("--single-file", action="store_true", help="the original layout instead of a diffusers folder")
    options = parser.parse_args(arguments)
    if options.target.exists():
        raise UserError(f"{options.target}: already exists; name a new place")
    start_tensorflow()
    from codi_tf.io.bundle_files import CHECKPOINTS
    from codi_tf.io.folders import whole_folder
    from codi_tf.io.tensor_files import DTYPES, write_tensors

    dtype = next(dtype for dtype in DTYPES.values() if dtype.name == options.dtype)
    if options.single_file:
        write_tensors(options.target, single_file(options.family, options.in_channels, dtype))
    else:
        with whole_folder(options.target, CHECKPOINTS, replace=False) as partial:
            write_folder(partial, options.family, options.in_channels, dtype)
    print(options.target)


if __name__ == "__main__":
    sys.exit(run_command(_main))
