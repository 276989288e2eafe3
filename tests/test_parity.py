"""UNet, autoencoder and ControlNet against diffusers', with the same random weights, in every published variant."""

from __future__ import annotations

import numpy as np
import pytest

from codi_tf.adapters.adapted import AdaptedUNet
from codi_tf.adapters.controlnet import ControlNet
from codi_tf.diffusion.conditioning import Conditioning
from codi_tf.io.weights import state_dict
from codi_tf.models.autoencoder import AutoencoderKL
from codi_tf.models.unet import UNet

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
torch.set_num_threads(1)

TOLERANCE = 2e-5  # of the output's scale, for one network

SD1 = {
    "block_out_channels": (32, 64, 64, 64),
    "layers_per_block": 2,
    "attention_head_dim": 8,
    "cross_attention_dim": 24,
}
SD2 = {
    "block_out_channels": (32, 64, 64),
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    "layers_per_block": 1,
    "attention_head_dim": (2, 4, 4),
    "cross_attention_dim": 40,
    "use_linear_projection": True,
}
VARIANTS = {
    "SD 1.x": SD1,
    "SD 1.x, inpainting": {**SD1, "in_channels": 9},
    "InstructPix2Pix": {**SD1, "in_channels": 8},
    "SD 2.x": SD2,
    "SD 2.1, attention in float32": {**SD2, "upcast_attention": True},
    "SD 2.x, inpainting": {**SD2, "in_channels": 9},
    "32 groups of one channel, one level": {
        "block_out_channels": (32,),
        "down_block_types": ("CrossAttnDownBlock2D",),
        "up_block_types": ("CrossAttnUpBlock2D",),
        "cross_attention_dim": 8,
    },
}


def randomized(module, seed: int = 0):
    """A PyTorch module none of whose weights is 0 or 1."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * (0.3 if parameter.ndim == 1 else 0.02))
    return module.eval()


def same_weights(network, module):
    """Give a Keras network the weights of a PyTorch module: each exactly once, none left over."""
    state = {key: value.detach().numpy() for key, value in module.state_dict().items()}
    ours = state_dict(network)
    assert ours.keys() == state.keys()
    order = iter(ours)  # state_dict goes through the variables in their order
    for variable in network.variables:
        value = state[next(order)]
        if variable.name == "kernel":
            value = value.transpose({4: (2, 3, 1, 0), 2: (1, 0)}[value.ndim])
        variable.assign(value)


def close(ours, theirs, tolerance=TOLERANCE):
    """Whether an output [B, h, w, C] is a PyTorch output [B, C, h, w]."""
    theirs = theirs.detach().numpy().transpose(0, 2, 3, 1)
    scale = np.abs(theirs).max()
    assert scale > 0.1
    np.testing.assert_allclose(np.asarray(ours) / scale, theirs / scale, rtol=0, atol=tolerance)


def inputs(channels: int, width: int, *, height=16, columns=24, batch=2):
    """z_t, t and prompt for both sides; rectangular latents."""
    random = np.random.default_rng(0)
    z_t = random.normal(size=(batch, height, columns, channels)).astype("float32")
    context = random.normal(size=(batch, 77, width)).astype("float32")
    t = np.array([3, 801][:batch], "int32")
    theirs = torch.tensor(z_t.transpose(0, 3, 1, 2)), torch.tensor(t), torch.tensor(context)
    return (z_t, t, context), theirs


def test_the_guidance_is_an_input_as_of_latent_consistency_models():
    settings = {**SD1, "time_cond_proj_dim": 32}
    module = randomized(diffusers.UNet2DConditionModel(**settings))
    unet = UNet(name="unet", **settings)
    unet.build()
    same_weights(unet, module)
    (z_t, t, context), theirs = inputs(4, SD1["cross_attention_dim"])
    guidance = np.array([1.0, 7.5], "float32")
    embed = diffusers.LatentConsistencyModelPipeline.get_guidance_scale_embedding
    features = embed(None, torch.tensor(guidance - 1.0), embedding_dim=32)
    with torch.no_grad():
        close(unet(z_t, t, context, guidance), module(*theirs, timestep_cond=features).sample)
        plain = module(*theirs).sample.numpy().transpose(0, 2, 3, 1)
    assert np.abs(unet(z_t, t, context, guidance) - plain)[1].max() > 1e-2 * np.abs(plain).max()


@pytest.mark.parametrize("name", VARIANTS)
def test_the_unet_is_diffusers_unet(name):
    config = VARIANTS[name]
    module = randomized(diffusers.UNet2DConditionModel(**config))
    unet = UNet(name="unet", **config)
    unet.build()
    same_weights(unet, module)
    ours, theirs = inputs(config.get("in_channels", 4), config["cross_attention_dim"])
    with torch.no_grad():
        close(unet(*ours), module(*theirs).sample)


@pytest.mark.parametrize("attention", [True, False])
@pytest.mark.parametrize("layers", [1, 2])
def test_the_autoencoder_is_diffusers_autoencoder(attention, layers):
    config = {
        "block_out_channels": (32, 32, 64),
        "layers_per_block": layers,
        "norm_num_groups": 16,
        "mid_block_add_attention": attention,
    }
    kinds = {"down_block_types": ("DownEncoderBlock2D",) * 3, "up_block_types": ("UpDecoderBlock2D",) * 3}
    module = randomized(diffusers.AutoencoderKL(**config, **kinds))
    vae = AutoencoderKL(name="vae", **config)
    vae.build()
    same_weights(vae, module)
    image = np.random.default_rng(1).uniform(-1, 1, (2, 32, 48, 3)).astype("float32")
    with torch.no_grad():
        posterior = module.encode(torch.tensor(image.transpose(0, 3, 1, 2))).latent_dist
        decoded = module.decode(posterior.mean).sample
    ours = vae.encode(image)
    close(ours.mean, posterior.mean)
    close(ours.logvar, posterior.logvar)
    close(vae.decode(ours.mean), decoded)


@pytest.mark.parametrize(("name", "scale"), [("SD 1.x", None), ("SD 2.x", None), ("SD 1.x", 0.4)])
def test_the_controlnet_is_diffusers_controlnet(name, scale):
    """With a scale, catches a residual that does not count as often as by `controlnet_conditioning_scale`."""
    config = VARIANTS[name]
    module = randomized(diffusers.UNet2DConditionModel(**config))
    control = randomized(diffusers.ControlNetModel.from_unet(module), seed=1)
    unet = UNet(name="unet", **config)
    unet.build()
    same_weights(unet, module)
    adapter = ControlNet.duplicate(unet)
    same_weights(adapter, control)
    network = AdaptedUNet(unet, adapter)
    (z_t, t, context), theirs = inputs(4, config["cross_attention_dim"])
    image = np.random.default_rng(2).uniform(-1, 1, (2, 128, 192, 3)).astype("float32")
    with torch.no_grad():
        shown = torch.tensor((image.transpose(0, 3, 1, 2) + 1) / 2)
        options = {"conditioning_scale": 1.0 if scale is None else scale, "return_dict": False}
        down, middle = control(*theirs, controlnet_cond=shown, **options)
        expected = module(*theirs, down_block_additional_residuals=down, mid_block_additional_residual=middle).sample
    features = network.condition(image, Conditioning(context))
    close(network(z_t, t, features, Conditioning(context), condition_scale=scale), expected)
    if scale is not None:
        return
    extra = adapter(z_t, t, context, *features)
    for ours, residual in zip(extra, (*down, middle), strict=True):
        close(ours, residual)


def test_a_new_controlnet_leaves_the_unet_as_it_is_and_starts_as_diffusers_does():
    module = randomized(diffusers.UNet2DConditionModel(**SD1))
    unet = UNet(name="unet", **SD1)
    unet.build()
    same_weights(unet, module)
    adapter = ControlNet.duplicate(unet)
    peer = diffusers.ControlNetModel.from_unet(module)
    for key, value in state_dict(adapter).items():
        if not key.startswith("controlnet_cond_embedding") or key.startswith("controlnet_cond_embedding.conv_out"):
            np.testing.assert_array_equal(value, peer.state_dict()[key].numpy(), err_msg=key)
    (z_t, t, context), _ = inputs(4, 24)
    image = np.random.default_rng(2).uniform(-1, 1, (2, 128, 192, 3)).astype("float32")
    network = AdaptedUNet(unet, adapter)
    adapted = network(z_t, t, network.condition(image, Conditioning(context)), Conditioning(context))
    np.testing.assert_array_equal(adapted, unet(z_t, t, context))


def test_keras_cvs_numerics_are_another_network():
    config = {**SD1, "numerics": "keras_cv"}
    unet, other = UNet(name="unet", **SD1), UNet(name="unet", **config)
    module = randomized(diffusers.UNet2DConditionModel(**SD1))
    for network in (unet, other):
        network.build()
        same_weights(network, module)
    ours, _ = inputs(4, 24)
    difference = np.abs(np.asarray(unet(*ours)) - np.asarray(other(*ours))).max()
    assert 1e-5 < difference < 0.2
    assert UNet.from_config(other.get_config()).numerics == "keras_cv"
    assert "numerics" not in unet.get_config()
