"""An adapter that a module outside the package registers: it trains, is saved and loaded, and is exported."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tensorflow as tf
from conftest import make_base
from tiny import randomize

import codi_tf
from codi_tf.adapters import ADAPTERS
from codi_tf.adapters.adapted import AdaptedUNet, Adapter
from codi_tf.core.errors import UserError
from codi_tf.models.layers import PointwiseConv2D
from export.build import write_package
from export.emit.program import SamplerProgram
from export.package.manifest import read_package
from export.runtime import run


class FirstSkip(Adapter):
    """Adds a 1x1 convolution of the condition's latent to the UNet's first skip."""

    def __init__(self, channels_in: int, channels: int, **kwargs):
        super().__init__(**kwargs)
        self.channels_in, self.channels = channels_in, channels
        self.conv = PointwiseConv2D(channels, kernel_initializer="zeros", name="conv")

    @classmethod
    def for_base(cls, base, condition_channels):
        channels_in = cls.input_channels(base, condition_channels)
        adapter = cls(channels_in, base.unet.block_out_channels[0], name="adapter")
        adapter.build()
        return adapter

    def build(self, input_shape=None):
        self.conv.build((None, None, None, self.channels_in))

    def condition(self, c, conditioning):
        return [self.conv(c)]

    def adapt(self, features, condition_features, z_t, t, conditioning):
        return [features[0] + condition_features[0], *features[1:]]

    def emit_condition(self, g, nets, c, context):
        return [g.conv(c, self.conv)]

    def emit_adapt(self, g, nets, features, condition_features, z, time, context):
        return [g.add(features[0], condition_features[0]), *features[1:]]

    def get_config(self):
        return {"name": self.name, "channels_in": self.channels_in, "channels": self.channels}


@pytest.fixture(scope="module")
def trained():
    """A model after one update: every weight of the adapter has moved, the base is as it was."""
    ADAPTERS.register("first_skip")(FirstSkip)  # here and not above: tests of all adapters are collected before
    model = codi_tf.CoDi(make_base(), adapter="first_skip", train="adapter", image_size=16)
    before = [v.numpy() for v in model.base.unet.variables]
    model.compile()
    images = tf.constant(np.random.default_rng(0).uniform(-1, 1, (2, 16, 16, 3)).astype("float32"))
    assert np.isfinite(float(model.train_step({"image": images, "condition": images})["loss"]))
    assert all(np.abs(v.numpy()).min() > 0 for v in model.student.adapter.variables)
    for variable, value in zip(model.base.unet.variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)
    randomize(model.network.adapter.variables)  # one update of the average is too small to see in images
    return model


def test_it_comes_back_from_a_bundle(trained, tmp_path):
    """Catches a list of names, or a type, that a bundle or a network's configuration still depends on."""
    trained.save(tmp_path / "bundle")
    assert json.loads((tmp_path / "bundle/codi.json").read_text())["adaptation"]["adapter"] == "first_skip"
    again, condition = codi_tf.load(tmp_path / "bundle"), np.random.default_rng(1).random((16, 24, 3))
    image = trained.generate(condition, steps=2)
    np.testing.assert_array_equal(again.generate(condition, steps=2), image)
    swapped = trained.generate(condition[:, ::-1], steps=2)
    assert np.abs(swapped.astype(int) - image).max() > 2
    network = AdaptedUNet.from_config(trained.network.get_config())
    assert type(network.adapter) is FirstSkip and network.adapter.channels == trained.network.adapter.channels


@pytest.mark.parametrize("format, layout", [("onnx", "parts"), ("tflite", "whole")])
def test_it_is_exported(trained, tmp_path, format, layout, monkeypatch):
    """The gate compares the package with Keras; without a report no process is started and no report is written."""
    monkeypatch.setattr("subprocess.run", None)
    program = SamplerProgram(trained, steps=2, height=16, width=16)
    (figures,) = write_package([program], tmp_path / "package", format=format, layout=layout, report=False)
    assert figures["psnr_db"] > 80
    package = read_package(tmp_path / "package")
    assert not list(package.folder.glob("report*"))
    image = np.random.default_rng(1).random((16, 16, 3), dtype=np.float32)
    expected = trained.generate(image, steps=2, seed=3) / 255
    np.testing.assert_allclose(run.generate(run.load(package), image, seed=3), expected, atol=1.01 / 255)


def test_one_that_says_nothing_of_exports_is_refused(tmp_path):
    class Silent(FirstSkip):
        emit_condition = Adapter.emit_condition

    adapter = Silent.for_base(make_base(), 3)
    with pytest.raises(UserError, match=r"adapter Silent is not registered: decorate it with ADAPTERS.register"):
        codi_tf.CoDi(make_base(), adapter)
    with pytest.raises(UserError, match="Silent cannot be exported: it does not define emit_condition"):
        adapter.emit_condition(None, None, None, None)
