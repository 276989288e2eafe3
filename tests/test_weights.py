"""Weights on disk: diffusers' names and layouts, read strictly."""

from __future__ import annotations

import json

import keras
import ml_dtypes
import numpy as np
import pytest
from conftest import VAE
from safetensors import safe_open
from safetensors.numpy import load_file, save, save_file
from tiny import UNET, randomize

from codi_tf.checkpoints.base import make_autoencoder, make_unet
from codi_tf.core.errors import UserError
from codi_tf.core.precision import built_in, make_policy
from codi_tf.io.hashing import folder_sha256
from codi_tf.io.json_files import read_json, write_json
from codi_tf.io.layouts import DENSE, Origin
from codi_tf.io.tensor_files import TensorToWrite, make_room, read_header, write_tensors
from codi_tf.io.weights import CONFIG, WEIGHTS, copy_weights, load_network, make_from, save_network, state_dict


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
    ("change", "message"),
    [
        (lambda w: w.pop("conv_in.bias"), "1 weights missing: conv_in.bias; the file belongs to another network"),
        (lambda w: w.update(extra=np.zeros(1, "float32")), "1 weights left over: extra"),
        (
            lambda w: w.update({"conv_in.bias": np.zeros(9, "float32")}),
            "1 weights of another shape: conv_in.bias (9,), wanted (8,)",
        ),
        (
            lambda w: w.update({"conv_in.weight": np.zeros((8, 5, 3, 3), "float32")}),
            "conv_in.weight (8, 5, 3, 3), wanted (8, 4, 3, 3)",
        ),
        (lambda w: w.update({"conv_in.weight": np.zeros(8, "float32")}), "conv_in.weight (8,)"),
        (lambda w: [w.pop(key) for key in list(w) if key.startswith("up_blocks")], " more; the file belongs to"),
    ],
)
def test_foreign_weights_are_refused_and_nothing_is_assigned(folder, change, message):
    respelled(folder, change)
    assert message in refusal(folder)


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


def test_a_network_is_made_with_the_values(unet, folder):
    stored, _ = read_header(folder / WEIGHTS)
    made = make_from(lambda: make_unet(UNET, "another"), stored, folder / WEIGHTS)
    for expected, value in zip(values(unet), values(made), strict=True):
        np.testing.assert_array_equal(value, expected)
    x, t, context = np.ones((1, 8, 8, 4), "float32"), np.array([3]), np.ones((1, 7, 8), "float32")
    np.testing.assert_array_equal(made(x, t, context), unet(x, t, context))
    made.conv_in.bias.assign(made.conv_in.bias + 1.0)  # a variable like any other
    assert not np.array_equal(made.conv_in.bias, unet.conv_in.bias) and made.conv_in.bias.trainable


def test_a_network_that_cannot_be_made_leaves_nothing_behind(folder):
    respelled(folder, lambda w: w.pop("conv_in.bias"))
    stored, _ = read_header(folder / WEIGHTS)
    for _ in range(2):
        with pytest.raises(UserError, match="1 weights missing: conv_in.bias"):
            make_from(lambda: make_unet(UNET), stored, folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    stored = {**stored, "conv_in.bias": next(s for s in stored.values() if s.shape == (8,))}
    with pytest.raises(UserError, match="truncated or no safetensors file"):  # found when it is read
        make_from(lambda: make_unet(UNET), stored, folder / WEIGHTS)
    assert np.isfinite(make_unet(UNET).conv_in.kernel.numpy()).all()


def test_an_origin_tells_where_a_value_lies(unet, folder):
    """Fused, renamed, reversed in rank: dense layers as convolutions of size 1."""
    weights = {f"net.{key}": value for key, value in load_file(folder / WEIGHTS).items()}
    fused = [weights.pop(f"net.time_embedding.linear_2.{kind}") for kind in ("weight", "bias")]
    first = [weights.pop(f"net.time_embedding.linear_1.{kind}") for kind in ("weight", "bias")]
    weights["both.bias"] = np.concatenate([first[1], fused[1]])
    weights["one"], weights["two"] = first[0][:, :, None, None], fused[0][:, :, None]
    path = folder / "other.safetensors"
    save_file(weights, path)

    def origins(key, layout):
        if key == "time_embedding.linear_1.weight":
            return Origin("one", DENSE._replace(ones=2))
        if key == "time_embedding.linear_2.weight":
            return Origin("two", DENSE._replace(ones=1))
        if key.startswith("time_embedding"):
            return Origin("both.bias", layout, int("linear_2" in key), 2)
        return Origin(f"net.{key}", layout)

    made = make_from(lambda: make_unet(UNET), read_header(path)[0], path, origins)
    for expected, value in zip(values(unet), values(made), strict=True):
        np.testing.assert_array_equal(value, expected)
    weights["both.bias"] = weights["both.bias"][:-1]
    save_file(weights, path)
    with pytest.raises(UserError, match=r"1 weights of another shape: both.bias \(63,\), wanted \(64,\)"):
        make_from(lambda: make_unet(UNET), read_header(path)[0], path, origins)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_kept_bit_by_bit(unet, tmp_path, dtype):
    save_network(unet, tmp_path / "half", dtype=dtype)
    with built_in(make_policy("float32", dtype)):
        half = make_unet(UNET)
    full = make_unet(UNET)
    for network in (half, full):
        load_network(network, tmp_path / "half")
        save_network(network, tmp_path / network.variables[0].dtype, dtype=dtype)
    assert half.conv_in.kernel.dtype == dtype and full.conv_in.kernel.dtype == "float32"
    written = (tmp_path / "half" / WEIGHTS).read_bytes()
    assert written == (tmp_path / dtype / WEIGHTS).read_bytes() == (tmp_path / "float32" / WEIGHTS).read_bytes()


def test_values_out_of_range_are_refused_before_anything_is_assigned(unet, folder):
    respelled(folder, lambda w: w["up_blocks.0.resnets.0.conv2.bias"].__setitem__(0, 65520.0))
    with built_in(make_policy("float32", "float16")):
        target = make_unet(UNET)
    before = values(target)
    with pytest.raises(UserError, match="up_blocks.0.resnets.0.conv2.bias has values beyond the range of float16"):
        load_network(target, folder)
    for expected, value in zip(before, values(target), strict=True):
        np.testing.assert_array_equal(value, expected)
    respelled(folder, lambda w: w["up_blocks.0.resnets.0.conv2.bias"].__setitem__(0, 65519.0))  # rounds to the largest
    load_network(target, folder)
    assert target.up_blocks[0].resnets[0].conv2.bias.numpy()[0] == 65504.0


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
    (folder / "notes.md").write_text("hello")
    assert folder_sha256(folder) == first
    (folder / "merges.txt").write_text("a b")  # the tokenizer's
    assert folder_sha256(folder) != first
    (folder / "merges.txt").unlink()
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
    with pytest.raises(UserError, match="cannot be saved"):
        write_json(path, {"a": object()})
    assert read_json(path) == {"a": [1, 2.5, None]} and [p.name for p in tmp_path.iterdir()] == ["about.json"]


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"{", "not readable as JSON"), (b"\xff", "not readable as JSON"), (b"[1]", "holds no JSON object")],
)
def test_bad_json_is_refused(tmp_path, content, message):
    path = tmp_path / "about.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        read_json(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(UserError, match="no such file"):
        read_json(tmp_path / "none.json")
    with pytest.raises(UserError, match="not readable"):
        read_json(tmp_path)


def write(path, tensors):
    write_tensors(path, {k: TensorToWrite(v.dtype, v.shape, lambda v=v: v) for k, v in tensors.items()})


def test_the_file_format_is_that_of_safetensors(tmp_path):
    random = np.random.default_rng(0)
    tensors = {
        "a.weight": random.normal(size=(3, 5)).astype("float32"),
        "odd": random.normal(size=(3,)).astype("float16"),
        "brain": random.normal(size=(2, 3)).astype(ml_dtypes.bfloat16),
        "scalar": np.array(3.0, "float32"),
        "none": np.zeros((0, 4), "float32"),
        "ids": np.arange(4)[None],
        "umlaut ä": np.ones(2, "float32"),
    }
    write(tmp_path / "ours", tensors)
    with safe_open(tmp_path / "ours", "numpy") as file:
        assert set(file.keys()) == tensors.keys() and file.metadata() == {"format": "pt"}
        for key, value in tensors.items():
            if key != "brain":  # NumPy has no such numbers
                np.testing.assert_array_equal(file.get_tensor(key), value)
            assert file.get_slice(key).get_shape() == list(value.shape)
    theirs = {key: value for key, value in tensors.items() if key != "brain"}
    save_file(theirs, tmp_path / "theirs", metadata={"a": "b"})
    for path, expected in ((tmp_path / "ours", tensors), (tmp_path / "theirs", theirs)):
        stored, metadata = read_header(path)
        assert stored.keys() == expected.keys() and metadata == (
            {"a": "b"} if "theirs" in path.name else {"format": "pt"}
        )
        for key, value in expected.items():
            read = stored[key].read()
            assert read.dtype == value.dtype and (read.ctypes.data % 64 == 0 or not read.size)
            np.testing.assert_array_equal(read, value)
    np.testing.assert_array_equal(
        read_header(tmp_path / "ours")[0]["a.weight"].read(part=2, parts=3), tensors["a.weight"][2:]
    )


def test_room_is_used_again(tmp_path):
    write(tmp_path / "x", {"a": np.arange(6.0).reshape(2, 3), "b": np.ones(4)})
    stored, _ = read_header(tmp_path / "x")
    room = make_room(64)
    first = stored["a"].read(room=room)
    np.testing.assert_array_equal(first, np.arange(6.0).reshape(2, 3))
    second = stored["b"].read(room=room)
    assert np.shares_memory(first, second) and not np.shares_memory(first, stored["a"].read())


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize(
    "network",
    [
        keras.Sequential([keras.Input((5,)), keras.layers.Dense(1, name="one"), keras.layers.Dense(7, name="row")]),
        keras.Sequential([keras.Input((1, 1, 1)), keras.layers.Conv2D(6, 1), keras.layers.Conv2D(1, 1)]),
        keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Conv2D(1, 3), keras.layers.Conv2D(2, (1, 3))]),
    ],
    ids=["dense", "pointwise", "convolutions"],
)
def test_values_of_every_shape_have_memory_of_their_own(tmp_path, dtype, network):
    """TensorFlow moves nothing where only axes of length 1 change places: it would share what is read next."""
    random = np.random.default_rng(0)
    for variable in network.variables:
        variable.assign(random.normal(size=variable.shape).astype(dtype))
    save_file(state_dict(network, dtype), tmp_path / "x")
    stored, _ = read_header(tmp_path / "x")
    made = make_from(lambda: keras.models.clone_model(network), stored, tmp_path / "x")
    for expected, value in zip(values(network), values(made), strict=True):
        np.testing.assert_array_equal(value, expected)


def test_a_tensor_that_is_not_as_announced_is_a_mistake(tmp_path):
    with pytest.raises(ValueError, match="a is float64"):
        write_tensors(tmp_path / "x", {"a": TensorToWrite(np.dtype("float32"), (2,), lambda: np.zeros(2))})


def with_header(content: bytes, change) -> bytes:
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + content[8 + length :]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda h: h["a"].update(shape=[3]), "the place of a does not fit its shape"),
        (lambda h: h["a"].update(data_offsets=[4, 12]), "the place of"),
        (lambda h: h.pop("b"), "its header describes"),
        (lambda h: h["a"].pop("shape"), "shape"),
        (lambda h: h.update(c=3), ""),
    ],
)
def test_headers_that_do_not_fit_are_refused(tmp_path, change, message):
    path = tmp_path / "x.safetensors"
    path.write_bytes(with_header(save({"a": np.zeros(2, "float32"), "b": np.ones(3, "float32")}), change))
    with pytest.raises(UserError, match="truncated or no safetensors file") as caught:
        read_header(path)
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("dtype", ["F8_E4M3", "F8_E5M2", "U16"])
def test_formats_that_are_not_read_are_named(tmp_path, dtype):
    path = tmp_path / "x.safetensors"
    path.write_bytes(with_header(save({"a": np.zeros(2, "uint8")}), lambda h: h["a"].update(dtype=dtype)))
    with pytest.raises(UserError) as caught:
        read_header(path)
    assert str(caught.value) == f"{path}: a is stored in {dtype}; convert it to float16 first"


def test_a_file_that_has_become_shorter_is_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    write(path, {"a": np.zeros(2, "float32"), "b": np.ones(300, "float32")})
    stored, _ = read_header(path)
    path.write_bytes(path.read_bytes()[:-4])
    np.testing.assert_array_equal(stored["a"].read(), np.zeros(2))
    with pytest.raises(UserError, match="it ends too early"):
        stored["b"].read()
