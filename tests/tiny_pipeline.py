"""A whole Stable Diffusion of a few thousand weights, made by diffusers and transformers, for tests to compare with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")
torch.set_num_threads(1)

VERSIONS = {  # what tells Stable Diffusion 1.x and 2.x apart
    "1.x": {
        "text": {"hidden_act": "quick_gelu"},
        "unet": {"attention_head_dim": 4},
        "scheduler": {"_class_name": "PNDMScheduler", "skip_prk_steps": True},
    },
    "2.x": {
        "text": {"hidden_act": "gelu"},
        "unet": {"attention_head_dim": (2, 4), "use_linear_projection": True},
        "scheduler": {"_class_name": "DDIMScheduler", "prediction_type": "v_prediction"},
    },
}
SCHEDULER = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}


def save_pipeline(folder: Path, version: str, **unet) -> Path:
    """Write a checkpoint with random weights as published ones are: a diffusers folder.

    Images are 16 pixels wide, in multiples of 4. The scheduler's file has few keys, as the published ones, for "1.x",
    and for "2.x" all of them, as diffusers writes them today.

    Args:
        folder: is made.
        version: "1.x" or "2.x".
        unet: changes of the UNet's configuration.
    """
    torch.manual_seed(0)
    parts = VERSIONS[version]
    tokenizer = make_tokenizer(folder / "tokenizer")
    text_encoder = transformers.CLIPTextModel(
        transformers.CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=24,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=2,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            **parts["text"],
        )
    )
    unet = diffusers.UNet2DConditionModel(
        **{
            "sample_size": 8,
            "block_out_channels": (8, 16),
            "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
            "layers_per_block": 1,
            "norm_num_groups": 4,
            "cross_attention_dim": 24,
            **parts["unet"],
            **unet,
        }
    )
    vae = diffusers.AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        scaling_factor=0.5,
    )
    for module in (text_encoder, unet, vae):  # louder than as they are made, so that every layer matters
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.add_(torch.randn_like(parameter) * (0.2 if parameter.ndim == 1 else 0.05))
        module.eval()
    config = {**SCHEDULER, **parts["scheduler"]}
    pipeline = diffusers.StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=getattr(diffusers, config["_class_name"]).from_config(config),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder)
    if version == "1.x":
        (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(config), "utf-8")
    return folder


def make_tokenizer(folder: Path):
    """transformers' CLIPTokenizer with a vocabulary of single letters and a few merges, its files in `folder`."""
    letters = [chr(code) for code in range(ord("!"), ord("~") + 1)]
    merges = ["a t</w>", "c at</w>", "t h", "th e</w>"]
    tokens = [*letters, *(letter + "</w>" for letter in letters), *(merge.replace(" ", "") for merge in merges)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}), "utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", "utf-8")
    return transformers.CLIPTokenizer.from_pretrained(folder, model_max_length=77)
