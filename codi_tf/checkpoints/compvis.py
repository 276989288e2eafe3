"""A single safetensors file in the layout of the first Stable Diffusion code (CompVis, later Stability AI).

The file has no configuration. The architecture follows from the shapes and from the model family, 1.x or 2.x.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from codi_tf.checkpoints import rules
from codi_tf.checkpoints.base import Base, make_network
from codi_tf.checkpoints.kinds import AUTOENCODER, TEXT_ENCODER, UNET, Kind
from codi_tf.checkpoints.networks import check_numbers, check_positions, in_numerics, origins
from codi_tf.checkpoints.rules import OPEN_CLIP, STAGES, Renaming
from codi_tf.checkpoints.tokenizer import END, Tokenizer
from codi_tf.core.errors import UserError
from codi_tf.diffusion.process import PREDICTION_TYPES, Schedule
from codi_tf.diffusion.scheduler_config import make_schedule_of
from codi_tf.io.tensor_files import StoredTensor, listed, read_header
from codi_tf.io.weights import make_from

HEAD_WIDTH = 64  # channels of an attention head in CLIP, and in the UNet of 2.x
UNET_HEADS = 8  # attention heads in the UNet of 1.x
OPEN_CLIP_LAYERS = {1024: 23}  # width of the text encoder in 2.x -> number of layers that are used
SCALING_FACTOR = 0.18215  # of the latents in both families
SCHEDULER = {  # of both families, in diffusers' terms
    "_class_name": "DDIMScheduler",
    "_diffusers_version": "0.30.0",
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "num_train_timesteps": 1000,
    "trained_betas": None,
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "timestep_spacing": "leading",
}
_PREDICTION_TYPES = {
    **{name: name for name in PREDICTION_TYPES},
    "v": "v_prediction",
}  # and the name in modelspec metadata

Stored = Mapping[str, StoredTensor]


def read_single_file(
    path: Path,
    *,
    tokenizer: Path | None = None,
    prediction_type: str | None = None,
    numerics: str | None = None,
    architecture: Mapping[str, Mapping[str, Any]],
) -> Base:
    """A base from a single file, with the current dtype policy.

    Args:
        path: the file.
        tokenizer: the folder of the tokenizer's files, which a single file does not hold; None: no tokenizer.
        prediction_type: "epsilon" or "v_prediction", for a 2.x file whose metadata does not name it.
        numerics: "diffusers" or "keras_cv"; None: diffusers'.
        architecture: see `load_stable_diffusion`.

    Raises:
        UserError: the file is truncated or of another network (names the weights that are missing or left over); an
            option is unknown, or missing for this file; the tokenizer cannot be read.
    """
    stored, metadata = read_header(path)
    unknown = [part for part in architecture if part not in STAGES]
    if unknown:
        raise UserError(f"architecture names {unknown[0]!r}: its parts are {', '.join(STAGES)}")
    parts = _parts(_with_original_names(stored), path)
    open_clip = any(key.startswith(OPEN_CLIP) for key in parts["text_encoder"])
    if open_clip:
        layers = architecture.get("text_encoder", {}).get("num_hidden_layers")
        text_config, text_renaming, text_weights = _open_clip(parts["text_encoder"], path, layers)
    else:
        text_config, text_renaming, text_weights = _clip(parts["text_encoder"], path)
    unet_config, unet_renaming = _unet(parts["unet"], path)
    if unet_config["use_linear_projection"] != open_clip:
        ours, theirs = ("1.x", "2.x") if open_clip else ("2.x", "1.x")
        raise UserError(f"{path}: a UNet of {ours} beside a text encoder of {theirs}; they do not belong together")
    vae_config, vae_renaming = _autoencoder(parts["vae"], path)
    scheduler = {**SCHEDULER, "prediction_type": _prediction_type(path, open_clip, metadata, prediction_type)}
    unet_config["sample_size"] = 96 if open_clip and scheduler["prediction_type"] == "v_prediction" else 64

    def complete(part: str, kind: Kind, config: dict) -> dict:
        config = {**in_numerics(kind, config, numerics), **architecture.get(part, {})}
        check_numbers(kind, config, path)
        return config

    text_config = complete("text_encoder", TEXT_ENCODER, text_config)
    vae_config = complete("vae", AUTOENCODER, vae_config)
    unet_config = complete("unet", UNET, unet_config)
    _check_buffers(parts["buffers"], make_schedule_of(scheduler), vae_config["scaling_factor"], path)

    def read(part: str, kind: Kind, config: dict, weights: Stored, renaming: Renaming):
        return make_from(lambda: make_network(kind.network, config, part), weights, path, origins([renaming], weights))

    words = None if tokenizer is None else Tokenizer.load(tokenizer, padding="!" if open_clip else END)
    # The small parts come first, so that their errors appear before the large part is read.
    text_encoder = read("text_encoder", TEXT_ENCODER, text_config, text_weights, text_renaming)
    vae = read("vae", AUTOENCODER, vae_config, parts["vae"], vae_renaming)
    unet = read("unet", UNET, unet_config, parts["unet"], unet_renaming)
    return Base(unet, vae, scheduler, path, text_encoder, words)


def _with_original_names(stored: Stored) -> Stored:
    """The tensors under CompVis' names; Stability AI's later code has another name for the text encoder."""
    later, first = rules.LATER_TEXT_ENCODER, STAGES["text_encoder"]
    if any(key.startswith(first) for key in stored):
        return stored
    return {first + key.removeprefix(later) if key.startswith(later) else key: stored[key] for key in stored}


def _parts(stored: Stored, path: Path) -> dict[str, dict[str, StoredTensor]]:
    """Part -> its tensors. Raises UserError for a part without tensors and for unknown tensors."""
    parts = {**{part: {} for part in STAGES}, "buffers": {}}
    unknown, buffers = [], set(schedule_buffers(Schedule(np.ones(1), np.ones(1)))) | {rules.SCALE_FACTOR}
    for key, tensor in stored.items():
        stage = next((part for part, prefix in STAGES.items() if key.startswith(prefix)), None)
        if any(re.search(pattern, key) for pattern, _ in rules.UNUSED):
            continue
        if key in buffers:
            parts["buffers"][key] = tensor
        elif stage is None:
            unknown.append(key)
        else:
            parts[stage][key] = tensor
    for part, prefix in STAGES.items():
        if not parts[part]:
            raise UserError(
                f"{path}: not a Stable Diffusion checkpoint in the original layout: no weights of the {part} "
                f"({prefix}*)"
            )
    if unknown:
        raise UserError(f"{path}: {len(unknown)} tensors left over: {listed(unknown)}; another kind of checkpoint?")
    return parts


def _unet(stored: Stored, path: Path) -> tuple[dict, Renaming]:
    shape = _Shapes(stored, STAGES["unet"], path)
    # After the first convolution: the residual blocks of a level, a downsampler, those of the next level, ...
    levels: list[list[int]] = [[]]
    for i in range(1, shape.count("input_blocks.{}.")):
        if shape.has(f"input_blocks.{i}.0.op."):
            levels.append([])
        else:
            levels[-1].append(i)
    layers = len(levels[0])
    if not layers or any(len(blocks) != layers for blocks in levels):
        counts = [len(blocks) for blocks in levels]
        raise UserError(f"{path}: the levels of its UNet have {counts} blocks: all levels must have the same number")
    widths = [shape(f"input_blocks.{blocks[0]}.0.out_layers.3.weight", 4)[0] for blocks in levels]
    down_attention = [shape.has(f"input_blocks.{blocks[0]}.1.") for blocks in levels]
    up_attention = [shape.has(f"output_blocks.{i * (layers + 1)}.1.norm.") for i in range(len(levels))]
    linear = len(shape("middle_block.1.proj_in.weight", 2, 4)) == 2
    config = {
        "in_channels": shape("input_blocks.0.0.weight", 4)[1],
        "out_channels": shape("out.2.weight", 4)[0],
        "block_out_channels": widths,
        "down_block_types": ["CrossAttnDownBlock2D" if here else "DownBlock2D" for here in down_attention],
        "up_block_types": ["CrossAttnUpBlock2D" if here else "UpBlock2D" for here in up_attention],
        "layers_per_block": layers,
        "cross_attention_dim": shape("middle_block.1.transformer_blocks.0.attn2.to_k.weight", 2)[1],
        "attention_head_dim": [max(width // HEAD_WIDTH, 1) for width in widths] if linear else UNET_HEADS,
        "use_linear_projection": linear,
        "upcast_attention": linear,  # without it, 2.x overflows float16
    }
    attention = [level for level, here in enumerate(up_attention) if here]
    return config, rules.unet_renaming(len(levels), layers, attention)


def _autoencoder(stored: Stored, path: Path) -> tuple[dict, Renaming]:
    shape = _Shapes(stored, STAGES["vae"], path)
    levels, layers = shape.count("encoder.down.{}."), shape.count("encoder.down.0.block.{}.")
    config = {
        "in_channels": shape("encoder.conv_in.weight", 4)[1],
        "out_channels": shape("decoder.conv_out.weight", 4)[0],
        "latent_channels": shape("post_quant_conv.weight", 4)[0],
        "block_out_channels": [shape(f"encoder.down.{i}.block.0.conv1.weight", 4)[0] for i in range(levels)],
        "layers_per_block": layers,
        "scaling_factor": SCALING_FACTOR,
        "mid_block_add_attention": shape.has("encoder.mid.attn_1."),
    }
    return config, rules.autoencoder_renaming(levels)


def _clip(stored: Stored, path: Path) -> tuple[dict, Renaming, Stored]:
    """1.x: the whole encoder of CLIP ViT-L/14."""
    renaming = next(r for r in (rules.CLIP_RENAMING, rules.BARE_CLIP_RENAMING) if r.applies(stored))
    shape = _Shapes(stored, renaming(""), path)
    vocabulary, width = shape("embeddings.token_embedding.weight", 2)
    config = {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": shape("encoder.layers.0.mlp.fc1.weight", 2)[0],
        "num_hidden_layers": shape.count("encoder.layers.{}."),
        "num_attention_heads": max(width // HEAD_WIDTH, 1),
        "max_position_embeddings": shape("embeddings.position_embedding.weight", 2)[0],
        "hidden_act": "quick_gelu",
    }
    weights = {key: tensor for key, tensor in stored.items() if not re.search(rules.POSITIONS, key)}
    for key in stored.keys() - weights.keys():
        check_positions(stored[key], key)
    return config, renaming, weights


def _open_clip(stored: Stored, path: Path, layers: int | None) -> tuple[dict, Renaming, Stored]:
    """2.x: OpenCLIP ViT-H/14 without its last layer, which is never used and which only some files hold."""
    shape = _Shapes(stored, OPEN_CLIP, path)
    vocabulary, width = shape("token_embedding.weight", 2)
    layers = layers or OPEN_CLIP_LAYERS.get(width)
    if layers is None:
        held = shape.count("transformer.resblocks.{}.")
        raise UserError(
            f"{path}: a text encoder of {width} channels and {held} layers; state how many are used: "
            'architecture={"text_encoder": {"num_hidden_layers": N}}'
        )
    config = {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": shape("transformer.resblocks.0.mlp.c_fc.weight", 2)[0],
        "num_hidden_layers": layers,
        "num_attention_heads": max(width // HEAD_WIDTH, 1),
        "max_position_embeddings": shape("positional_embedding", 2)[0],
        "hidden_act": "gelu",
    }
    last = f"{OPEN_CLIP}transformer.resblocks.{layers}."
    weights = {key: tensor for key, tensor in stored.items() if not key.startswith(last)}
    return config, rules.OPEN_CLIP_RENAMING, weights


class _Shapes:
    """Shapes of the tensors whose keys begin with a prefix."""

    def __init__(self, stored: Stored, prefix: str, path: Path):
        self.stored, self.prefix, self.path = stored, prefix, path

    def __call__(self, key: str, *ranks: int) -> tuple[int, ...]:
        """The shape of a tensor, which must exist and have one of these numbers of axes. Raises UserError."""
        if self.prefix + key not in self.stored:
            raise UserError(f"{self.path}: {self.prefix + key} is missing; the file belongs to another network")
        shape = self.stored[self.prefix + key].shape
        if len(shape) not in ranks:
            wanted = " or ".join(map(str, ranks))
            raise UserError(f"{self.path}: {self.prefix + key} has the shape {shape}, wanted {wanted} axes")
        return shape

    def has(self, beginning: str) -> bool:
        """Whether a key has this beginning after the prefix."""
        return any(key.startswith(self.prefix + beginning) for key in self.stored)

    def count(self, beginning: str) -> int:
        """How many consecutive numbers 0, 1, 2, ... appear in keys with this beginning."""
        number = 0
        while self.has(beginning.format(number)):
            number += 1
        return number


def _prediction_type(path: Path, open_clip: bool, metadata: Mapping[str, str], given: str | None) -> str:
    found = given or metadata.get("modelspec.prediction_type") or (None if open_clip else "epsilon")
    if found is None:
        raise UserError(
            f'{path}: a 2.x file without its prediction type: give prediction_type="epsilon" (the base for '
            '512 pixels) or prediction_type="v_prediction" (the one for 768)'
        )
    if found not in _PREDICTION_TYPES:
        raise UserError(f"prediction_type is {found!r}: use one of {', '.join(PREDICTION_TYPES)}")
    return _PREDICTION_TYPES[found]


def schedule_buffers(schedule: Schedule) -> dict[str, np.ndarray]:
    """The buffers that the original code computes from its betas and stores (Ho et al. 2020, Eq. 4, 6 and 7).

    Returns:
        name -> float64 [T].
    """
    cumprod = schedule.alpha.astype("float64") ** 2
    before = np.append(1.0, cumprod[:-1])
    alphas = cumprod / before
    with np.errstate(divide="ignore", invalid="ignore"):
        variance = (1 - alphas) * (1 - before) / (1 - cumprod)
        return {
            "betas": 1 - alphas,
            "alphas_cumprod": cumprod,
            "alphas_cumprod_prev": before,
            "sqrt_alphas_cumprod": np.sqrt(cumprod),
            "sqrt_one_minus_alphas_cumprod": np.sqrt(1 - cumprod),
            "log_one_minus_alphas_cumprod": np.log(1 - cumprod),
            "sqrt_recip_alphas_cumprod": np.sqrt(1 / cumprod),
            "sqrt_recipm1_alphas_cumprod": np.sqrt(1 / cumprod - 1),
            "posterior_variance": variance,
            "posterior_log_variance_clipped": np.log(np.maximum(variance, 1e-20)),
            "posterior_mean_coef1": (1 - alphas) * np.sqrt(before) / (1 - cumprod),
            "posterior_mean_coef2": (1 - before) * np.sqrt(alphas) / (1 - cumprod),
        }


def _check_buffers(stored: Stored, schedule: Schedule, scaling_factor: float, path: Path) -> None:
    expected = {**schedule_buffers(schedule), rules.SCALE_FACTOR: np.asarray(scaling_factor)}
    for key, tensor in stored.items():
        value = tensor.read().astype("float64")
        # The tolerances allow for rounding to half precision and in the differences of the schedule.
        if value.shape != expected[key].shape or not np.allclose(value, expected[key], rtol=1e-2, atol=1e-7):
            raise UserError(
                f"{path}: its {key} is not that of Stable Diffusion's schedule (scaled_linear, 0.00085 to 0.012, 1000 "
                "times); another schedule is not supported"
            )
