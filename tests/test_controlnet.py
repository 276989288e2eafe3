"""The controlnet adapter in a model: training, sampling, bundles, and diffusers' ControlNetModel in and out."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import make_base
from tiny import randomize, tiny_photos

import codi_tf
from codi_tf import config
from codi_tf.cli.train import train
from codi_tf.core.errors import UserError
from codi_tf.io.weights import state_dict
from codi_tf.training.experiment import build_trainer

diffusers = pytest.importorskip("diffusers")

RANDOM = np.random.default_rng(0)
CONDITION = RANDOM.uniform(size=(2, 16, 24, 3)).astype("float32")


@pytest.fixture
def model(base):
    model = codi_tf.CoDi(base, adapter="controlnet", train="adapter", image_size=16)
    randomize(model.student.adapter.variables)
    return model


def test_it_starts_as_the_base_and_its_output_depends_on_the_condition_afterward(base):
    model = codi_tf.CoDi(base, adapter="controlnet", image_size=16)
    first, second = (model.generate(c, steps=2) for c in (CONDITION, CONDITION[::-1].copy()))
    np.testing.assert_array_equal(first, second)
    randomize(model.student.adapter.variables)
    assert (model.generate(CONDITION, steps=2) != model.generate(CONDITION[::-1].copy(), steps=2)).any()


def test_the_condition_is_encoded_once_and_the_encoder_runs_in_every_step(model):
    runs = []
    adapter = model.student.adapter
    hint, middle = adapter.hint.call, adapter.mid_block.call
    adapter.hint.call = lambda *args: runs.append("hint") or hint(*args)
    adapter.mid_block.call = lambda *args: runs.append("encoder") or middle(*args)
    c = model.encode_condition(tf.constant(2 * CONDITION[:, :16, :16] - 1))
    model.sample_latents(c, tf.zeros((2, 4, 4, 4)), steps=3)
    assert runs == ["hint", *["encoder"] * 3]


def test_a_bundle_gives_the_same_images_and_holds_a_controlnet_for_diffusers(model, tmp_path):
    expected = model.generate(CONDITION, steps=2)
    model.save(tmp_path / "bundle")
    np.testing.assert_array_equal(codi_tf.load(tmp_path / "bundle").generate(CONDITION, steps=2), expected)
    peer = diffusers.ControlNetModel.from_pretrained(tmp_path / "bundle" / "adapter")
    theirs, ours = peer.state_dict(), state_dict(model.network.adapter)
    assert theirs.keys() == ours.keys()
    for key, value in ours.items():
        np.testing.assert_array_equal(theirs[key].numpy(), value, err_msg=key)


def test_diffusers_controlnet_is_an_adapter_bit_for_bit(model, base, tmp_path):
    model.save(tmp_path / "bundle")
    peer = diffusers.ControlNetModel.from_pretrained(tmp_path / "bundle" / "adapter")
    peer.save_pretrained(tmp_path / "theirs")
    adapter = codi_tf.load_controlnet(tmp_path / "theirs")
    for key, value in state_dict(adapter).items():
        np.testing.assert_array_equal(peer.state_dict()[key].numpy(), value, err_msg=key)
    again = codi_tf.CoDi(base, adapter=adapter, train="adapter", image_size=16)
    np.testing.assert_array_equal(again.generate(CONDITION, steps=2), model.generate(CONDITION, steps=2))


def test_a_controlnet_for_another_base_is_refused(model, tmp_path):
    other = make_base()
    model.student.adapter.cross_attention_dim = 1024
    with pytest.raises(UserError, match="cross_attention_dim is 1024, the base's 8"):
        codi_tf.CoDi(other, adapter=model.student.adapter)
    with pytest.raises(UserError, match="no such file"):
        codi_tf.load_controlnet(tmp_path)


@pytest.mark.parametrize("encode_once", [0, 8])
def test_it_trains_from_a_config_on_images_and_on_latents_encoded_once(base_folder, tmp_path, encode_once):
    experiment = config.from_dict(
        {
            "method": {"name": "codi", "guidance_weight": 2.0},
            "base": str(base_folder),
            "task": {"name": "super_resolution", "scale": 2},
            "adaptation": {"adapter": "controlnet", "train": "adapter"},
            "memory": {"recompute": True},
            "data": {"source": str(tiny_photos(tmp_path / "photos")), "image_size": 16, "encode_once": encode_once},
            "train": {"steps": 3, "batch_size": 4, "log_every": 1, "warmup_steps": 0, "ema_decay": 0.5},
        }
    )
    result = train(experiment, tmp_path / "run")
    trained = codi_tf.load(result)
    start = build_trainer(experiment).student.adapter
    moved = [
        np.abs(new.numpy() - old.numpy()).max()
        for new, old in zip(trained.student.adapter.variables, start.variables, strict=True)
    ]
    assert np.isfinite(moved).all() and max(moved) > 1e-5
    again = {**experiment.as_dict(), "adaptation": {**experiment.as_dict()["adaptation"], "start": f"{result}/adapter"}}
    resumed = build_trainer(config.from_dict(again))
    for a, b in zip(resumed.student.adapter.variables, trained.student.adapter.variables, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


def test_mu_has_no_start(base_folder):
    experiment = config.from_dict(
        {
            "method": {"name": "codi"},
            "base": str(base_folder),
            "task": {"name": "super_resolution"},
            "adaptation": {"start": "somewhere"},
            "train": {"steps": 1},
        }
    )
    with pytest.raises(UserError, match="adaptation.start is 'somewhere': adapter mu starts from no folder"):
        build_trainer(experiment)


def test_its_gradients_reach_the_adapter_and_nothing_else(model, base):
    model.compile(optimizer=keras.optimizers.SGD(0.1))
    before = [v.numpy().copy() for v in base.unet.variables]
    zero = model.student.adapter.zero_middle.kernel.numpy().copy()
    batch = {name: tf.constant(2 * CONDITION[:, :16, :16] - 1) for name in ("image", "condition")}
    assert np.isfinite(float(model.train_step(batch)["loss"]))
    assert np.abs(model.student.adapter.zero_middle.kernel.numpy() - zero).max() > 0
    for variable, value in zip(base.unet.variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)
