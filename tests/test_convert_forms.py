"""Every form in which a diffusers folder may come gives the same weights."""

from __future__ import annotations

import shutil

import convert_cases
import pytest
from convert_cases import PARTS, assert_same_bits, load_file, save_file, torch

import codi_tf
from codi_tf.checkpoints.kinds import UNET
from codi_tf.io.json_files import read_json, write_json

pipeline, folder = convert_cases.pipeline, convert_cases.folder


def sharded(pipeline, folder):
    for part, limit in (("unet", "60KB"), ("vae", "20KB"), ("text_encoder", "30KB")):
        shutil.rmtree(folder / part)
        getattr(pipeline, part).save_pretrained(folder / part, max_shard_size=limit)
        assert len(list((folder / part).glob("*.safetensors"))) > 2


def called_fp16(pipeline, folder):
    for part, stem in PARTS.items():
        (folder / part / f"{stem}.safetensors").rename(folder / part / f"{stem}.fp16.safetensors")


def sharded_and_called_fp16(pipeline, folder):
    for part, limit in (("unet", "60KB"), ("text_encoder", "30KB")):
        shutil.rmtree(folder / part)
        getattr(pipeline, part).save_pretrained(folder / part, max_shard_size=limit, variant="fp16")
        assert not (folder / part / f"{PARTS[part]}.safetensors.index.json").exists()


def both_precisions(pipeline, folder):
    for part, stem in PARTS.items():
        (folder / part / f"{stem}.fp16.safetensors").write_bytes(b"another one, which is not read")


def old_attention(pipeline, folder, ones=()):
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    weights = load_file(folder / "vae/diffusion_pytorch_model.safetensors")
    for key in list(weights):
        for ours, theirs in names.items():
            if f".attentions.0.{ours}." in key:
                value = weights.pop(key)
                value = value.reshape(*value.shape, *ones) if key.endswith("weight") else value
                weights[key.replace(ours, theirs)] = value
    save_file(weights, folder / "vae/diffusion_pytorch_model.safetensors")
    assert sum(".query." in key or ".proj_attn." in key for key in weights) == 8


def old_attention_as_convolutions(pipeline, folder):
    old_attention(pipeline, folder, (1, 1))


def old_attention_as_convolutions_1d(pipeline, folder):
    old_attention(pipeline, folder, (1,))


def old_text_encoder(pipeline, folder):
    path = folder / "text_encoder/model.safetensors"
    weights = {f"text_model.{key}": value for key, value in load_file(path).items()}
    weights["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    save_file(weights, path)


def old_configs(pipeline, folder):
    """What the first files lack, and what transformers wrote into its own."""
    config = read_json(folder / "unet/config.json")
    for key in UNET.fixed:
        config.pop(key, None)
    write_json(folder / "unet/config.json", {**config, "dropout": 0.0, "only_cross_attention": [False, False]})
    config = read_json(folder / "text_encoder/config.json")
    write_json(folder / "text_encoder/config.json", {**config, "torch_dtype": "float32", "dropout": 0.0})


FORMS = (
    sharded,
    called_fp16,
    sharded_and_called_fp16,
    both_precisions,
    old_attention,
    old_attention_as_convolutions,
    old_attention_as_convolutions_1d,
    old_text_encoder,
    old_configs,
)


@pytest.mark.parametrize("change", FORMS, ids=[form.__name__ for form in FORMS])
def test_every_form_of_a_folder_is_read(pipeline, folder, change):
    change(pipeline, folder)
    assert_same_bits(codi_tf.load_stable_diffusion(folder), pipeline)
