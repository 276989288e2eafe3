"""Settings of Keras from outside: keras.json, floatx and KERAS_BACKEND change nothing, or are told in one line."""

from __future__ import annotations

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import make_model
from tiny import tiny_base

import codi_tf
from codi_tf.core.errors import UserError
from codi_tf.core.quiet import check_backend
from codi_tf.methods.networks import encode_condition
from codi_tf.trainers.optimizers import FusedAdamW

IMAGE = np.random.default_rng(0).random((16, 16, 4)).astype("float32")


pytestmark = pytest.mark.usefixtures("eager")


@pytest.fixture
def settings():
    """Changes floatx and the data format, and puts them back."""
    before = keras.config.floatx(), keras.config.image_data_format(), keras.config.dtype_policy()

    def change(floatx: str, data_format: str) -> None:
        keras.config.set_floatx(floatx)
        keras.config.set_dtype_policy(floatx)  # what Keras starts with, where nothing else was set
        keras.config.set_image_data_format(data_format)

    yield change
    keras.config.set_floatx(before[0])
    keras.config.set_image_data_format(before[1])
    keras.config.set_dtype_policy(before[2])


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("t2i", "controlnet")]


@pytest.fixture(scope="module", params=["mu", *SLOW])
def bundle(request, tmp_path_factory):
    """A bundle for inpainting, whose mask is pooled, of each adapter."""
    folder = tmp_path_factory.mktemp("bundle") / "bundle"
    make = make_model if request.param == "mu" else codi_tf.CoDi
    options = {} if request.param == "mu" else {"image_size": 16}
    make(tiny_base(), adapter=request.param, task="inpainting", **options).save(folder)
    return folder


@pytest.mark.parametrize(
    ("floatx", "data_format"),
    [("float32", "channels_first"), ("float16", "channels_last"), ("float64", "channels_first")],
)
def test_a_model_is_the_same_under_other_settings(bundle, settings, floatx, data_format):
    """A sound bundle was called broken, or there was a trace; in float64 a sum had another type than its terms."""
    expected = codi_tf.load(bundle).generate(IMAGE, steps=2)
    settings(floatx, data_format)
    model = codi_tf.load(bundle)
    assert {variable.dtype for variable in model.network.variables} == {"float32"}
    np.testing.assert_array_equal(model.generate(IMAGE, steps=2), expected)
    c = encode_condition(model.base, model.network, tf.constant(2 * IMAGE[None] - 1))
    batch = {"latent": tf.zeros((1, 4, 4, 4)), "condition_latent": c}
    model.compile(optimizer=FusedAdamW(1e-3))
    assert np.isfinite(float(model.train_step(batch)["loss"]))


def test_another_backend_is_one_line(tmp_path):
    """It was a trace of Keras, or a bundle that was to be made again."""
    code = "import codi_tf; codi_tf.load"
    for command, last in (
        (
            [sys.executable, "-m", "codi_tf.train", "tiny.yaml"],
            "error: KERAS_BACKEND is 'torch': codi_tf computes with ",
        ),
        (
            [sys.executable, "-c", code],
            "codi_tf.core.errors.UserError: KERAS_BACKEND is 'torch': codi_tf computes with ",
        ),
    ):
        (tmp_path / "tiny.yaml").write_text("{method: {name: codi}, train: {steps: 1}, base: no, task: {name: depth}}")
        environment = {**os.environ, "KERAS_BACKEND": "torch", "PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
        assert done.returncode and done.stderr.splitlines()[-1].startswith(last), done.stderr


def test_keras_json_does_not_choose_the_backend(monkeypatch):
    """A keras.json that says torch is for other programs; a Keras that runs on it is told."""
    monkeypatch.setenv("KERAS_BACKEND", "")
    with monkeypatch.context() as patch:
        patch.delitem(sys.modules, "keras")
        check_backend()
    assert os.environ["KERAS_BACKEND"] == "tensorflow"
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(UserError, match="Keras was started with the backend 'jax': codi_tf computes with TensorFlow"):
        check_backend()
