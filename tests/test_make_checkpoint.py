"""The benchmarks' checkpoints: a tiny one is written and read, the true ones are compared by their shapes."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from compvis_files import FULL_SIZE, original_clip, original_open_clip, original_unet, original_vae

import codi_tf
from benchmarks import make_checkpoint
from codi_tf.checkpoints.base import make_network
from codi_tf.checkpoints.tokenizer import Tokenizer
from codi_tf.io.weights import shapes_of

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")

FLOAT16 = np.dtype("float16")
TINY = {"block_out_channels": [32, 32], "down_block_types": ["DownBlock2D"] * 2, "up_block_types": ["UpBlock2D"] * 2}


@pytest.fixture(scope="module", params=FULL_SIZE)
def true(request):
    """(family, part -> diffusers' and transformers' weights of the true size, of which nothing but shapes exists)."""
    unet, text = FULL_SIZE[request.param]
    levels = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    with torch.device("meta"):
        networks = {
            "unet": diffusers.UNet2DConditionModel(in_channels=9, **unet),
            "vae": diffusers.AutoencoderKL(block_out_channels=(128, 256, 512, 512), layers_per_block=2, **levels),
            "text_encoder": transformers.CLIPTextModel(transformers.CLIPTextConfig(**text)),
        }
    return request.param, {part: network.state_dict() for part, network in networks.items()}


def shapes(weights) -> dict:
    return {key: tuple(value.shape) for key, value in weights.items()}


def test_a_folder_has_the_true_shapes(true):
    family, theirs = true
    for part, (kind, config) in make_checkpoint.networks(family, 9).items():
        ours, _ = shapes_of(functools.partial(make_network, kind.network, config, part))
        assert ours == shapes(theirs[part])


def test_a_single_file_has_the_true_shapes(true):
    family, theirs = true
    with torch.device("meta"):
        expected = original_unet(theirs["unet"], 4, 2) | original_vae(theirs["vae"], 4)
        expected |= (original_clip if family == "1.x" else original_open_clip)(theirs["text_encoder"])
    unread = ("position_ids", "text_projection", "logit_scale")
    expected = {key: value for key, value in expected.items() if not key.endswith(unread)}
    tensors = make_checkpoint.single_file(family, 9, FLOAT16)
    assert shapes(tensors) == shapes(expected)
    if family == "2.x":
        fused = tensors["cond_stage_model.model.transformer.resblocks.23.attn.in_proj_weight"]
        assert fused.values().shape == fused.shape == (3072, 1024)


def test_a_folder_is_written_and_read(tmp_path, monkeypatch):
    text = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 1}
    about = {"unet": {**TINY, "cross_attention_dim": 64}, "vae": {"block_out_channels": [32, 32]}, "text_encoder": text}
    monkeypatch.setitem(make_checkpoint.FAMILIES, "tiny", {**about, "prediction_type": "v_prediction"})
    make_checkpoint.write_folder(tmp_path, "tiny", 4, FLOAT16)
    base = codi_tf.load_stable_diffusion(tmp_path)
    assert base.prediction_type == "v_prediction" and base.unet.sample_size == 96
    kernel = base.unet.mid_block.resnets[0].conv1.kernel.numpy()
    assert abs(kernel.std() * (9 * 32) ** 0.5 - 1) < 0.05 and np.isfinite(base.context).all()
    theirs = diffusers.StableDiffusionPipeline.from_pretrained(tmp_path)
    assert theirs.unet.config.sample_size == 96


def test_the_tokenizer_has_the_true_size(tmp_path):
    make_checkpoint.write_tokenizer(tmp_path / "tokenizer", "!")
    ours, theirs = (
        Tokenizer.load(tmp_path / "tokenizer"),
        transformers.CLIPTokenizer.from_pretrained(tmp_path / "tokenizer"),
    )
    assert len(theirs) == make_checkpoint.VOCABULARY
    prompts = ["a photo of a cat", "naïve!"]
    expected = theirs(prompts, padding="max_length", max_length=77, return_tensors="np").input_ids
    np.testing.assert_array_equal(ours(prompts), expected)
