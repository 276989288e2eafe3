"""Inception's features against pytorch-fid, torch-fidelity and Keras Applications, with random weights."""

from __future__ import annotations

import warnings

import h5py
import keras
import numpy as np
import pytest
from keras.src.legacy.saving import legacy_h5_format
from perception_peers import awaken, channels_first, random_images, torch

from codi_tf.core.errors import UserError
from codi_tf.evaluation.perception.inception import load_classifier, load_inception

fid = pytest.importorskip("pytorch_fid.inception")
fidelity = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
safetensors_torch = pytest.importorskip("safetensors.torch")


@pytest.fixture(scope="module")
def state():
    """Random weights of the network of FID, under their names."""
    network = fid._inception_v3(num_classes=1008, aux_logits=False, weights=None)
    awaken(network)
    return network.state_dict()


@pytest.fixture(scope="module")
def file(state, tmp_path_factory):
    """The file that pytorch-fid's network makes."""
    path = tmp_path_factory.mktemp("inception") / "fid_inception.safetensors"
    safetensors_torch.save_file(state, path)
    return path


@pytest.fixture(scope="module")
def ours(file):
    """Our features, from that file."""
    return load_inception(file)


@pytest.fixture(scope="module")
def peer(state):
    """pytorch-fid's network with these weights in place of those that it would download."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fid, "load_state_dict_from_url", lambda *_, **__: state)
        return fid.InceptionV3().eval()


def near(found, expected) -> bool:
    return np.abs(np.asarray(found) - expected).max() <= 2e-5 * np.abs(expected).max()


@pytest.mark.parametrize("size", [(48, 64), (320, 350)])
def test_the_features_are_those_of_pytorch_fid(ours, peer, size):
    """The larger images are made smaller, without antialiasing."""
    images = random_images(2, *size)
    with torch.no_grad():
        expected = peer(channels_first((images + 1) / 2))[0][:, :, 0, 0].numpy()
    found = ours(images)
    assert found.dtype == "float32" and found.shape == (2, 2048)
    assert np.abs(expected[0] - expected[1]).max() > 0.1 * expected.max() and (expected > 0).mean() > 0.5
    assert near(found, expected)


def test_features_and_logits_are_those_of_torch_fidelity(ours, file, state, tmp_path):
    """At 299 pixels, where nothing is resized: it has TensorFlow 1's resize. It takes 128 for the middle of bytes.

    Of its logits, those without bias are the Inception Score's.
    """
    torch.save(state, tmp_path / "weights.pth")
    peer = fidelity.FeatureExtractorInceptionV3(
        "inception", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(tmp_path / "weights.pth")
    )
    levels = np.rint(127.5 + 127.5 * random_images(1, 299, 299)).astype("uint8")
    with torch.no_grad():
        features, logits = peer(channels_first(levels))
    found = ours((levels.astype("float32") - 128) / 128)
    assert near(found, features.numpy())
    assert near(found @ load_classifier(file).T, logits.numpy()) and logits.shape == (1, 1008)


def test_files_that_do_not_fit_are_refused_in_one_line(state, tmp_path):
    path = tmp_path / "a.safetensors"

    def refused(changes: dict) -> str:
        kept = {key: value for key, value in {**state, **changes}.items() if value is not None}
        safetensors_torch.save_file(kept, path)
        with pytest.raises(UserError) as caught:
            load_inception(path)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "1 weights missing: Mixed_7c.branch_pool.bn.running_var" in refused(
        {"Mixed_7c.branch_pool.bn.running_var": None}
    )
    assert "left over: AuxLogits.fc.bias" in refused({"AuxLogits.fc.bias": torch.zeros(9)})
    assert "Mixed_5b.branch_pool.bn.bias (31,), wanted (32,)" in refused(
        {"Mixed_5b.branch_pool.bn.bias": torch.zeros(31)}
    )
    safetensors_torch.save_file({**state, "fc.weight": torch.zeros(9, 7)}, path)
    with pytest.raises(UserError, match=r"fc.weight is \(9, 7\), wanted \(classes, 2048\)"):
        load_classifier(path)
    safetensors_torch.save_file({key: value for key, value in state.items() if key != "fc.weight"}, path)
    assert load_classifier(path) is None
    torch.save({}, tmp_path / "pt_inception.pth")
    with pytest.raises(UserError, match="pt_inception.pth: a pickle"):
        load_inception(tmp_path / "pt_inception.pth")
    with pytest.raises(UserError, match="which is not FID's, name keras:"):
        load_inception("inception_v3_notop.h5")


@pytest.fixture(scope="module")
def application():
    """Keras' own network, random and awake."""
    keras.utils.set_random_seed(0)
    network = keras.applications.InceptionV3(include_top=False, pooling="avg", weights=None)
    random = np.random.default_rng(0)
    for variable in network.variables:
        if variable.name == "kernel":
            deviation = np.sqrt(2 / np.prod(variable.shape[:-1]))
            variable.assign(random.normal(0, deviation, variable.shape).astype("float32"))
    return network


@pytest.mark.parametrize("form", ["of Keras 3", "of the published file"])
def test_keras_network_reads_a_file(application, tmp_path, form):
    path = tmp_path / "notop.weights.h5"
    if form == "of Keras 3":
        application.save_weights(path)
    else:
        path = tmp_path / "notop.h5"
        with h5py.File(path, "w") as file:
            legacy_h5_format.save_weights_to_hdf5_group(file, application)
    features = load_inception(f"keras:{path}")
    images = random_images(1, 320, 200)
    resized = torch.nn.functional.interpolate(channels_first(images), size=(299, 299), mode="bilinear")
    levels = (127.5 * (resized.permute(0, 2, 3, 1).numpy() + 1)).astype("float32")
    expected = application(keras.applications.inception_v3.preprocess_input(levels), training=False)
    assert expected.shape == (1, 2048) and near(features(images), expected.numpy())


def test_keras_files_that_do_not_fit_are_refused_in_one_line(application, tmp_path):
    with pytest.raises(UserError, match="no such weight file; name the .h5 file"):
        load_inception(f"keras:{tmp_path / 'a.h5'}")
    other = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    other.save_weights(tmp_path / "other.weights.h5")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, other)
    (tmp_path / "text.h5").write_text("no HDF5")
    application.save_weights(tmp_path / "less.weights.h5")
    with h5py.File(tmp_path / "less.weights.h5", "a") as file:
        del file["layers"]["conv2d_5"]
    for name in ("other.weights.h5", "other.h5", "text.h5", "less.weights.h5"):
        with (
            warnings.catch_warnings(),
            pytest.raises(UserError, match="not the weights of Keras' InceptionV3") as caught,
        ):
            warnings.simplefilter("error")
            load_inception(f"keras:{tmp_path / name}")
        assert "\n" not in str(caught.value)
