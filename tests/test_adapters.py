"""The adapters by their names: they start asleep, come back from disk, and are refused where they do not fit."""

from __future__ import annotations

import numpy as np
import pytest
from tiny import randomize, tiny_base

import codi_tf
from codi_tf.adapters import ADAPTERS
from codi_tf.adapters.adapted import AdaptedUNet
from codi_tf.checkpoints.base import make_autoencoder, make_unet
from codi_tf.core.errors import UserError
from codi_tf.methods.networks import denoiser, encode_condition


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("name", ADAPTERS)
def test_a_new_adapter_changes_nothing_and_comes_back(name, channels, tmp_path):
    base, random = tiny_base(), np.random.default_rng(0)
    adapter = ADAPTERS[name].for_base(base, channels)
    assert ADAPTERS.name_of(type(adapter)) == name
    adapter.check(base, channels)
    z_t = random.normal(size=(2, 4, 4, 4)).astype("float32")
    condition = random.uniform(-1, 1, (2, 16, 16, channels)).astype("float32")

    def output(adapter):
        network = AdaptedUNet(base.unet, adapter, has_mask=channels == 4)
        return np.asarray(
            denoiser(base, network, encode_condition(base, network, condition), base.conditioning())(z_t, [500]).v_hat
        )

    plain = np.asarray(base.unet(z_t, np.array([500]), base.context))
    np.testing.assert_array_equal(output(adapter), plain)
    randomize(adapter.variables)
    assert np.abs(output(adapter) - plain).max() > 1e-3
    adapter.write(tmp_path / "adapter")
    np.testing.assert_array_equal(output(ADAPTERS[name].read(tmp_path / "adapter", base, channels)), output(adapter))


@pytest.mark.parametrize("name", ADAPTERS)
def test_an_adapter_of_other_channels_is_refused(name):
    base = tiny_base()
    with pytest.raises(UserError, match="takes . channels"):
        ADAPTERS[name].for_base(base, 4).check(base, 3)


@pytest.mark.parametrize("name", ["controlnet", "t2i"])
def test_an_adapter_of_another_base_is_refused(name):
    base = tiny_base()
    adapter = ADAPTERS[name].for_base(base, 3)
    wide = tiny_base()
    wide.unet = make_unet({**_config(wide.unet), "block_out_channels": [16]})
    with pytest.raises(UserError, match="take one made for this base"):
        codi_tf.CoDi(wide, adapter)
    shallow = tiny_base()
    shallow.vae = make_autoencoder({**_config(shallow.vae), "block_out_channels": [8, 16]})
    with pytest.raises(UserError, match="makes images 4 times smaller, the base's autoencoder 2"):
        codi_tf.CoDi(shallow, adapter)


def _config(network):
    return {key: value for key, value in network.get_config().items() if key != "name"}
