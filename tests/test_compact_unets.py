"""Compact and pruned UNets: without a middle block, with fewer layers, levels or transformers, of other widths."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from conftest import SCHEDULER, VAE
from test_parity import close, inputs, randomized, same_weights
from tiny import randomize

import codi_tf
from codi_tf.adapters import ADAPTERS
from codi_tf.adapters.adapted import AdaptedUNet
from codi_tf.adapters.controlnet import ControlNet
from codi_tf.checkpoints.base import Base, make_autoencoder, make_unet
from codi_tf.checkpoints.kinds import UNET
from codi_tf.checkpoints.networks import read_config, read_network, write_network
from codi_tf.core.errors import UserError
from codi_tf.diffusion.conditioning import Conditioning
from codi_tf.io.weights import CONFIG, state_dict
from codi_tf.methods.networks import denoiser, encode_condition
from export.build import make_package

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

ALL_ATTENTION = {"down_block_types": ("CrossAttnDownBlock2D",) * 3, "up_block_types": ("CrossAttnUpBlock2D",) * 3}
SHAPES = {  # those of public models in a tenth of their widths; of BK-SDM and segmind's, which have its shapes
    "BK-SDM-Base": {"layers_per_block": 1},
    "BK-SDM-Small, small-sd": {"layers_per_block": 1, "mid_block_type": None},
    "BK-SDM-Tiny, tiny-sd": {
        **ALL_ATTENTION,
        "layers_per_block": 1,
        "mid_block_type": None,
        "block_out_channels": (32, 64, 128),
    },
    "levels of different layers, a middle block without attention": {
        "layers_per_block": (1, 3, 2, 1),
        "mid_block_type": "UNetMidBlock2D",
    },
    "no attention at the finest level, other widths": {
        "block_out_channels": (32, 96, 64, 128),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "layers_per_block": (2, 1, 1, 2),
        "mid_block_type": None,
    },
}
SD1 = {"block_out_channels": (32, 64, 128, 128), "cross_attention_dim": 24, "attention_head_dim": 8}
COMPACT = {  # for whole models
    "block_out_channels": [8, 16],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
    "mid_block_type": None,
    "layers_per_block": [1, 2],
    "attention_head_dim": 2,
    "cross_attention_dim": 8,
    "norm_num_groups": 4,
}


def same_unet(module, config):
    unet = make_unet(config)
    same_weights(unet, module)
    return unet


def compact_base() -> Base:
    base = Base(make_unet(COMPACT), make_autoencoder({**VAE, "scaling_factor": 1.5}), dict(SCHEDULER))
    randomize((*base.unet.variables, *base.vae.variables))
    return base


@pytest.mark.parametrize("name", SHAPES)
def test_a_folder_of_diffusers_is_read_computes_the_same_and_is_written_back_bit_for_bit(name, tmp_path):
    """Catches a skip that goes to another block, a middle that is skipped or invented, and a config that is lost."""
    module = randomized(diffusers.UNet2DConditionModel(**{**SD1, **SHAPES[name]}))
    module.save_pretrained(tmp_path / "theirs")
    unet = read_network(UNET, tmp_path / "theirs", name="unet")
    ours, theirs = inputs(4, SD1["cross_attention_dim"])
    with torch.no_grad():
        close(unet(*ours), module(*theirs).sample)
    write_network(UNET, unet, tmp_path / "ours")
    again, _ = diffusers.UNet2DConditionModel.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert again.config.mid_block_type == module.config.mid_block_type
    weights = module.state_dict()
    assert again.state_dict().keys() == weights.keys()
    for key, value in again.state_dict().items():
        assert torch.equal(value, weights[key]), key


def test_the_maps_at_the_ends_of_levels_are_those_of_diffusers():
    """Catches an end that is taken after the level is made smaller, or one block too early."""
    module = randomized(diffusers.UNet2DConditionModel(**SD1))
    unet, ends = same_unet(module, SD1), {}
    for i, block in enumerate(module.down_blocks):
        last = (block.attentions if hasattr(block, "attentions") else block.resnets)[-1]
        last.register_forward_hook(lambda _, __, out, i=i: ends.update({i: out[0] if isinstance(out, tuple) else out}))
    for i, block in enumerate(module.up_blocks):
        block.register_forward_hook(lambda _, __, out, i=i: ends.update({4 + i: out}))
    ours, theirs = inputs(4, SD1["cross_attention_dim"])
    with torch.no_grad():
        output = module(*theirs).sample
    found, features = unet.with_features(*ours)
    close(found, output)
    assert len(features) == len(ends) == 8
    for i, feature in enumerate(features):
        close(feature, ends[i])


def test_the_public_config_of_a_compact_model_is_read(tmp_path):
    """Catches a key of BK-SDM-Tiny's unet/config.json that is refused."""
    public = {
        "_class_name": "UNet2DConditionModel",
        "_diffusers_version": "0.15.0",
        "block_out_channels": [320, 640, 1280],
        **ALL_ATTENTION,
        "cross_attention_dim": 768,
        "cross_attention_norm": None,
        "encoder_hid_dim": None,
        "layers_per_block": 1,
        "mid_block_only_cross_attention": None,
        "mid_block_type": None,
        "projection_class_embeddings_input_dim": None,
        "sample_size": 64,
        "timestep_post_act": None,
    }
    (tmp_path / CONFIG).write_text(json.dumps(public))
    read = read_config(UNET, tmp_path / CONFIG)
    assert read["mid_block_type"] is None and read["layers_per_block"] == 1


REFUSED = {
    "one entry too few": ({"layers_per_block": [1]}, "and layers_per_block 1: give one entry per level"),
    "an empty level": ({"layers_per_block": [1, 0]}, r"layers_per_block is \[1, 0\]: every level needs at least 1"),
    "an unknown middle": ({"mid_block_type": "Middle"}, "unknown middle block 'Middle': use one of UNetMidBlock2DCr"),
    "groups": ({"block_out_channels": [8, 18]}, "18 channels cannot be split into 4 groups"),
    "heads": ({"attention_head_dim": [2, 3]}, "16 channels cannot be split into 3 heads"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_shape_that_cannot_be_is_refused_in_one_line(name):
    changes, message = REFUSED[name]
    with pytest.raises(UserError, match=message) as caught:
        make_unet({**COMPACT, **changes})
    assert "\n" not in str(caught.value)


def test_a_controlnet_copies_the_blocks_that_are_there_and_is_that_of_diffusers_unet():
    """Catches a ControlNet with a middle block of its own; what it adds is given to diffusers' UNet."""
    config = {**SD1, **SHAPES["BK-SDM-Tiny, tiny-sd"]}
    module = randomized(diffusers.UNet2DConditionModel(**config))
    unet, weights = same_unet(module, config), module.state_dict()
    adapter = ControlNet.duplicate(unet)
    copied = {key: value for key, value in state_dict(adapter).items() if not key.startswith("controlnet_")}
    assert copied and not any(key.startswith("mid_block") for key in copied)
    for key, value in copied.items():
        np.testing.assert_array_equal(value, weights[key].numpy(), err_msg=key)
    randomize(adapter.variables)
    network = AdaptedUNet(unet, adapter)
    (z_t, t, context), theirs = inputs(4, config["cross_attention_dim"])
    image = np.random.default_rng(2).uniform(-1, 1, (2, 128, 192, 3)).astype("float32")
    features = network.condition(image, Conditioning(context))
    *down, middle = (torch.tensor(np.asarray(h).transpose(0, 3, 1, 2)) for h in adapter(z_t, t, context, *features))
    with torch.no_grad():
        added = module(*theirs, down_block_additional_residuals=tuple(down), mid_block_additional_residual=middle)
    close(network(z_t, t, features, Conditioning(context)), added.sample)


def test_a_controlnet_of_a_base_with_a_middle_block_is_refused():
    whole = {**COMPACT, "mid_block_type": "UNetMidBlock2DCrossAttn"}
    base = compact_base()
    adapter = ControlNet.for_base(dataclasses.replace(base, unet=make_unet(whole)), 3)
    with pytest.raises(UserError, match="mid_block_type is UNetMidBlock2DCrossAttn, the base's None: take one made"):
        adapter.check(base, 3)


@pytest.mark.parametrize("name", ADAPTERS)
def test_a_new_adapter_changes_nothing_and_then_acts(name):
    """Catches an adapter whose features are not those of the base's shape, or whose copy is not one."""
    base, random = compact_base(), np.random.default_rng(0)
    adapter = ADAPTERS[name].for_base(base, 3)
    adapter.check(base, 3)
    z_t = random.normal(size=(2, 4, 4, 4)).astype("float32")
    network = AdaptedUNet(base.unet, adapter)
    c = encode_condition(base, network, random.uniform(-1, 1, (2, 16, 16, 3)).astype("float32"))

    def output():
        return np.asarray(denoiser(base, network, c, base.conditioning())(z_t, [500]).v_hat)

    plain = np.asarray(base.unet(z_t, np.array([500]), base.context))
    np.testing.assert_array_equal(output(), plain)
    if name == "mu":
        theirs = state_dict(base.unet)
        assert all(np.array_equal(value, theirs[key]) for key, value in state_dict(adapter.encoder).items())
    randomize(adapter.variables)
    assert np.abs(output() - plain).max() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "format"),
    [("mu", "onnx"), ("mu", "tflite"), ("mu", "saved_model")]
    + [("controlnet", "tflite"), ("t2i", "onnx"), ("concat", "saved_model")],
)
def test_every_adapter_samples_and_is_exported(name, format, tmp_path):
    """Catches an adapter or a graph that takes the middle block for granted; the gate compares with Keras."""
    model = codi_tf.CoDi(compact_base(), adapter=name, image_size=16)
    condition = np.random.default_rng(0).uniform(size=(1, 16, 16, 3)).astype("float32")
    before = model.generate(condition, steps=2)
    randomize(model.student.adapter.variables)
    images = model.generate(condition, steps=2)
    assert (images != before).any()
    model.save(tmp_path / "bundle")
    np.testing.assert_array_equal(codi_tf.load(tmp_path / "bundle").generate(condition, steps=2), images)
    make_package(tmp_path / "bundle", tmp_path / "package", format=format, steps=2, sizes=[(16, 16)])
