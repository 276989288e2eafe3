"""The UNet: diffusers' keys, Stable Diffusion's size, encode / middle / decode, and what Keras asks of a model."""

from __future__ import annotations

import math

import keras
import numpy as np
import pytest
from battery import NetworkBattery
from conftest import UNET, make_base

from codi_tf.checkpoints.base import make_unet
from codi_tf.core.errors import UserError
from codi_tf.io.layouts import key_of
from codi_tf.models.unet import UNet, UNetEncoder

CONTEXT = np.random.default_rng(9).normal(size=(2, 77, 8)).astype("float32")
Z_T = np.random.default_rng(0).normal(size=(2, 4, 8, 4)).astype("float32")
T = np.array([3, 700], "int32")

RESNET = ("norm1.weight", "norm1.bias", "conv1.weight", "conv1.bias", "time_emb_proj.weight", "time_emb_proj.bias")
RESNET += ("norm2.weight", "norm2.bias", "conv2.weight", "conv2.bias")
SHORTCUT = ("conv_shortcut.weight", "conv_shortcut.bias")
BLOCK = [f"norm{i}.{p}" for i in (1, 2, 3) for p in ("weight", "bias")]
BLOCK += [f"attn{i}.{p}" for i in (1, 2) for p in ("to_q.weight", "to_k.weight", "to_v.weight")]
BLOCK += [f"attn{i}.to_out.0.{p}" for i in (1, 2) for p in ("weight", "bias")]
BLOCK += [f"ff.net.{layer}.{p}" for layer in ("0.proj", "2") for p in ("weight", "bias")]
TRANSFORMER = [f"{layer}.{p}" for layer in ("norm", "proj_in", "proj_out") for p in ("weight", "bias")]
TRANSFORMER += [f"transformer_blocks.0.{key}" for key in BLOCK]


def below(path, keys):
    return {f"{path}.{key}" for key in keys}


@pytest.fixture(scope="module")
def unet():
    """All of its layers awake."""
    return make_base().unet


def test_its_keys_are_those_of_diffusers(unet):
    """The state_dict of diffusers' UNet2DConditionModel with conftest's config, written out from its modules' names."""
    pair = ("weight", "bias")
    expected = below("conv_in", pair) | below("conv_norm_out", pair) | below("conv_out", pair)
    expected |= below("time_embedding.linear_1", pair) | below("time_embedding.linear_2", pair)
    expected |= below("down_blocks.0.resnets.0", RESNET) | below("down_blocks.0.downsamplers.0.conv", pair)
    expected |= below("down_blocks.1.resnets.0", RESNET + SHORTCUT) | below("down_blocks.1.attentions.0", TRANSFORMER)
    for i in (0, 1):
        expected |= below(f"mid_block.resnets.{i}", RESNET)
        for block in (0, 1):
            expected |= below(f"up_blocks.{block}.resnets.{i}", RESNET + SHORTCUT)
        expected |= below(f"up_blocks.0.attentions.{i}", TRANSFORMER)
    expected |= below("mid_block.attentions.0", TRANSFORMER) | below("up_blocks.0.upsamplers.0.conv", pair)
    keys = [key_of(v, unet) for v in unet.variables]
    assert len(keys) == len(set(keys))
    assert set(keys) == expected
    assert "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_out.0.weight" in expected


def test_stable_diffusion_has_its_size():
    """The defaults are Stable Diffusion 1.x: 859,520,964 weights in 686 tensors. Nothing is allocated."""
    with keras.StatelessScope(initialize_variables=False):
        unet = UNet(name="unet")
        unet.build()
        shapes = {key_of(v, unet): tuple(v.shape) for v in unet.variables}
        encoder = UNetEncoder(name="encoder")
        encoder.build()
        encoder_size = sum(math.prod(v.shape) for v in encoder.variables)
    keras.utils.clear_session()  # forgets the weights that wait for their values
    assert len(shapes) == 686
    assert sum(math.prod(shape) for shape in shapes.values()) == 859_520_964
    decoder = ("up_blocks", "conv_norm_out", "conv_out")
    assert encoder_size == sum(math.prod(s) for key, s in shapes.items() if not key.startswith(decoder))
    assert shapes["down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.weight"] == (768, 640)
    assert shapes["up_blocks.1.resnets.2.conv1.weight"] == (3, 3, 1920, 1280)
    assert encoder.feature_count == 13


def test_the_parts_make_the_whole(unet):
    temb = unet.time_embedding(T)
    skips = unet.encode(Z_T, temb, CONTEXT)
    assert [tuple(s.shape) for s in skips] == [(2, 4, 8, 8), (2, 4, 8, 8), (2, 2, 4, 8), (2, 2, 4, 16)]
    middle = unet.middle(skips[-1], temb, CONTEXT)
    assert unet.feature_count == len([*skips, middle]) == 5
    out = unet.decode(middle, skips, temb, CONTEXT)
    assert len(skips) == 4  # not eaten
    np.testing.assert_array_equal(out, unet(Z_T, T, CONTEXT))
    assert out.shape == Z_T.shape and out.dtype == "float32"


def test_it_starts_with_an_output_of_0():
    np.testing.assert_array_equal(make_unet(UNET)(Z_T, T, CONTEXT), np.zeros_like(Z_T))


def test_time_context_and_example_act(unet):
    out = unet(Z_T, T, CONTEXT).numpy()
    assert np.abs(unet(Z_T, T + 100, CONTEXT).numpy() - out).max() > 1e-3
    assert np.abs(unet(Z_T, T, 2 * CONTEXT).numpy() - out).max() > 1e-4
    alone = unet(Z_T[1:], T[1:], CONTEXT[1:]).numpy()
    np.testing.assert_allclose(alone, out[1:], rtol=0, atol=1e-5)


def test_one_time_and_one_context_serve_the_whole_batch(unet):
    out = unet(Z_T, np.array([7]), CONTEXT[:1])
    expected = unet(Z_T, np.array([7, 7]), CONTEXT[:1].repeat(2, axis=0))
    np.testing.assert_allclose(out, expected, rtol=0, atol=1e-5)


def test_the_encoder_is_the_first_part_of_the_unet(unet):
    encoder = UNetEncoder(name="encoder", **unet.encoder_config())
    encoder.build()
    values = {key_of(v, unet): v for v in unet.variables}
    for variable in encoder.variables:
        variable.assign(values[key_of(variable, encoder)])
    temb = unet.time_embedding(T)
    skips = unet.encode(Z_T, temb, CONTEXT)
    expected = [*skips, unet.middle(skips[-1], temb, CONTEXT)]
    for a, b in zip(encoder(Z_T, T, CONTEXT), expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_heads_may_differ_between_levels():
    unet = make_unet({**UNET, "attention_head_dim": [2, 4], "use_linear_projection": True})
    assert unet.down_blocks[1].attentions[0].heads == unet.mid_block.attentions[0].heads == 4
    assert unet.up_blocks[0].attentions[0].heads == 4
    shapes = {key_of(v, unet): v.shape for v in unet.variables}
    assert shapes["mid_block.attentions.0.proj_in.weight"] == (16, 16)


class TestUNet(NetworkBattery):
    inputs = (Z_T, T, CONTEXT)

    @pytest.fixture
    def network(self, unet):
        return unet


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"down_block_types": ["DownBlock2D"]}, "2 levels, but down_block_types 1"),
        ({"up_block_types": ["UpBlock2D"]}, "up_block_types has 1 entries, but there are 2 levels"),
        ({"attention_head_dim": [2]}, "attention_head_dim 1"),
        ({"down_block_types": ["DownBlock2D", "AttnDownBlock2D"]}, "unknown down block 'AttnDownBlock2D': use one of"),
        ({"up_block_types": ["UpBlock2D", "DownBlock2D"]}, "unknown up block 'DownBlock2D': use one of"),
        ({"norm_num_groups": 5}, "cannot be split into 5 groups"),
        ({"attention_head_dim": 3}, "cannot be split into 3 heads"),
        ({"norm_num_groups": 0}, "into 0 groups"),
        ({"layers": 2}, "layers"),
    ],
)
def test_bad_configs_are_refused_in_one_line(changes, message):
    with pytest.raises(UserError) as caught:
        make_unet({**UNET, **changes})
    assert message in str(caught.value) and "\n" not in str(caught.value)
