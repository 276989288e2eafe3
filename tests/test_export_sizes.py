"""Packages of several sizes: the weights are held once, each size does what Keras does, the runner takes what fits."""

import json
from collections import Counter

import numpy as np
import onnx
import pytest
from commands import run_here
from conftest import make_base, make_model
from PIL import Image
from tiny import randomize

import codi_tf
from codi_tf.core.errors import UserError
from codi_tf.core.noise import gaussian_noise
from export import __main__ as export
from export import build as making
from export.emit.program import SamplerProgram
from export.formats import FORMATS
from export.formats.onnx import products as onnx_products
from export.formats.onnx.graph import bodies
from export.package import adapters
from export.package import manifest as package
from export.quantization.weights import WeightFormats
from export.runtime import run
from export.runtime.sampler import load_any

SIZES = [(16, 16), (16, 32)]
EVERY = pytest.mark.parametrize(
    "format, layout, weights",
    [
        ("saved_model", "whole", "float32"),
        ("onnx", "whole", "float16"),
        ("onnx", "parts", "int8"),
        ("tflite", "whole", "float32"),
        ("tflite", "parts", "int8"),
    ],
)


@pytest.fixture(scope="module")
def model(bundle):
    return codi_tf.load(bundle)


def weight_bytes(made: package.Package) -> int:
    """Of all constants in a package's files; of ONNX of those beside them, at whatever place they lie."""
    paths = {graph.path for size in made.sizes for graph in size.graphs.values()}
    if made.format != "onnx":
        return sum(FORMATS[made.format].stored_bytes(path) for path in paths)
    graphs = [onnx.load(path, load_external_data=False).graph for path in paths]
    places = [
        {entry.key: entry.value for entry in tensor.external_data}
        for graph in (*graphs, *bodies([node for graph in graphs for node in graph.node]))
        for tensor in graph.initializer
    ]
    return sum({(at["location"], at["offset"]): int(at["length"]) for at in places if at}.values())


def bytes_of(folder) -> int:
    return sum(file.stat().st_size for file in folder.iterdir() if file.is_file())


@EVERY
def test_every_size_does_what_the_model_does(model, bundle, tmp_path, format, layout, weights):
    steps = 2 if format == "onnx" else 1  # in ONNX a loop, which holds weights of its own
    options = {"format": format, "layout": layout, "weights": weights, "steps": steps}
    figures = making.make_package(bundle, tmp_path / "several", sizes=SIZES, **options)
    made = package.read_package(tmp_path / "several")
    assert [tuple(size["size"]) for size in figures] == [(s.height, s.width) for s in made.sizes] == SIZES
    wanted = WeightFormats(weights).bytes((*model.network.variables, *model.base.vae.variables))
    assert 0.6 * wanted < weight_bytes(made) < 1.4 * wanted  # the UNet alone, stored a second time, would make it 1.5
    for size in made.sizes:
        condition = np.random.default_rng(3).random((1, size.height, size.width, 3), dtype=np.float32)
        noise = gaussian_noise(4, size.latent_shape)
        latents = model.sample_latents(model.base.encode(2 * condition - 1), noise, steps=steps)
        expected = np.clip((model.base.decode(latents).numpy() + 1) / 2, 0, 1)
        off = np.abs(load_any(size)(condition, noise) - expected)
        assert expected.std() > 0.05 and off.max() < {"float32": 1e-4, "float16": 5e-3, "int8": 0.15}[weights]
    with pytest.raises(UserError, match="--size is 8x8: .*several has 16x16, 16x32"):
        made.at(8, 8)
    report = json.loads((tmp_path / "several" / "report.json").read_text())
    assert [about["parity"]["size"] for about in (report, *report["other_sizes"])] == [list(size) for size in SIZES]
    assert (tmp_path / "several" / "report.md").read_text().count("Against the Keras model") == 2


def test_a_kernel_may_lie_otherwise_at_another_size(model, tmp_path, monkeypatch):
    """Of ONNX in int8: convolutions of small maps gather their windows, those of large ones widen their kernel."""
    program = SamplerProgram(model, steps=1, height=16, width=16)
    monkeypatch.setattr(onnx_products, "COLUMNS", 9 * 8 * 16 * 16)  # between what a layer of either size takes
    figures = making.write_package(
        [program, program.at(32, 32)], tmp_path / "out", format="onnx", weights="int8", report=False
    )
    assert len(figures) == 2
    graphs = [onnx.load(size.graphs["sampler"].path).graph for size in package.read_package(tmp_path / "out").sizes]
    kinds = [Counter(node.op_type for node in graph.node) for graph in graphs]
    assert kinds[0]["MatMulInteger"] > kinds[1]["MatMulInteger"] > 0 and kinds[1]["Conv"] > kinds[0]["Conv"]


def test_the_runner_takes_the_size_that_fits(bundle, tmp_path):
    out = tmp_path / "package"
    words = (bundle, "--format", "onnx", "--steps", "1", "--size", "16,16x32,32x16", "--out", out)
    done = run_here(export.main, *words)
    assert done.returncode == 0, done.stderr
    assert [line.split(":")[0] for line in done.stdout.splitlines() if "held-out photos" in line] == [
        "16x16",
        "16x32",
        "32x16",
    ]
    sizes = {
        (30, 64): "tiles of 32x16",
        (64, 30): "tiles of 16x32",
        (9, 9): "computed at 16x16",
        (64, 64): "tiles of 16x16",
    }
    for (height, width), made in sizes.items():
        Image.fromarray(np.full((height, width, 3), 90, "uint8")).save(tmp_path / "in.png")
        words = (out, "--condition", tmp_path / "in.png", "--out", tmp_path / "out.png")
        done = run_here(run.main, *words)
        assert done.stdout.startswith(f"{tmp_path / 'out.png'}: {width}x{height}, ") and made in done.stdout
        assert Image.open(tmp_path / "out.png").size == (width, height)


@pytest.mark.parametrize("format", ["onnx", "tflite"])
def test_an_adapter_comes_in_all_sizes(tmp_path, format):
    base = make_base()
    models = [make_model(base, train="adapter") for _ in range(2)]
    randomize(models[1].student.adapter.variables)
    for name, one in zip("ab", models, strict=True):
        one.save(tmp_path / f"bundle-{name}")
    options = {"format": format, "layout": "parts", "steps": 1, "sizes": SIZES[:2], "report": False}
    for name in "ab":
        making.make_package(tmp_path / f"bundle-{name}", tmp_path / name, **options)
    making.make_adapter(tmp_path / "bundle-b", tmp_path / "plug", package=tmp_path / "a", report=False)
    plugged = adapters.with_adapter(package.read_package(tmp_path / "a"), tmp_path / "plug")
    for size, own in zip(plugged.sizes, package.read_package(tmp_path / "b").sizes, strict=True):
        condition = np.random.default_rng(3).random((size.height, size.width, 3), dtype=np.float32)
        images = [run.generate(run.load(one), condition, seed=1) for one in (size, own)]
        np.testing.assert_array_equal(*images)
    assert bytes_of(tmp_path / "plug") < 0.7 * bytes_of(tmp_path / "b")
