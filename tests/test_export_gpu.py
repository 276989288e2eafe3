"""LiteRT files for the GPU delegate: what it takes, by its own list, and the same image."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from conftest import make_base
from tiny import randomize

import codi_tf
from codi_tf.core.errors import UserError
from codi_tf.core.noise import gaussian_noise
from export.build import write_package
from export.emit import sampler
from export.emit.program import SamplerProgram
from export.formats.form import Form
from export.formats.tflite.delegate import faults
from export.formats.tflite.gpu import GpuGraph
from export.formats.tflite.graph import LiteRtGraph
from export.formats.tflite.write import operators
from export.package.manifest import read_manifest
from export.quantization.weights import WeightFormats

SLOW = pytest.mark.slow


def written(kind, path, build, weights="float32"):
    graph = kind(WeightFormats(weights))
    build(graph)
    graph.write(path)
    return path


@pytest.mark.parametrize("adapter", ["mu", pytest.param("t2i", marks=SLOW), pytest.param("controlnet", marks=SLOW)])
def test_a_sampler_is_clean_and_gives_the_same_image(adapter, tmp_path):
    """Catches rows as batches, tensors of other than 4 axes, and a broadcast that the delegate does not know."""
    model = codi_tf.CoDi(make_base(), adapter=adapter, task="super_resolution", image_size=16)
    randomize(model.student.adapter.variables)
    program = SamplerProgram(model, steps=1, height=16, width=24)
    emit = functools.partial(sampler.whole, program=program)
    gpu, plain = (written(kind, tmp_path / f"{kind.__name__}.tflite", emit) for kind in (GpuGraph, LiteRtGraph))
    assert faults(gpu) == []
    assert any(fault.startswith("FULLY_CONNECTED of [") for fault in faults(plain))
    inputs = {"condition": np.random.default_rng(0).random((1, 16, 24, 3)).astype("f")}
    inputs["noise"] = gaussian_noise(0, program.latent_shape)
    images = [Interpreter(str(path)).get_signature_runner()(**inputs)["image"] for path in (gpu, plain)]
    assert np.std(images[0]) > 0.01
    np.testing.assert_allclose(*images, rtol=0, atol=1e-5)


def test_weights_of_half_precision_are_clean(tmp_path):
    """Catches a widened weight that is taken for a map."""
    model = codi_tf.CoDi(make_base(), image_size=16)
    program = SamplerProgram(model, steps=1, height=16, width=16)
    emit = functools.partial(sampler.denoiser, program=program)
    path = written(GpuGraph, tmp_path / "step.tflite", emit, "float16")
    assert faults(path) == [] and operators(path)["DEQUANTIZE"] > 5


def test_what_the_delegate_does_not_take_is_named(tmp_path):
    """Catches a rule that finds nothing: one graph breaks each."""

    def build(g):
        x, row = g.input("map", (4, 6, 1)), g.input("row", (6,))
        g.output("sorted", g.order_statistics(x, [2])[0])
        g.output("outer", g._binary("MUL", g.reshaped(x, (1, 4, 6, 1), x.shape), row, (1, 4, 6, 6), (4, 6, 6)))
        turned = g.transposed(x, [0, 3, 1, 2], (1, 1, 4, 6), ())
        g.output("rows", g.operator("RELU", [g.reshaped(turned, (4, 6), (4, 6))], (4, 6), (4, 6)))

    path = written(GpuGraph, tmp_path / "model.tflite", build)
    found = faults(path)
    assert "TOPK_V2" in found and "RELU of [4, 6], only of [1, H, W, C]" in found
    assert "MUL of [1, 4, 6, 1] and [1, 1, 1, 6], only of a second that is 1 along axes" in found


@SLOW
def test_the_profile_is_an_option_of_the_export(tmp_path):
    """Catches a package whose graphs are the processor's, and a refusal that names no operator or leaves files."""
    model = codi_tf.CoDi(make_base(), task="super_resolution", image_size=16)
    model.student.adapter.mu.assign(np.linspace(-0.3, 0.6, model.student.adapter.mu.shape[0]))
    program = SamplerProgram(model, steps=1, height=16, width=16)
    options = {"format": "tflite", "layout": "parts", "form": Form("gpu"), "report": False}
    write_package([program], tmp_path / "package", **options)
    assert all(faults(path) == [] for path in (tmp_path / "package").glob("*.tflite"))
    assert read_manifest(tmp_path / "package")["profile"] == "gpu"
    model = codi_tf.CoDi(make_base(), task="depth", image_size=16)
    program = SamplerProgram(model, steps=1, height=16, width=16)
    with pytest.raises(UserError, match="--profile gpu: encoder: LiteRT's GPU delegate does not take .*; leave it"):
        write_package([program], tmp_path / "depth", **options)
    assert [path.name for path in tmp_path.iterdir()] == ["package"]
    with pytest.raises(UserError, match="weights is 'int8': profile gpu takes float32 or float16"):
        write_package([program], tmp_path / "int8", **options, weights="int8")
