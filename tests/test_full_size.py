"""The true shapes of Stable Diffusion, built without memory: names, shapes and parameter counts against diffusers'."""

from __future__ import annotations

import math

import keras
import pytest

from codi_tf.adapters.controlnet import ControlNet
from codi_tf.adapters.mu import MuAdapter
from codi_tf.io.layouts import key_of
from codi_tf.models.autoencoder import AutoencoderKL
from codi_tf.models.unet import UNet

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

SD1 = {"cross_attention_dim": 768}
SD2 = {"cross_attention_dim": 1024, "attention_head_dim": (5, 10, 20, 20), "use_linear_projection": True}
VAE = {"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2}
KINDS = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
CASES = {
    "UNet 1.x": (UNet, diffusers.UNet2DConditionModel, SD1, {}, 859_520_964),
    "UNet 2.x": (UNet, diffusers.UNet2DConditionModel, SD2, {}, 865_910_724),
    "UNet 1.x, inpainting": (UNet, diffusers.UNet2DConditionModel, {**SD1, "in_channels": 9}, {}, 859_535_364),
    "UNet 1.x, InstructPix2Pix": (UNet, diffusers.UNet2DConditionModel, {**SD1, "in_channels": 8}, {}, 859_532_484),
    "ControlNet 1.x": (ControlNet, diffusers.ControlNetModel, SD1, {}, 361_279_120),
    "ControlNet 2.x": (ControlNet, diffusers.ControlNetModel, SD2, {}, 364_228_240),
    "autoencoder": (AutoencoderKL, diffusers.AutoencoderKL, VAE, KINDS, 83_653_863),
}


def shapes(network) -> dict[str, tuple[int, ...]]:
    """The shapes of a network's weights in PyTorch's layout, by their keys."""
    turned = {4: (3, 2, 0, 1), 2: (1, 0)}
    result = {}
    for variable in network.variables:
        shape = tuple(variable.shape)
        if variable.name == "kernel":
            shape = tuple(shape[axis] for axis in turned[len(shape)])
        result[key_of(variable, network)] = shape
    return result


def weightless(make):
    """A built network whose variables have no values."""
    with keras.StatelessScope(initialize_variables=False):
        network = make()
        network.build()
    keras.utils.clear_session()  # forgets the weights that wait for their values: the next scope would draw them
    return network


@pytest.mark.parametrize("name", CASES)
def test_every_weight_has_diffusers_name_and_shape(name):
    kind, peer, config, extra, count = CASES[name]
    ours = shapes(weightless(lambda: kind(name="network", **config)))
    with torch.device("meta"):
        module = peer(**config, **extra)
    assert ours == {key: tuple(value.shape) for key, value in module.state_dict().items()}
    assert sum(map(math.prod, ours.values())) == count


@pytest.mark.parametrize(("config", "count"), [(SD1, 348_712_973), (SD2, 351_662_093)])
def test_the_paper_adapter_is_a_controlnets_encoder_and_one_mu_a_feature(config, count):
    unet = weightless(lambda: UNet(**config))
    adapter = weightless(lambda: MuAdapter(unet.encoder_config(), name="adapter"))
    with torch.device("meta"):
        peer = diffusers.ControlNetModel(**config).state_dict()
    encoder = sum(value.numel() for key, value in peer.items() if not key.startswith("controlnet_"))
    assert adapter.mu.shape == (13,)
    assert sum(math.prod(v.shape) for v in adapter.variables) == encoder + 13 == count
