"""Depth estimation with a network that the user brings: real ONNX files, whose depth is known in closed form."""

from __future__ import annotations

import sys

import numpy as np
import onnx
import pytest
from commands import run_here
from onnx import TensorProto, helper
from PIL import Image

from codi_tf.cli import depth
from codi_tf.cli.depth import IMAGENET_MEAN, IMAGENET_STD, OnnxNetwork, estimate, size_for
from codi_tf.core.errors import UserError
from codi_tf.data.depth_maps import load_depth_folder
from codi_tf.io.depth_files import read_depth
from codi_tf.io.images import resize

RANDOM = np.random.default_rng(0)


def write_network(path, shape=(1, 3, "h", "w"), *, kind=TensorProto.FLOAT, keep=0, weights=(1.0, 2.0, 4.0), extra=()):
    """A network that "sees" weights . x + 10 as nearness: a 1x1 convolution's worth of nodes, float32 or float16."""
    last = shape[3] == 3
    dtype = np.float32 if kind == TensorProto.FLOAT else np.float16
    form = (1, 1, 1, -1) if last else (1, -1, 1, 1)
    constants = [
        onnx.numpy_helper.from_array(np.reshape(weights, form).astype(dtype), "weights"),
        onnx.numpy_helper.from_array(np.array([10], dtype), "ten"),
        onnx.numpy_helper.from_array(np.array([3 if last else 1]), "axis"),
    ]
    nodes = [
        helper.make_node("Mul", ["pixels", "weights"], ["weighted"]),
        helper.make_node("ReduceSum", ["weighted", "axis"], ["sum"], keepdims=keep),
        helper.make_node("Add", ["sum", "ten"], ["depth"]),
    ]
    inputs = [helper.make_tensor_value_info(name, kind, shape) for name in ("pixels", *extra)]
    outputs = [helper.make_tensor_value_info("depth", kind, [None] * (3 + keep))]
    model = helper.make_model(
        helper.make_graph(nodes, "depth", inputs, outputs, constants),
        opset_imports=[helper.make_opsetid("", 13)],
        ir_version=8,
    )
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def photo(height=40, width=60, seed=0):
    """Smooth, so that resizing there and back changes little."""
    small = np.random.default_rng(seed).uniform(0.1, 0.9, (5, 7, 3)).astype(np.float32)
    return resize(small, height, width)


def nearness_of(image, size, weights=(1.0, 2.0, 4.0), mean=IMAGENET_MEAN, std=IMAGENET_STD):
    """What the network above sees, by itself: NumPy, float64."""
    pixels = (resize(image, *size).astype(np.float64) - mean) / std
    near = pixels @ weights + 10
    near = (near - near.min()) / (near.max() - near.min())
    return resize(near[..., None].astype(np.float32), *image.shape[:2])[..., 0]


# --- one image


@pytest.mark.parametrize("size", [(40, 60), (28, 42), (64, 64)])
@pytest.mark.parametrize("keep", [0, 1])
def test_an_estimate_is_what_the_network_sees(tmp_path, size, keep):
    network = OnnxNetwork(write_network(tmp_path / "net.onnx", keep=keep))
    near = estimate(photo(), network, size)
    assert near.shape == (40, 60) and near.dtype == np.float32 and near.min() >= 0 and near.max() <= 1
    np.testing.assert_allclose(near, nearness_of(photo(), size), atol=1e-5)


def test_normalization_and_order_of_channels():
    inputs = []

    def network(pixels):
        inputs.append(pixels)
        return pixels[:, 0]

    image = np.float32([0.2, 0.5, 0.8]) * np.linspace(0.5, 1, 12, dtype=np.float32).reshape(3, 4, 1)
    estimate(image, network, (3, 4), mean=(0.1, 0.2, 0.3), std=(0.5, 2.0, 4.0))
    assert inputs[0].shape == (1, 3, 3, 4) and inputs[0].dtype == np.float32 and inputs[0].flags.c_contiguous
    expected = (image.astype(np.float64) - [0.1, 0.2, 0.3]) / [0.5, 2.0, 4.0]
    np.testing.assert_allclose(inputs[0][0], expected.transpose(2, 0, 1), atol=1e-6)


def test_distances_become_nearness():
    def distances(pixels):
        return 1 / (pixels[:, :1] + 5)

    def disparity(pixels):
        return pixels[:, :1] + 5

    first = estimate(photo(), distances, (40, 60), kind="depth")
    np.testing.assert_allclose(first, estimate(photo(), disparity, (40, 60)), atol=1e-5)


@pytest.mark.parametrize(
    ("form", "kind"),
    [
        ((1, 3, 28, 42), TensorProto.FLOAT),
        ((1, 28, 42, 3), TensorProto.FLOAT),
        (("batch", 3, "h", "w"), TensorProto.FLOAT16),
        (("batch", "h", "w", 3), TensorProto.FLOAT),
        (("batch", "channels", "h", "w"), TensorProto.FLOAT),
    ],
)
def test_layouts_of_networks(tmp_path, form, kind):
    network = OnnxNetwork(write_network(tmp_path / "net.onnx", form, kind=kind))
    assert network.size == ((28, 42) if 28 in form else None)
    tolerance = 5e-3 if kind == TensorProto.FLOAT16 else 1e-5
    np.testing.assert_allclose(estimate(photo(), network, (28, 42)), nearness_of(photo(), (28, 42)), atol=tolerance)


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (np.zeros((1, 2, 8, 8)), r"gives \(1, 2, 8, 8\)"),
        (np.zeros((1, 5)), r"gives \(1, 5\)"),
        (np.ones((1, 8, 8)), "constant"),
        (np.full((1, 8, 8), np.nan), "unknown everywhere"),
        (np.where(np.eye(8) > 0, np.inf, 1.0)[None], "unknown .* in 8 of 64"),
    ],
)
def test_what_is_no_map_is_an_error(output, message):
    with pytest.raises(UserError, match=message) as caught:
        estimate(photo(), lambda pixels: output, (8, 8))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("size", "shorter", "multiple", "expected"),
    [
        ((480, 640), 518, 14, (518, 686)),
        ((640, 480), 518, 14, (686, 518)),
        ((100, 100), 384, 32, (384, 384)),
        ((10, 1000), 14, 14, (14, 1400)),
        ((500, 741), 384, 32, (384, 576)),
        ((9, 9), 4, 32, (32, 32)),
    ],
)
def test_sizes(size, shorter, multiple, expected):
    assert size_for(*size, shorter, multiple) == expected


# --- the command


def run(*arguments):
    return run_here(depth.main, *arguments)


def make_folder(folder, count=3):
    folder.mkdir()
    for i in range(count):
        Image.fromarray(np.uint8(np.rint(255 * photo(40, 60, seed=i)))).save(folder / f"{i}.png")
    return folder


def test_maps_are_written_beside_images_and_training_reads_them(tmp_path):
    network, folder = write_network(tmp_path / "net.onnx"), make_folder(tmp_path / "photos")
    mine = np.arange(40 * 60, dtype=np.float32).reshape(40, 60)
    np.save(folder / "1.depth.npy", mine)
    done = run(folder, "--model", network, "--size", 28, "--multiple", 14)
    assert done.returncode == 0 and done.stdout == f"{folder}: 2 depth maps written, 1 existed\n"
    assert {file.name for file in folder.glob("*.depth.*")} == {"0.depth.png", "1.depth.npy", "2.depth.png"}
    source = load_depth_folder(folder)
    np.testing.assert_array_equal(source.companions["1.png"][..., 0], mine)
    image = source.images["2.png"] / np.float32(255)
    depth_map = read_depth(folder / "2.depth.png")
    np.testing.assert_allclose(depth_map / 65535, _stretched(nearness_of(image, (28, 42))), atol=1e-4)

    written = (folder / "0.depth.png").stat().st_mtime_ns
    again = run(folder, "--model", network)
    assert again.returncode == 0 and again.stdout == f"{folder}: all 3 images have a depth map\n"
    assert (folder / "0.depth.png").stat().st_mtime_ns == written


def _stretched(near):
    return (near - near.min()) / (near.max() - near.min())


def test_a_network_of_fixed_size_and_another_kind(tmp_path):
    network = write_network(tmp_path / "net.onnx", (1, 56, 28, 3), weights=(0.5, 0.0, 0.0))
    folder = make_folder(tmp_path / "photos", 1)
    done = run(folder, "--model", network, "--kind", "depth", "--mean", 0, 0, 0, "--std", 1, 1, 1)
    assert done.returncode == 0, done.stderr
    image = np.asarray(Image.open(folder / "0.png"), np.float32) / 255
    red = resize(image, 56, 28)[..., 0].astype(np.float64)
    expected = resize(_stretched(1 / (0.5 * red + 10))[..., None], 40, 60)[..., 0]
    np.testing.assert_allclose(read_depth(folder / "0.depth.png") / 65535, _stretched(expected), atol=1e-4)


def test_one_bad_image_is_counted_and_the_others_are_done(tmp_path):
    network, folder = write_network(tmp_path / "net.onnx"), make_folder(tmp_path / "photos")
    (folder / "0.png").write_bytes((folder / "0.png").read_bytes()[:300])
    Image.new("RGB", (20, 20)).save(folder / "black.png")
    done = run(folder, "--model", network, "--size", 28)
    assert done.returncode == 0 and done.stdout == f"{folder}: 2 depth maps written, 0 existed\n"
    (warning,) = [line for line in done.stderr.splitlines() if line.startswith("warning: ")]
    assert "2 of 4 images are left without a map: 0.png, black.png (0.png: cannot read image" in warning
    assert {file.name for file in folder.glob("*.depth.*")} == {"1.depth.png", "2.depth.png"}


def wrong_inputs(folder):
    return write_network(folder / "two.onnx", extra=("second",))


def wrong_channels(folder):
    return write_network(folder / "one.onnx", (1, 1, 8, 8), weights=(1.0,))


def no_network(folder):
    (folder / "text.onnx").write_text("not a network")
    return folder / "text.onnx"


def no_file(folder):
    return folder / "none.onnx"


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (no_file, (), "--model is"),
        (no_network, (), "ONNX Runtime cannot load it"),
        (wrong_inputs, (), "takes pixels tensor(float)"),
        (wrong_channels, (), "a depth network takes one image"),
        (None, ("--size", "0"), "--size is 0"),
        (None, ("--multiple", "5000"), "--multiple is 5000"),
        (None, ("--std", "1", "0", "1"), "--std is"),
        (None, ("--mean", "nan", "0", "1"), "--mean is"),
        (None, ("--kind", "metres"), "--kind"),
    ],
)
def test_mistakes_are_one_line(tmp_path, make, options, message):
    network = write_network(tmp_path / "net.onnx") if make is None else make(tmp_path)
    folder = make_folder(tmp_path / "photos", 1)
    done = run(folder, "--model", network, *options)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1 and message in done.stderr
    assert not list(folder.glob("*.depth.*"))


def test_folders_that_nothing_can_be_made_of(tmp_path):
    network = write_network(tmp_path / "net.onnx", (1, 3, 8, 8))
    done = run(tmp_path / "none", "--model", network)
    assert done.returncode == 2 and "no such folder" in done.stderr
    folder = make_folder(tmp_path / "photos", 1)
    done = run(folder, "--model", network, "--size", 28)
    assert done.returncode == 2 and "takes 8x8; leave them out" in done.stderr
    (folder / "0.png").write_bytes(b"no image")
    done = run(folder, "--model", network)
    assert done.returncode == 2 and "no depth map could be made of 1 images; 0.png: " in done.stderr
    assert "error: " in done.stderr.splitlines()[-1]


def test_a_network_that_fails_shows_at_once(tmp_path):
    network = OnnxNetwork(write_network(tmp_path / "net.onnx", (1, 3, 8, 8)))
    with pytest.raises(UserError, match=r"fails on 9x8 .*try another --size or --multiple") as caught:
        network(np.zeros((1, 3, 8, 9), np.float32))
    assert "\n" not in str(caught.value)


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # as if it were not installed
    with pytest.raises(UserError, match="pip install onnxruntime"):
        OnnxNetwork(write_network(tmp_path / "net.onnx"))
