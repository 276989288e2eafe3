"""The autoencoder: diffusers' keys, Stable Diffusion's size, units of the latents, and what Keras asks of a model."""

from __future__ import annotations

import json
import math

import keras
import numpy as np
import pytest
import scipy.fft
import tensorflow as tf
from battery import NetworkBattery
from conftest import VAE
from tiny import randomize

from codi_tf.checkpoints.base import Base, make_autoencoder, measure_scale
from codi_tf.checkpoints.folder import save_base
from codi_tf.checkpoints.stable_diffusion import load_stable_diffusion
from codi_tf.core.errors import UserError
from codi_tf.io.layouts import key_of
from codi_tf.methods.autoencoder import Autoencoder
from codi_tf.models.autoencoder import AutoencoderKL
from codi_tf.models.cosine import cosine_transform
from codi_tf.models.latent_channels import balance_channels

CONFIG = {**VAE, "mid_block_add_attention": True}
IMAGES = np.random.default_rng(0).uniform(-1, 1, (2, 16, 8, 3)).astype("float32")


@pytest.fixture(scope="module")
def vae():
    """All of its layers awake."""
    keras.utils.set_random_seed(0)  # the distance to half precision depends on the weights
    vae = make_autoencoder(CONFIG)
    randomize(vae.variables)
    return vae


def pairs(*names):
    return {f"{name}.{part}" for name in names for part in ("weight", "bias")}


def resnet(path, *, shortcut=False):
    parts = ("norm1", "conv1", "norm2", "conv2", *(("conv_shortcut",) if shortcut else ()))
    return pairs(*(f"{path}.{part}" for part in parts))


def test_its_keys_are_those_of_diffusers(vae):
    """The state_dict of diffusers' AutoencoderKL with the same config, written out from its modules' names."""
    expected = pairs("quant_conv", "post_quant_conv")
    for coder in ("encoder", "decoder"):
        expected |= pairs(*(f"{coder}.{name}" for name in ("conv_in", "conv_norm_out", "conv_out")))
        expected |= resnet(f"{coder}.mid_block.resnets.0") | resnet(f"{coder}.mid_block.resnets.1")
        attention = f"{coder}.mid_block.attentions.0"
        expected |= pairs(*(f"{attention}.{n}" for n in ("group_norm", "to_q", "to_k", "to_v", "to_out.0")))
    for level, shortcut in ((0, False), (1, False), (2, True)):  # 8, 8, 16 channels
        expected |= resnet(f"encoder.down_blocks.{level}.resnets.0", shortcut=shortcut)
    for level, shortcut in ((0, False), (1, True), (2, False)):  # 16, 8, 8 channels
        expected |= resnet(f"decoder.up_blocks.{level}.resnets.0", shortcut=shortcut)
        expected |= resnet(f"decoder.up_blocks.{level}.resnets.1")
    for level in (0, 1):
        expected |= pairs(f"encoder.down_blocks.{level}.downsamplers.0.conv")
        expected |= pairs(f"decoder.up_blocks.{level}.upsamplers.0.conv")
    keys = [key_of(v, vae) for v in vae.variables]
    assert len(keys) == len(set(keys)) and set(keys) == expected
    assert "decoder.mid_block.attentions.0.to_q.weight" in expected


def test_stable_diffusion_has_its_size():
    """The defaults are Stable Diffusion's: 83,653,863 weights in 248 tensors. Nothing is allocated."""
    with keras.StatelessScope(initialize_variables=False):
        vae = AutoencoderKL(name="vae")
        vae.build()
        sizes = [math.prod(v.shape) for v in vae.variables]
    keras.utils.clear_session()  # forgets the weights that wait for their values
    assert (len(sizes), sum(sizes)) == (248, 83_653_863)
    assert vae.factor == 8 and vae.scaling_factor == 0.18215


def test_shapes(vae):
    posterior = vae.encode(IMAGES)
    assert posterior.mean.shape == posterior.logvar.shape == (2, 4, 2, 4)
    assert vae.factor == 4
    assert vae.decode(posterior.mean).shape == IMAGES.shape


def test_mean_comes_before_the_logarithm_of_the_variance(vae):
    moments = np.asarray(vae.quant_conv(vae.encoder(IMAGES)))
    posterior = vae.encode(IMAGES)
    np.testing.assert_array_equal(posterior.mean, moments[..., :4])
    np.testing.assert_array_equal(posterior.logvar, np.clip(moments[..., 4:], -30, 20))


def test_the_variance_is_kept_in_range(vae):
    bias = vae.quant_conv.bias.numpy()
    for offset, limit in ((1e6, 20), (-1e6, -30)):
        vae.quant_conv.bias.assign(bias + np.float32(offset))
        posterior = vae.encode(IMAGES)
        vae.quant_conv.bias.assign(bias)
        np.testing.assert_array_equal(posterior.logvar, np.full((2, 4, 2, 4), limit))
        assert np.abs(posterior.mean).max() > 1e5  # the mean is not clipped


def test_a_call_is_a_reconstruction_from_the_mean(vae):
    np.testing.assert_array_equal(vae(IMAGES), vae.decode(vae.encode(IMAGES).mean))


def test_the_networks_know_no_scale_and_the_base_applies_it(vae):
    base = Base(None, vae, {"beta_schedule": "linear"})
    mean = np.asarray(vae.encode(IMAGES).mean)
    reconstruction = np.asarray(vae.decode(mean))
    vae.scaling_factor = 3.0
    np.testing.assert_array_equal(vae.encode(IMAGES).mean, mean)
    np.testing.assert_allclose(base.encode(IMAGES), 3 * mean, rtol=1e-6)
    np.testing.assert_allclose(base.decode(base.encode(IMAGES)), reconstruction, rtol=0, atol=1e-4)


def test_patches_are_pixels_side_by_side():
    """Catches patches of another order, or of another one on the way back."""
    patched = make_autoencoder({**CONFIG, "patch_size": 2})
    randomize(patched.variables)
    assert patched.factor == 8
    b, h, w, _ = IMAGES.shape
    blocks = IMAGES.reshape(b, h // 2, 2, w // 2, 2, 3).transpose(0, 1, 3, 2, 4, 5).reshape(b, h // 2, w // 2, 12)
    posterior = patched.encode(IMAGES)
    moments = np.asarray(patched.quant_conv(patched.encoder(blocks)))
    np.testing.assert_allclose(posterior.mean, moments[..., :4], rtol=0, atol=1e-5)
    made = np.asarray(patched.decoder(patched.post_quant_conv(posterior.mean)))
    back = made.reshape(b, h // 2, w // 2, 2, 2, 3).transpose(0, 1, 3, 2, 4, 5).reshape(IMAGES.shape)
    np.testing.assert_allclose(patched.decode(posterior.mean), back, rtol=0, atol=1e-5)


def test_patches_survive_the_disk(tmp_path):
    """Catches a folder that forgets the size of patches, and a needless key that diffusers does not know."""
    for size in (1, 2):
        vae = make_autoencoder({**CONFIG, "patch_size": size})
        save_base(Base(None, vae, {"beta_schedule": "linear"}), tmp_path / str(size))
        assert ("patch_size" in json.loads((tmp_path / str(size) / "vae" / "config.json").read_text())) == (size == 2)
        read = load_stable_diffusion(tmp_path / str(size)).vae
        np.testing.assert_array_equal(read(IMAGES), vae(IMAGES))


@pytest.mark.parametrize(("side", "count"), [(2, 5), (8, 16)])
def test_the_cosine_transform_is_scipy_s(side, count):
    """Catches cosines that are not orthogonal, or blocks in another order: brightness is taken apart as SciPy does."""
    analysis, synthesis = cosine_transform(side, count)
    np.testing.assert_allclose(synthesis @ analysis, np.eye(count), atol=1e-5)
    gray = np.random.default_rng(0).random((side, side)).astype("float32")
    found = gray[:, :, None].repeat(3, axis=-1).reshape(-1) @ analysis
    expected = scipy.fft.dctn(gray, norm="ortho") * np.sqrt(3) / side
    order = 1 / (1 + np.arange(side)[:, None] ** 2 + np.arange(side) ** 2) ** 0.25
    lit = np.abs(analysis.reshape(side * side, 3, count).sum(1)).max(0) > 1e-5  # the others are differences of colors
    chosen = np.argsort(-order.ravel(), kind="stable")[: lit.sum()]
    np.testing.assert_allclose(found[lit], (expected / order).ravel()[chosen], atol=1e-4)
    np.testing.assert_allclose(found[~lit], 0, atol=1e-5)


def test_with_a_linear_shortcut_it_starts_as_the_cosine_transform():
    """Catches a shortcut that is not used, a network that disturbs the start, and blocks of another size."""
    vae = make_autoencoder({**CONFIG, "patch_size": 2, "linear_shortcut": True})
    flat = np.full((1, 16, 16, 3), 0.7, np.float32)
    np.testing.assert_allclose(vae(flat), flat, atol=1e-4)
    ramp = np.broadcast_to(np.linspace(-0.5, 0.5, 16, dtype=np.float32)[:, None, None], (1, 16, 16, 3))
    assert 0 < np.abs(np.asarray(vae(ramp)) - ramp).mean() < 0.05 < np.abs(ramp - ramp.mean()).mean()
    randomize(vae.variables)
    assert np.abs(np.asarray(vae(ramp)) - ramp).mean() > 0.05  # the networks add to it


def test_training_goes_on_with_the_autoencoder_of_a_base(tmp_path):
    """Catches a continued training that starts anew."""
    vae = make_autoencoder(VAE)
    randomize(vae.variables)
    save_base(Base(None, vae, {"beta_schedule": "linear"}), tmp_path / "base")
    method = Autoencoder()
    assert method.needs_base and not Autoencoder(network=VAE).needs_base
    _, student = method.load(str(tmp_path / "base"))
    average = method.build(None, student).start_average()
    np.testing.assert_array_equal(average(IMAGES), vae(IMAGES))
    with pytest.raises(UserError, match="method.network makes a new autoencoder"):
        Autoencoder(network=VAE).load(str(tmp_path / "base"))


def test_the_measured_scale_makes_the_standard_deviation_1(vae):
    scale = measure_scale(vae, IMAGES)
    assert np.std(scale * np.asarray(vae.encode(IMAGES).mean)) == pytest.approx(1.0, rel=1e-5)


class TestAutoencoder(NetworkBattery):
    inputs = (IMAGES,)
    unreached = ("to_k/bias",)  # the softmax does not see what is added to all keys
    smallest = 1e-5

    @pytest.fixture
    def network(self, vae):
        return vae

    def outputs(self, vae):
        posterior = vae.encode(tf.constant(IMAGES))
        return [vae.decode(posterior.mean), posterior.logvar]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"norm_num_groups": 3}, "cannot be split into 3 groups"),
        ({"groups": 4}, "groups"),
        ({"patch_size": 0}, "patch_size"),
    ],
)
def test_bad_configs_are_refused_in_one_line(changes, message):
    with pytest.raises(UserError) as caught:
        make_autoencoder({**VAE, **changes})
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("shortcut", [False, True])
def test_balanced_channels_make_the_same_images(shortcut):
    """Catches: a layer whose weights do not follow, log-variances of the old latents."""
    vae = make_autoencoder({**VAE, "linear_shortcut": shortcut})
    randomize(vae.variables)
    images = np.random.default_rng(1).uniform(-1, 1, (3, 16, 16, 3)).astype("float32") * 0.5 + 0.2
    before, made = vae.encode(images), vae(images)
    balance_channels(vae, images, power=0.5)
    after = vae.encode(images)
    np.testing.assert_allclose(vae(images), made, atol=2e-4)
    deviation = np.std(before.mean, axis=(0, 1, 2))
    np.testing.assert_allclose(np.mean(after.mean, axis=(0, 1, 2)), 0, atol=1e-4)
    np.testing.assert_allclose(np.std(after.mean, axis=(0, 1, 2)), deviation**0.5, rtol=1e-3)
    np.testing.assert_allclose(after.logvar, before.logvar - np.log(deviation), atol=1e-3)
