"""The mu adapter: a copy of the encoder, Eq. 12, and the base untouched where mu is 0."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import make_base

from codi_tf.adapters.adapted import AdaptedUNet
from codi_tf.adapters.mu import MuAdapter
from codi_tf.diffusion.conditioning import Conditioning
from codi_tf.models.unet import path_below

CONTEXT = np.random.default_rng(9).normal(size=(1, 77, 8)).astype("float32")
CONDITIONING = Conditioning(CONTEXT)
Z_T, C = (np.random.default_rng(seed).normal(size=(2, 4, 4, 4)).astype("float32") for seed in (0, 1))


@pytest.fixture(scope="module")
def unet():
    return make_base().unet


@pytest.fixture
def adapter(unet):
    return MuAdapter.duplicate(unet)


def arrays(tensors):
    return [np.asarray(tensor) for tensor in tensors]


def test_it_starts_as_a_copy_of_the_encoder_with_mu_0(unet, adapter):
    source = {path_below(unet, v): v.numpy() for v in unet.variables}
    for variable in adapter.encoder.variables:
        np.testing.assert_array_equal(variable.numpy(), source[path_below(adapter.encoder, variable)])
    encoder_parts = ("conv_in", "time_embedding", "down_blocks", "mid_block")
    assert len(adapter.encoder.variables) == sum(path.startswith(encoder_parts) for path in source)
    np.testing.assert_array_equal(adapter.mu.numpy(), np.zeros(5))  # conv_in, 2 residual blocks, 1 downsampling, middle


def test_the_copy_has_weights_of_its_own(unet, adapter):
    before = unet.conv_in.kernel.numpy()
    adapter.encoder.conv_in.kernel.assign(before + 1.0)
    np.testing.assert_array_equal(unet.conv_in.kernel.numpy(), before)


@pytest.mark.parametrize("t", [[0], [500], [999], [3, 777]])
def test_at_mu_0_the_adapted_network_is_the_base_bit_for_bit(unet, adapter, t):
    network = AdaptedUNet(unet, adapter)
    t = np.array(t, "int32")
    expected = unet(Z_T, t, CONTEXT).numpy()
    assert np.abs(expected).max() > 0.1
    adapted = network(Z_T, t, network.condition(C, CONDITIONING), CONDITIONING).numpy()
    np.testing.assert_array_equal(adapted, expected)
    adapter.mu.assign(np.full(5, 0.1, "float32"))
    assert np.abs(network(Z_T, t, network.condition(C, CONDITIONING), CONDITIONING) - expected).max() > 1e-3


def test_features_are_mixed_as_equation_12_says(unet, adapter):
    mu = np.array([-0.5, 0.0, 0.25, 1.0, 1.5], "float32")
    adapter.mu.assign(mu)
    features, condition = arrays(adapter.encoder(Z_T, np.array([7]), CONTEXT)), arrays(adapter(C, CONTEXT))
    for m, h, h_c, mixed in zip(mu, features, condition, adapter.mix(features, condition), strict=True):
        np.testing.assert_allclose(mixed, (1.0 - m) * h + m * h_c, rtol=0, atol=1e-6)


def test_the_decoder_gets_the_mixed_features(unet, adapter):
    mu = np.linspace(-0.3, 0.8, 5).astype("float32")
    adapter.mu.assign(mu)
    for variable in adapter.encoder.variables:
        variable.assign(variable * 1.1)
    t = np.array([400])
    network = AdaptedUNet(unet, adapter)
    temb = unet.time_embedding(t)
    skips = arrays(unet.encode(Z_T, temb, CONTEXT))
    features = [*skips, np.asarray(unet.middle(skips[-1], temb, CONTEXT))]
    condition = arrays(adapter.encoder(C, np.array([0]), CONTEXT))  # the clean condition stands at t = 0
    *skips, middle = [(1 - m) * h + m * h_c for m, h, h_c in zip(mu, features, condition, strict=True)]
    expected = unet.decode(middle, skips, temb, CONTEXT).numpy()
    adapted = network(Z_T, t, network.condition(C, CONDITIONING), CONDITIONING).numpy()
    np.testing.assert_allclose(adapted, expected, rtol=0, atol=1e-5)


def test_each_mu_reaches_the_output(unet, adapter):
    network = AdaptedUNet(unet, adapter)
    features = network.condition(C, CONDITIONING)
    base = network(Z_T, np.array([300]), features, CONDITIONING).numpy()
    for i in range(5):
        adapter.mu.assign(np.eye(5, dtype="float32")[i] * 0.5)
        assert np.abs(network(Z_T, np.array([300]), features, CONDITIONING).numpy() - base).max() > 1e-4, i


def test_without_an_adapter_it_is_the_unet(unet):
    network = AdaptedUNet(unet)
    assert network.condition(C, CONDITIONING) is None
    np.testing.assert_array_equal(network(Z_T, np.array([5]), None, CONDITIONING), unet(Z_T, np.array([5]), CONTEXT))
    assert network.variables == unet.variables


def test_a_condition_with_more_channels_starts_with_them_ignored(unet, adapter):
    wide = MuAdapter.duplicate(unet, condition_channels=6)
    masks = [np.concatenate([C, np.full((2, 4, 4, 2), m, "float32")], axis=-1) for m in (0.0, 5.0)]
    for expected, *others in zip(arrays(adapter(C, CONTEXT)), *(arrays(wide(c, CONTEXT)) for c in masks), strict=True):
        for other in others:
            np.testing.assert_allclose(other, expected, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(wide.encoder.conv_in.kernel.numpy()[:, :, :4], unet.conv_in.kernel.numpy())


def test_a_condition_with_fewer_channels_takes_the_first(unet):
    narrow = MuAdapter.duplicate(unet, condition_channels=1)
    np.testing.assert_array_equal(narrow.encoder.conv_in.kernel.numpy(), unet.conv_in.kernel.numpy()[:, :, :1])
    assert narrow(C[..., :1], CONTEXT)[0].shape == (2, 4, 4, 8)


def test_its_config_makes_it_again(adapter):
    again = MuAdapter.from_config(adapter.get_config())
    again.build()
    assert [v.path for v in again.variables] == [v.path for v in adapter.variables]
    assert [v.shape for v in again.variables] == [v.shape for v in adapter.variables]


def test_the_config_of_the_adapted_network_makes_it_again(unet, adapter):
    network = AdaptedUNet(unet, adapter, name="student")
    again = AdaptedUNet.from_config(network.get_config())
    assert [v.path for v in again.variables] == [v.path for v in network.variables]
    assert [v.shape for v in again.variables] == [v.shape for v in network.variables]
