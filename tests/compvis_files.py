"""Single files in the original layout, made from pipelines of diffusers."""

from __future__ import annotations

import re

import numpy as np
import pytest
from tiny_pipeline import save_pipeline

import codi_tf

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
peer = pytest.importorskip("diffusers.loaders.single_file_utils")
save_file = pytest.importorskip("safetensors.torch").save_file
torch.set_num_threads(1)

NETWORKS = ("unet", "vae", "text_encoder")


def original_unet(weights, levels: int, layers: int) -> dict:
    """diffusers' UNet weights under the names of CompVis' openaimodel.py, which numbers modules as it appends them."""
    places, row = {"conv_in": "input_blocks.0.0"}, 1
    for level in range(levels):
        for i in range(layers):
            places[f"down_blocks.{level}.resnets.{i}"] = f"input_blocks.{row}.0"
            places[f"down_blocks.{level}.attentions.{i}"] = f"input_blocks.{row}.1"
            row += 1
        places[f"down_blocks.{level}.downsamplers.0.conv"] = f"input_blocks.{row}.0.op"
        row += 1
    row = 0
    for level in range(levels):
        for i in range(layers + 1):
            attention = f"up_blocks.{level}.attentions.{i}"
            places[f"up_blocks.{level}.resnets.{i}"] = f"output_blocks.{row}.0"
            places[attention] = f"output_blocks.{row}.1"
            if i == layers:
                number = 2 if any(key.startswith(attention) for key in weights) else 1
                places[f"up_blocks.{level}.upsamplers.0"] = f"output_blocks.{row}.{number}"
            row += 1
    places |= {"mid_block.resnets.0": "middle_block.0", "mid_block.attentions.0": "middle_block.1"}
    places |= {"mid_block.resnets.1": "middle_block.2", "conv_norm_out": "out.0", "conv_out": "out.2"}
    places |= {"time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2"}
    inside = {"norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0"}
    inside |= {"conv2": "out_layers.3", "conv_shortcut": "skip_connection"}
    renamed = {}
    for key, value in weights.items():
        place = max((place for place in places if key.startswith(place + ".")), key=len)
        rest = key.removeprefix(place + ".")
        if ".resnets." in key:
            name, kind = rest.split(".")
            rest = f"{inside[name]}.{kind}"
        renamed[f"model.diffusion_model.{places[place]}.{rest}"] = value
    return renamed


def original_vae(weights, levels: int) -> dict:
    """diffusers' autoencoder weights under the names of CompVis' model.py; attention lies in 1x1 convolutions."""
    renamed = {}
    for key, value in weights.items():
        if match := re.match(r"decoder\.up_blocks\.(\d+)\.", key):
            key = key.replace(match[0], f"decoder.up.{levels - 1 - int(match[1])}.")
        key = key.replace("encoder.down_blocks", "encoder.down").replace("mid_block.resnets.0", "mid.block_1")
        key = key.replace("mid_block.resnets.1", "mid.block_2").replace("mid_block.attentions.0", "mid.attn_1")
        key = key.replace("resnets", "block").replace("conv_shortcut", "nin_shortcut").replace("group_norm", "norm")
        key = key.replace("downsamplers.0", "downsample").replace("upsamplers.0", "upsample")
        key = key.replace("conv_norm_out", "norm_out").replace("to_out.0", "proj_out")
        key = re.sub(r"attn_1\.to_([qkv])", r"attn_1.\1", key)
        if ".attn_1." in key and value.ndim == 2:
            value = value[:, :, None, None]
        renamed[f"first_stage_model.{key}"] = value
    return renamed


def original_clip(weights) -> dict:
    renamed = {f"cond_stage_model.transformer.text_model.{key}": value for key, value in weights.items()}
    renamed["cond_stage_model.transformer.text_model.embeddings.position_ids"] = torch.arange(77)[None]
    return renamed


def original_open_clip(weights, extra_layer: bool = True) -> dict:
    """transformers' weights under OpenCLIP's names, and a text projection; often with a last layer that is not used."""
    names = {"embeddings.token_embedding": "token_embedding", "embeddings.position_embedding": "positional_embedding"}
    names |= {"final_layer_norm": "ln_final", "encoder.layers": "transformer.resblocks", "self_attn": "attn"}
    names |= {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "fc1": "c_fc", "fc2": "c_proj"}
    renamed, fused = {}, {}
    for key, value in weights.items():
        for ours, theirs in names.items():
            key = key.replace(ours, theirs)
        if match := re.search(r"([qkv])_proj\.(weight|bias)$", key):
            fused.setdefault(key.replace(match[0], f"in_proj_{match[2]}"), {})[match[1]] = value
        else:
            renamed[key.replace("positional_embedding.weight", "positional_embedding")] = value
    renamed |= {key: torch.cat([parts[name] for name in "qkv"]) for key, parts in fused.items()}
    if extra_layer:
        layers = 1 + max(int(key.split(".")[2]) for key in renamed if key.startswith("transformer."))
        first = {key: value for key, value in renamed.items() if key.startswith("transformer.resblocks.0.")}
        renamed |= {key.replace("resblocks.0.", f"resblocks.{layers}."): value + 1 for key, value in first.items()}
    width = renamed["positional_embedding"].shape[1]
    renamed |= {"text_projection": torch.ones(width, width), "logit_scale": torch.tensor(4.6)}
    return {f"cond_stage_model.model.{key}": value for key, value in renamed.items()}


def schedule() -> dict:
    """The buffers of CompVis' ddpm.py, register_schedule."""
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    cumprod = np.cumprod(1 - betas)
    before = np.append(1.0, cumprod[:-1])
    variance = betas * (1 - before) / (1 - cumprod)
    buffers = {
        "betas": betas,
        "alphas_cumprod": cumprod,
        "alphas_cumprod_prev": before,
        "sqrt_alphas_cumprod": np.sqrt(cumprod),
        "sqrt_one_minus_alphas_cumprod": np.sqrt(1 - cumprod),
        "log_one_minus_alphas_cumprod": np.log(1 - cumprod),
        "sqrt_recip_alphas_cumprod": np.sqrt(1 / cumprod),
        "sqrt_recipm1_alphas_cumprod": np.sqrt(1 / cumprod - 1),
        "posterior_variance": variance,
        "posterior_log_variance_clipped": np.log(np.maximum(variance, 1e-20)),
        "posterior_mean_coef1": betas * np.sqrt(before) / (1 - cumprod),
        "posterior_mean_coef2": (1 - before) * np.sqrt(1 - betas) / (1 - cumprod),
    }
    return {key: torch.tensor(value, dtype=torch.float32) for key, value in buffers.items()}


def original(pipeline, version: str) -> dict:
    unet = pipeline.unet.config
    weights = original_unet(pipeline.unet.state_dict(), len(unet.block_out_channels), unet.layers_per_block)
    weights |= original_vae(pipeline.vae.state_dict(), len(pipeline.vae.config.block_out_channels))
    weights |= (original_clip if version == "1.x" else original_open_clip)(pipeline.text_encoder.state_dict())
    return {key: value.contiguous() for key, value in {**weights, **schedule()}.items()}


def architecture(pipeline) -> dict:
    """What the shapes of these small models do not tell."""
    unet, vae, text = pipeline.unet.config, pipeline.vae.config, pipeline.text_encoder.config
    heads = unet.attention_head_dim
    return {
        "unet": {"norm_num_groups": unet.norm_num_groups, "attention_head_dim": heads, "sample_size": unet.sample_size},
        "vae": {"norm_num_groups": vae.norm_num_groups, "scaling_factor": vae.scaling_factor},
        "text_encoder": {
            "num_attention_heads": text.num_attention_heads,
            "num_hidden_layers": text.num_hidden_layers,
        },
    }


class Single:
    """A pipeline as a single file."""

    def __init__(self, folder, version: str, changes: dict):
        self.version, self.source = version, save_pipeline(folder / "pipeline", version, **changes)
        self.pipeline = diffusers.StableDiffusionPipeline.from_pretrained(self.source)
        self.weights = original(self.pipeline, version)
        self.architecture = architecture(self.pipeline)
        self.path = folder / "model.safetensors"
        save_file(self.weights, self.path)

    def load(self, path=None, **options):
        prediction_type = None if self.version == "1.x" else "v_prediction"
        options = {"prediction_type": prediction_type, "architecture": self.architecture, **options}
        return codi_tf.load_stable_diffusion(path or self.path, **options)

    def load_changed(self, path, weights):
        """The base from a file with these weights."""
        save_file(weights, path)
        return self.load(path)


def assert_equal(ours, theirs):
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def is_read(key: str) -> bool:
    """Whether a tensor is one of the weights: no buffer, no part of the last layer of OpenCLIP."""
    unread = ("position_ids", "logit_scale", "text_projection")
    return key not in schedule() and not key.endswith(unread) and ".resblocks.2." not in key


FULL_SIZE = {
    "1.x": (
        {"cross_attention_dim": 768},
        {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "num_hidden_layers": 12},
    ),
    "2.x": (
        {"attention_head_dim": [5, 10, 20, 20], "cross_attention_dim": 1024, "use_linear_projection": True},
        {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16, "num_hidden_layers": 23},
    ),
}
