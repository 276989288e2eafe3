"""Weights on disk: diffusers' names and layouts, read strictly."""

from __future__ import annotations

import json

import numpy as np
import pytest
from conftest import VAE
from safetensors.numpy import load_file, save_file
from tiny import UNET, randomize

from codi_tf.base import make_autoencoder, make_unet
from codi_tf.errors import UserError
from codi_tf.weights import (
    CONFIG,
    WEIGHTS,
    copy_weights,
    folder_sha256,
    load_network,
    read_json,
    save_network,
    state_dict,
    write_json,
)


@pytest.fixture(scope="module")
def unet():
    unet = make_unet(UNET)
    randomize(unet.variables)
    return unet


@pytest.fixture
def folder(unet, tmp_path):
    save_network(unet, tmp_path / "unet", extra_config={"_class_name": "UNet2DConditionModel"})
    return tmp_path / "unet"


def values(network):
    return [v.numpy() for v in network.variables]


def respelled(folder, change):
    weights = load_file(folder / WEIGHTS)
    change(weights)
    save_file(weights, folder / WEIGHTS)


def refusal(folder) -> str:
    """The line with which a UNet refuses a folder, with no weight assigned."""
    target = make_unet(UNET)
    before = values(target)
    with pytest.raises(UserError) as caught:
        load_network(target, folder)
    for expected, value in zip(before, values(target), strict=True):
        np.testing.assert_array_equal(value, expected)
    line = str(caught.value)
    assert str(folder / WEIGHTS) in line and "\n" not in line
    return line


def test_layouts_are_pytorch_s(unet):
    state = state_dict(unet)
    kernel = unet.conv_in.kernel.numpy()  # [3, 3, 4, 8]
    assert state["conv_in.weight"].shape == (8, 4, 3, 3)
    for o, i, y, x in ((0, 0, 0, 0), (7, 3, 2, 1), (5, 1, 0, 2)):
        assert state["conv_in.weight"][o, i, y, x] == kernel[y, x, i, o]
    kernel = unet.time_embedding.linear_1.kernel.numpy()  # [8, 32]
    np.testing.assert_array_equal(state["time_embedding.linear_1.weight"], kernel.T)
    np.testing.assert_array_equal(state["conv_norm_out.weight"], unet.conv_norm_out.gamma.numpy())
    np.testing.assert_array_equal(state["conv_norm_out.bias"], unet.conv_norm_out.beta.numpy())
    norm = unet.mid_block.attentions[0].block.norm1
    np.testing.assert_array_equal(state["mid_block.attentions.0.transformer_blocks.0.norm1.weight"], norm.gamma.numpy())
    assert all(value.flags.c_contiguous and value.dtype == np.float32 for value in state.values())


def test_what_is_saved_comes_back(unet, folder):
    target = make_unet(UNET, "another")
    load_network(target, folder)
    for expected, value in zip(values(unet), values(target), strict=True):
        np.testing.assert_array_equal(value, expected)
    config = json.loads((folder / CONFIG).read_text())
    assert config.pop("_class_name") == "UNet2DConditionModel" and "name" not in config
    assert make_unet(config).get_config() == {**unet.get_config(), "name": "unet"}


def test_float16_is_rounded_once(unet, tmp_path):
    save_network(unet, tmp_path / "half", dtype="float16")
    target = make_unet(UNET)
    load_network(target, tmp_path / "half")
    for expected, value in zip(values(unet), values(target), strict=True):
        np.testing.assert_array_equal(value, expected.astype("float16").astype("float32"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda w: w.pop("conv_in.bias"), "1 weights missing: conv_in.bias; the file belongs to another network"),
        (lambda w: w.update(extra=np.zeros(1, "float32")), "1 weights left over: extra"),
        (
            lambda w: w.update({"conv_in.bias": np.zeros(9, "float32")}),
            "1 weights of another shape: conv_in.bias (9,), wanted (8,)",
        ),
        (
            lambda w: w.update({"conv_in.weight": np.zeros((8, 5, 3, 3), "float32")}),
            "conv_in.weight (3, 3, 5, 8), wanted (3, 3, 4, 8)",
        ),
        (lambda w: w.update({"conv_in.weight": np.zeros(8, "float32")}), "conv_in.weight (8,)"),
        (lambda w: [w.pop(key) for key in list(w) if key.startswith("up_blocks")], " more; the file belongs to"),
    ],
)
def test_foreign_weights_are_refused_and_nothing_is_assigned(folder, change, said):
    respelled(folder, change)
    assert said in refusal(folder)


@pytest.mark.parametrize("kept", [0, 4, 100, -1])
def test_torn_files_are_refused(folder, kept):
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[:kept])
    assert "truncated or no safetensors file" in refusal(folder)


def test_missing_files_are_refused(folder):
    (folder / WEIGHTS).unlink()
    assert "no such weight file" in refusal(folder)
    (folder / WEIGHTS).mkdir()
    assert "no safetensors file" in refusal(folder)


def test_copying(unet):
    target = make_unet(UNET, "another")
    copy_weights(unet, target)
    for expected, value in zip(values(unet), values(target), strict=True):
        np.testing.assert_array_equal(value, expected)
    target.conv_in.bias.assign(target.conv_in.bias + 1.0)
    assert not np.array_equal(target.conv_in.bias, unet.conv_in.bias)


def test_a_network_of_any_name_has_the_same_keys():
    names = ("vae", "encoder", "average_vae")
    first, *others = (set(state_dict(make_autoencoder(VAE, name))) for name in names)
    assert all(other == first for other in others)


def test_the_hash_sees_weights_and_configs_and_nothing_else(folder):
    first = folder_sha256(folder)
    assert first == folder_sha256(folder) and len(first) == 64
    (folder / "notes.txt").write_text("hello")
    assert folder_sha256(folder) == first
    config = (folder / CONFIG).read_text()
    (folder / CONFIG).write_text(config + " ")
    assert folder_sha256(folder) != first
    (folder / CONFIG).write_text(config)
    respelled(folder, lambda w: w["conv_in.bias"].__iadd__(1e-6))
    assert folder_sha256(folder) != first


def test_the_hash_does_not_depend_on_the_place_but_on_the_names(folder):
    first = folder_sha256(folder)
    moved = folder.rename(folder.with_name("moved"))
    assert folder_sha256(moved) == first
    (moved / CONFIG).rename(moved / "settings.json")
    assert folder_sha256(moved) != first


def test_json_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "about.json"
    write_json(path, {"a": [1, 2.5, None]})
    assert read_json(path) == {"a": [1, 2.5, None]}
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert read_json(path) == {"a": [1, 2.5, None]} and [p.name for p in tmp_path.iterdir()] == ["about.json"]


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"{", "not readable as JSON"), (b"\xff", "not readable as JSON"), (b"[1]", "holds no JSON object")],
)
def test_bad_json_is_refused(tmp_path, content, said):
    path = tmp_path / "about.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=said) as caught:
        read_json(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(UserError, match="no such file"):
        read_json(tmp_path / "none.json")
    with pytest.raises(UserError, match="not readable"):
        read_json(tmp_path)
