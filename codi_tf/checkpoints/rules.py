"""The names of weights in files that differ from diffusers' present names. Tables, and loops that generate some.

All of them map our keys to the keys of a file.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass


@dataclass(frozen=True)
class Renaming:
    """A mapping of our keys to the keys of a file.

    Attributes:
        names: (pattern, replacement), applied one after the other.
        sign: the renaming applies to files with a key that matches this pattern; "": to all files.
        pointwise: a pattern of our keys: dense layers that may be 1x1 convolutions in the file.
        fused: patterns of our keys whose tensors are concatenated in the file, in this order.
    """

    names: tuple[tuple[str, str], ...]
    sign: str = ""
    pointwise: str | None = None
    fused: tuple[str, ...] = ()

    def applies(self, keys: Collection[str]) -> bool:
        """Whether the renaming applies to a file with these keys."""
        return any(re.search(self.sign, key) for key in keys)

    def __call__(self, key: str) -> str:
        for pattern, replacement in self.names:
            key = re.sub(pattern, replacement, key)
        return key

    def part(self, key: str) -> tuple[int, int]:
        """(part, parts): our key is part number `part` of `parts` in the file's tensor."""
        numbers = [number for number, pattern in enumerate(self.fused) if re.search(pattern, key)]
        return (numbers[0], len(self.fused)) if numbers else (0, 1)


# The folders of the first releases of diffusers.
OLD_ATTENTION = Renaming(
    sign=r"\.attentions\.\d+\.query\.",
    names=(
        (r"\.to_q\.", ".query."),
        (r"\.to_k\.", ".key."),
        (r"\.to_v\.", ".value."),
        (r"\.to_out\.0\.", ".proj_attn."),
    ),
    pointwise=r"\.attentions\.\d+\.to_",
)
# transformers before version 5.
TEXT_MODEL = Renaming(sign=r"^text_model\.", names=((r"^", "text_model."),))

# Tensors in files that are not read: (pattern, reason).
UNUSED = (
    (r"^model_ema\.", "the training's moving average; the model's own weights are read, as diffusers does"),
    (r"^first_stage_model\.loss\.", "the discriminator and the perceptual network that trained the autoencoder"),
    (r"^cond_stage_model\.logit_scale$", "CLIP's temperature, for comparing texts with images"),
    (r"^cond_stage_model\.model\.logit_scale$", "CLIP's temperature, for comparing texts with images"),
    (r"^cond_stage_model\.(model\.text_projection|transformer\.text_projection\.weight)$", "for the pooled embedding"),
    (r"^cond_stage_model\.model\.attn_mask$", "the causal mask, which is computed"),
    (r"^logvar$", "weights of the training's loss"),
    (r"^denoiser\.sigmas$", "the noise levels of Stability AI's later code, which follow from the schedule"),
)
POSITIONS = r"(^|\.)position_ids$"  # 0, 1, 2, ... in old text encoders; they are checked
SCALE_FACTOR = "scale_factor"  # of the latents; it is checked
STAGES = {"unet": "model.diffusion_model.", "vae": "first_stage_model.", "text_encoder": "cond_stage_model."}
CLIP, OPEN_CLIP = "cond_stage_model.transformer.", "cond_stage_model.model."
LATER_TEXT_ENCODER = "conditioner.embedders.0."  # Stability AI's later code (sd-turbo); the rest has the same names


def unet_renaming(levels: int, layers_per_block: int, attention: Collection[int]) -> Renaming:
    """The UNet of the original layout, which numbers all blocks of the encoder, and of the decoder, consecutively.

    An upsampler follows the last block of its level of the decoder, and its transformer if the level has attention.
    """
    places = [("conv_in.", "input_blocks.0.0.")]
    for level in range(levels):
        down, up = 1 + level * (layers_per_block + 1), level * (layers_per_block + 1)
        for i in range(layers_per_block):
            places.append((f"down_blocks.{level}.resnets.{i}.", f"input_blocks.{down + i}.0."))
            places.append((f"down_blocks.{level}.attentions.{i}.", f"input_blocks.{down + i}.1."))
        places.append((f"down_blocks.{level}.downsamplers.0.conv.", f"input_blocks.{down + layers_per_block}.0.op."))
        for i in range(layers_per_block + 1):
            places.append((f"up_blocks.{level}.resnets.{i}.", f"output_blocks.{up + i}.0."))
            places.append((f"up_blocks.{level}.attentions.{i}.", f"output_blocks.{up + i}.1."))
        upsampler = f"output_blocks.{up + layers_per_block}.{2 if level in attention else 1}."
        places.append((f"up_blocks.{level}.upsamplers.0.", upsampler))
    return Renaming(
        names=(
            (r"(\.resnets\.\d+)\.norm1\.", r"\1.in_layers.0."),
            (r"(\.resnets\.\d+)\.conv1\.", r"\1.in_layers.2."),
            (r"(\.resnets\.\d+)\.time_emb_proj\.", r"\1.emb_layers.1."),
            (r"(\.resnets\.\d+)\.norm2\.", r"\1.out_layers.0."),
            (r"(\.resnets\.\d+)\.conv2\.", r"\1.out_layers.3."),
            (r"(\.resnets\.\d+)\.conv_shortcut\.", r"\1.skip_connection."),
            (r"^time_embedding\.linear_1\.", "time_embed.0."),
            (r"^time_embedding\.linear_2\.", "time_embed.2."),
            (r"^mid_block\.resnets\.0\.", "middle_block.0."),
            (r"^mid_block\.attentions\.0\.", "middle_block.1."),
            (r"^mid_block\.resnets\.1\.", "middle_block.2."),
            (r"^conv_norm_out\.", "out.0."),
            (r"^conv_out\.", "out.2."),
            *((f"^{re.escape(ours)}", theirs) for ours, theirs in places),
            (r"^", STAGES["unet"]),
        )
    )


def autoencoder_renaming(levels: int) -> Renaming:
    """The autoencoder of the original layout, which numbers the decoder's levels from the finest one."""
    reversed_levels = ((rf"^decoder\.up_blocks\.{i}\.", f"decoder.up.{levels - 1 - i}.") for i in range(levels))
    return Renaming(
        names=(
            *reversed_levels,
            (r"^encoder\.down_blocks\.", "encoder.down."),
            (r"\.mid_block\.resnets\.0\.", ".mid.block_1."),
            (r"\.mid_block\.resnets\.1\.", ".mid.block_2."),
            (r"\.mid_block\.attentions\.0\.group_norm\.", ".mid.attn_1.norm."),
            (r"\.mid_block\.attentions\.0\.to_([qkv])\.", r".mid.attn_1.\1."),
            (r"\.mid_block\.attentions\.0\.to_out\.0\.", ".mid.attn_1.proj_out."),
            (r"\.resnets\.", ".block."),
            (r"\.conv_shortcut\.", ".nin_shortcut."),
            (r"\.downsamplers\.0\.", ".downsample."),
            (r"\.upsamplers\.0\.", ".upsample."),
            (r"\.conv_norm_out\.", ".norm_out."),
            (r"^", STAGES["vae"]),
        ),
        pointwise=r"\.attentions\.0\.to_",
    )


CLIP_RENAMING = Renaming(sign=rf"^{re.escape(CLIP)}text_model\.", names=((r"^", CLIP + "text_model."),))
BARE_CLIP_RENAMING = Renaming(names=((r"^", CLIP),))  # as in many merged models
OPEN_CLIP_RENAMING = Renaming(
    names=(
        (r"^embeddings\.token_embedding\.", "token_embedding."),
        (r"^embeddings\.position_embedding\.weight$", "positional_embedding"),
        (r"^final_layer_norm\.", "ln_final."),
        (r"^encoder\.layers\.", "transformer.resblocks."),
        (r"\.self_attn\.[qkv]_proj\.", ".attn.in_proj_"),
        (r"\.self_attn\.out_proj\.", ".attn.out_proj."),
        (r"\.layer_norm([12])\.", r".ln_\1."),
        (r"\.mlp\.fc1\.", ".mlp.c_fc."),
        (r"\.mlp\.fc2\.", ".mlp.c_proj."),
        (r"^", OPEN_CLIP),
    ),
    fused=(r"\.q_proj\.", r"\.k_proj\.", r"\.v_proj\."),
)
