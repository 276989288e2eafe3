"""How kernels are kept: what is left of them, what it costs, and which of them an image needs how exactly."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

from codi_tf.core.errors import UserError
from codi_tf.models.layers import Conv2D
from export.emit.counting import Counting
from export.emit.sampler import parts
from export.formats import FORMATS
from export.formats.onnx.graph import OnnxGraph
from export.formats.tflite.graph import LiteRtGraph
from export.formats.tflite.write import stored_bytes
from export.quantization import mixed, weights
from export.quantization.weights import (
    FOUR_BITS,
    WEIGHT_FORMATS,
    WeightFormats,
    block_size,
    dequantized,
    is_quantized,
    quantize_int4,
)

pytest_plugins = ["export_cases"]


@pytest.fixture
def kernel():
    return np.random.default_rng(0).normal(size=(3, 3, 40, 24)).astype("float32")


@pytest.mark.parametrize(
    "kind, error", [("float32", 0), ("float16", 5e-4), ("int8", 8e-3), ("int4", 0.12), ("int4_channel", 0.12)]
)
def test_what_is_left_of_a_kernel(kernel, kind, error):
    left = dequantized(kernel, kind)
    off = np.sqrt(np.mean(np.square(left - kernel)) / np.mean(np.square(kernel)))
    assert left.shape == kernel.shape and left.dtype == np.float32
    assert error / 4 <= off <= error
    np.testing.assert_array_equal(left if "int4" in kind else dequantized(left, kind), left)  # nothing more is lost


def test_a_scale_belongs_to_one_output_channel(kernel):
    """A channel of large weights does not coarsen the others."""
    before = dequantized(kernel, "int8")
    kernel[..., 3] *= 1000
    np.testing.assert_array_equal(np.delete(dequantized(kernel, "int8"), 3, -1), np.delete(before, 3, -1))


def test_four_bits_clip_where_it_pays():
    """Of 63 small weights and a large one, rounding all by the largest is worse than cutting it; and never worse."""
    random = np.random.default_rng(0)
    rows = random.normal(size=(200, 128)).astype("float32")
    numbers, scales = quantize_int4(rows)
    assert numbers.shape == (200, 2, 64) and numbers.min() >= -8 and numbers.max() <= 7
    blocks = rows.reshape(200, 2, 64)
    largest = np.abs(blocks).max(2) / 7
    plain = np.clip(np.rint(blocks / largest[..., None]), -8, 7) * largest[..., None]
    ours, theirs = (np.square(x - blocks).sum(2) for x in (numbers * scales[..., None], plain))
    assert (ours <= theirs * 1.0001).all() and ours.sum() < 0.97 * theirs.sum()


@pytest.mark.parametrize("channels, filters, window, stride", [(33, 31, 3, 1), (64, 40, 3, 2), (33, 31, 1, 1)])
def test_litert_computes_with_four_bits(channels, filters, window, stride, tmp_path, monkeypatch):
    """Catches halves of bytes that change places, rows that share a byte, and a scale of another channel."""
    monkeypatch.setattr(weights, "MIN_SIZE", 256), monkeypatch.setattr(weights, "MIN_SIZE_INT4", 256)
    random = np.random.default_rng(0)
    conv, dense = Conv2D(filters, window, strides=stride), keras.layers.Dense(filters)
    conv.build((None, 8, 8, channels)), dense.build((None, channels))
    x = random.normal(size=(1, 8, 8, channels)).astype("f")
    for layer in (conv, dense):
        layer.kernel.assign(random.normal(size=layer.kernel.shape) * np.geomspace(0.1, 10, filters))
    graph = LiteRtGraph(WeightFormats("int4_channel"))
    graph.output("map", graph.conv(graph.input("x", (8, 8, channels)), conv))
    graph.output("rows", graph.dense(graph.input("r", (64, channels)), dense))
    graph.write(tmp_path / "model.tflite")
    made = Interpreter(str(tmp_path / "model.tflite")).get_signature_runner()(x=x, r=x.reshape(1, 64, channels))
    size = sum(-(-layer.kernel.numpy().size // 2) + 4 * filters for layer in (conv, dense))
    assert size <= stored_bytes(tmp_path / "model.tflite") < size + 600
    for layer in (conv, dense):
        layer.kernel.assign(dequantized(layer.kernel.numpy(), "int4_channel"))
    for name, expected in (("map", conv(x)), ("rows", dense(x.reshape(1, 64, channels)))):
        off = np.square(made[name] - expected).mean(axis=tuple(range(made[name].ndim - 1)))
        assert (off < 2e-4 * np.var(expected, axis=tuple(range(made[name].ndim - 1)))).all()  # activations have 8 bits


def test_short_rows_have_short_blocks():
    assert [block_size(width) for width in (3, 16, 17, 36, 64, 1000)] == [16, 16, 32, 64, 64, 64]
    numbers, scales = quantize_int4(np.ones((2, 36), "float32"))
    assert numbers.shape == (2, 1, 64) and not numbers[:, :, 36:].any() and scales.shape == (2, 1)


@pytest.mark.parametrize("kind", WEIGHT_FORMATS)
@pytest.mark.parametrize("count, narrow", [(1023, {}), (4095, dict.fromkeys(FOUR_BITS, "float16")), (4096, None)])
def test_small_kernels_keep_their_bits(kind, count, narrow):
    """Under 1024 numbers float32; under 4096 at least eight bits or float16; biases always float32."""
    kernel = keras.Variable(np.zeros((1, count)), name="kernel")
    expected = {**dict.fromkeys(WEIGHT_FORMATS, "float32")} if narrow == {} else narrow or {}
    assert WeightFormats(kind)(kernel) == expected.get(kind, kind)
    assert WeightFormats(kind)(keras.Variable(np.zeros((1, count)), name="bias")) == "float32"


@pytest.fixture
def one_image(monkeypatch):
    """The scan looks at one photo: these tests are about what it does with what it sees."""
    monkeypatch.setattr(mixed, "IMAGES", 1)


def test_mixed_weights_for_a_size(program, one_image):
    """Within the size; better than the same kinds the other way round; the model keeps its kernels."""
    before = [v.numpy() for v in program.variables_in_use()]
    whole = {kind: WeightFormats(kind).bytes(program.variables_in_use()) for kind in ("float16", "int4")}
    size = 0.4 * whole["float16"] + 0.6 * whole["int4"]
    keep = mixed.choose(program, FORMATS["onnx"].mixed_formats, size=size)
    assert 0.9 * size < keep.bytes(program.variables_in_use()) <= size
    assert set(keep.exceptions.values()) <= {"int8_weight_only", "int4"} and keep.default == "float16"
    for variable, value in zip(program.variables_in_use(), before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)
    images, kernels = mixed._Images(program), [v for v in program.variables_in_use() if is_quantized(v)]
    reverse = WeightFormats("float16", _other_way_round(keep, kernels))  # the same kinds, where they cost most
    assert images.psnr(keep, kernels) > images.psnr(reverse, kernels) + 3
    with pytest.raises(UserError, match=r"--target-size: 0.0 MB is too little; the weights take 0\.\d MB at least"):
        mixed.choose(program, FORMATS["onnx"].mixed_formats, size=1000)


def _other_way_round(keep, kernels) -> dict:
    kinds = [keep(kernel) for kernel in kernels]
    return {kernel.path: kind for kernel, kind in zip(kernels, reversed(kinds), strict=True)}


def test_mixed_weights_for_a_psnr(program, one_image):
    kernels = [v for v in program.variables_in_use() if is_quantized(v)]
    keep, images = mixed.choose(program, FORMATS["onnx"].mixed_formats, psnr=45.0), mixed._Images(program)
    assert 45 + mixed.MARGIN <= images.psnr(keep, kernels) < 60
    assert keep.bytes(program.variables_in_use()) < WeightFormats("float16").bytes(program.variables_in_use())
    with pytest.raises(UserError, match="--min-psnr: float16 weights already miss 200 dB"):
        mixed.choose(program, FORMATS["onnx"].mixed_formats, psnr=200.0)


def test_work_is_counted():
    """Closed forms: a convolution, rows, attention; and a sampler whose parameters are those of its networks."""
    conv, dense = Conv2D(5, 3, strides=2), keras.layers.Dense(6)
    conv.build((None, 8, 12, 4)), dense.build((None, 4))
    graph = Counting(OnnxGraph())
    graph.conv(graph.input("map", (8, 12, 4)), conv)
    assert graph.multiply_adds == 4 * 6 * 5 * 9 * 4 and graph.parameters == 9 * 4 * 5 + 5
    rows = graph.dense(graph.input("rows", (7, 4)), dense)
    graph.attention(rows, rows, rows, 2)
    assert graph.multiply_adds == 4 * 6 * 5 * 9 * 4 + 7 * 4 * 6 + 7 * 7 * 12


def test_the_parameters_of_the_parts_are_those_of_the_model(program):
    counted = {}
    for name, emit in parts(program).items():
        counted[name] = Counting(OnnxGraph())
        emit(counted[name], program)
    vae, network = program.model.base.vae, program.model.network

    def count(*parts) -> int:
        return sum(int(np.prod(v.shape)) for part in parts for v in part.variables)

    assert counted["step"].parameters == count(network.unet)
    assert counted["encoder"].parameters == count(network.adapter, vae.encoder, vae.quant_conv)
    assert counted["decoder"].parameters == count(vae.decoder, vae.post_quant_conv)
