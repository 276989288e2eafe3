"""Networks written as graphs: each does in ONNX Runtime and in LiteRT what it does in Keras, and is stored once."""

from __future__ import annotations

import functools
from collections import Counter

import keras
import numpy as np
import onnx
import pytest
from ai_edge_litert import schema_py_generated as schema
from conftest import UNET, VAE, make_base, make_model
from tiny import randomize

import codi_tf
from codi_tf.adapters.adapted import AdaptedUNet
from codi_tf.checkpoints.base import make_autoencoder, make_network, make_unet
from codi_tf.core.errors import UserError
from codi_tf.diffusion.sampling import make_grid
from codi_tf.models.activations import ACTIVATIONS
from codi_tf.models.layers import Conv2D
from codi_tf.models.text_encoder import TextEncoder
from codi_tf.models.tiny_decoder import TinyDecoder
from export.emit import adapted, networks, sampler
from export.emit.program import SamplerProgram
from export.formats import FORMATS
from export.formats.onnx import graph as onnx_graph
from export.formats.onnx import store as onnx_store
from export.formats.onnx.graph import OnnxGraph
from export.formats.onnx.write import stored_bytes as onnx_bytes
from export.formats.tflite import file as litert_file
from export.formats.tflite.delegate import KINDS
from export.formats.tflite.graph import LiteRtGraph
from export.formats.tflite.write import operators
from export.formats.tflite.write import stored_bytes as tflite_bytes
from export.quantization.weights import WeightFormats, dequantized

GRAPHS = {"onnx": OnnxGraph, "tflite": LiteRtGraph}
EVERY = pytest.mark.parametrize("format", GRAPHS)
TOLERANCE = 1e-5  # of the output's scale
H, W, D = 8, 12, 8  # a latent, and the prompt's width


@pytest.fixture
def random():
    return np.random.default_rng(0)


def written(format, folder, build, weights="float32"):
    """The file of a graph that `build` fills."""
    graph, path = GRAPHS[format](WeightFormats(weights)), folder / f"model.{format}"
    build(graph)
    graph.write(path)
    return path


def run(format, path, inputs) -> dict[str, np.ndarray]:
    if format == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        return dict(zip([o.name for o in session.get_outputs()], session.run(None, inputs), strict=True))
    from ai_edge_litert.interpreter import Interpreter

    return Interpreter(str(path)).get_signature_runner()(**inputs)


def same(made, expected, tolerance=TOLERANCE):
    expected = np.asarray(expected)
    assert made.shape == expected.shape and np.abs(expected).max() > 0.05
    np.testing.assert_allclose(made, expected, rtol=0, atol=tolerance * np.abs(expected).max())


VARIANTS = {
    "as Stable Diffusion 1": {},
    "as Stable Diffusion 2": {"use_linear_projection": True, "attention_head_dim": [1, 4], "upcast_attention": True},
    "with KerasCV's numerics": {"numerics": "keras_cv"},
    "one level": {
        "block_out_channels": [8],
        "down_block_types": ["CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D"],
    },
}


@EVERY
@pytest.mark.parametrize("variant", VARIANTS)
def test_unet(format, variant, tmp_path, random):
    unet = make_unet({**UNET, **VARIANTS[variant]})
    randomize(unet.variables)
    z, context = random.normal(size=(1, H, W, 4)).astype("f"), random.normal(size=(1, 77, D)).astype("f")

    def build(g):
        inputs = (
            g.input("z", (H, W, 4)),
            g.constant(networks.of_time(700, unet.time_embedding)),
            [],
            g.input("context", (77, D)),
        )
        g.output("out", adapted.evaluation(g, AdaptedUNet(unet), *inputs))

    path = written(format, tmp_path, build)
    made = run(format, path, {"z": z, "context": context})["out"]
    same(made, unet(z, np.array([700]), context))
    weights = sum(v.numpy().nbytes for v in unet.variables)
    assert weights <= {"onnx": onnx_bytes, "tflite": tflite_bytes}[format](path) < weights + 4000


@EVERY
@pytest.mark.parametrize("adapter", ["mu", "controlnet", "t2i"])
@pytest.mark.parametrize("task", ["super_resolution", pytest.param("inpainting", marks=pytest.mark.slow)])
def test_the_whole_sampler_with_every_adapter(format, adapter, task, tmp_path, random):
    model = codi_tf.CoDi(make_base(), adapter=adapter, task=task, image_size=16)
    randomize(model.student.adapter.variables)
    condition = random.random((16, 24, model.task.condition_channels)).astype("f")
    condition[..., 3:] = condition[..., 3:] > 0.5
    program = SamplerProgram(model, steps=2, height=16, width=24)
    path = written(format, tmp_path, functools.partial(sampler.whole, program=program))
    noise = codi_tf.core.noise.gaussian_noise(0, model.latent_shape(1, 16, 24))
    made = run(format, path, {"condition": condition[None], "noise": noise})["image"]
    same(made[0], model.generate(condition, steps=2) / 255, 1.01 / 255)


@EVERY
def test_a_model_of_guided_distillation_is_told_its_guidance(format, tmp_path, random):
    tuned = make_model(make_base(), method=codi_tf.Finetune(drop_condition=0.1))
    method = codi_tf.Guided(stage=1, guidance=[2.0, 4.0])
    model = codi_tf.CoDi(tuned.base, tuned.student.adapter, method=method, image_size=16)
    randomize([v for v in model.student.unet.variables if "cond_proj" in v.path])
    condition = random.random((16, 16, 3)).astype("f")
    path = written(format, tmp_path, emitted(model, 1, width=16))
    noise = codi_tf.core.noise.gaussian_noise(0, model.latent_shape(1, 16, 16))
    made = run(format, path, {"condition": condition[None], "noise": noise})["image"]
    same(made[0], model.generate(condition, steps=1, guidance=2.0) / 255, 1.01 / 255)


@EVERY
def test_autoencoder_with_attention(format, tmp_path, random):
    vae = make_autoencoder({**VAE, "mid_block_add_attention": True, "scaling_factor": 1.0})
    randomize(vae.variables)
    image = random.uniform(-1, 1, (1, 16, 24, 3)).astype("f")

    def build(g):
        latents = g.conv(networks.coder(g, vae.encoder, g.input("image", (16, 24, 3))), vae.quant_conv)
        mean = g.channels(latents, 0, 4)
        g.output("mean", mean)
        g.output("again", networks.coder(g, vae.decoder, g.conv(mean, vae.post_quant_conv)))

    made, mean = run(format, written(format, tmp_path, build), {"image": image}), vae.encode(image).mean
    same(made["mean"], mean)
    same(made["again"], vae.decode(mean))


@EVERY
@pytest.mark.parametrize("blocks", [(2, 1, 1), (1,)], ids=["two enlargements", "none"])
def test_tiny_decoder(format, blocks, tmp_path, random):
    """On latents that are mostly beyond what the decoder bounds them to; a convolution without bias has none stored."""
    options = {"decoder_block_out_channels": (16,) * len(blocks), "num_decoder_blocks": blocks}
    net = make_network(TinyDecoder, options, "decoder")
    randomize(net.variables)
    z = (4 * random.normal(size=(1, 6, 10, 4))).astype("f")

    def build(g):
        g.output("image", networks.tiny_decoder(g, net, g.input("z", (6, 10, 4))))

    path = written(format, tmp_path, build)
    same(run(format, path, {"z": z})["image"], net(z))
    weights = sum(v.numpy().nbytes for v in net.variables)
    assert weights <= {"onnx": onnx_bytes, "tflite": tflite_bytes}[format](path) < weights + 300


@EVERY
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_text_encoder(format, activation, tmp_path, random):
    options = {"vocab_size": 50, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    net = TextEncoder(num_attention_heads=2, hidden_act=activation, name="text", **options)
    net.build()
    randomize(net.variables)
    ids = random.integers(0, 50, 77).astype("int32")

    def build(g):
        g.output("states", networks.text_encoder(g, net, g.input("ids", (77,), "int32")))

    same(run(format, written(format, tmp_path, build), {"ids": ids})["states"], net(ids[None]))


def test_the_steps_are_those_of_the_sampler():
    """z <- a z + b v with v of a Gaussian's own, in closed form: the last z is that of few_step."""
    model = make_model(make_base())
    schedule = model.base.schedule
    steps = sampler.step_numbers(model, make_grid("ddim", schedule, 4))
    assert [step.t for step in steps] == [999, 749, 499, 249]
    z = 1.3
    for step in steps:
        alpha, sigma = float(schedule.alpha[step.t]), float(schedule.sigma[step.t])
        x_hat = 0.25 * alpha * z / (0.25 * alpha**2 + sigma**2)  # x ~ N(0, 0.25)
        z = step.a * z + step.b * (alpha * z - x_hat) / sigma

    def denoise(z_t, t):
        from codi_tf.diffusion.process import predict

        alpha, sigma = schedule.alpha[int(t)], schedule.sigma[int(t)]
        x_hat = 0.25 * alpha * z_t / (0.25 * alpha**2 + sigma**2)
        return predict((alpha * z_t - x_hat) / sigma, z_t, alpha, sigma, "v_prediction")

    expected = codi_tf.diffusion.sampling.few_step(denoise, np.float32([1.3]), schedule, 4)
    assert z == pytest.approx(float(expected[0]), rel=1e-4)


# How files are made


@pytest.fixture(scope="module")
def model():
    return make_model(make_base())


def emitted(model, steps, width=24):
    program = SamplerProgram(model, steps=steps, height=16, width=width)
    return functools.partial(sampler.whole, program=program)


@EVERY
def test_a_step_more_stores_no_weight_more(model, format, tmp_path):
    stored = {"onnx": onnx_bytes, "tflite": tflite_bytes}[format]
    one, three = (stored(written(format, tmp_path, emitted(model, steps))) for steps in (1, 3))
    assert one < three < one + 500  # the features of times, a and b


def test_a_step_more_is_no_node_more_and_the_prompt_is_looked_at_once(model, tmp_path):
    """Steps are a loop, and keys and values of the prompt, which do not depend on z_t, are computed before it."""
    graphs = [onnx.load(written("onnx", tmp_path, emitted(model, steps))).graph for steps in (2, 3)]
    assert [n.op_type for n in graphs[0].node] == [n.op_type for n in graphs[1].node]
    (body,) = onnx_graph.bodies(graphs[0].node)
    blocks = sum(len(b.attentions) for b in (*model.network.unet.down_blocks, *model.network.unet.up_blocks)) + 1
    # q, k, v; q alone of the attention to the prompt
    counts = Counter(n.op_type for n in body.node)
    assert counts["MatMul"] == 4 * blocks and counts["MultiHeadAttention"] == 2 * blocks


def test_steps_are_a_loop_in_litert(model, tmp_path, random):
    """Catches steps that are written again, a prompt that each looks at again, and a round that takes another's row."""
    inputs = {"condition": random.random((1, 16, 24, 3)).astype("f"), "noise": random.normal(size=(1, 4, 6, 4))}
    inputs["noise"] = inputs["noise"].astype("f")
    paths, images = {}, {}
    for steps, unrolled in ((2, False), (5, False), (5, True)):
        graph = LiteRtGraph()
        graph.unrolled = unrolled
        emitted(model, steps)(graph)
        paths[steps, unrolled] = path = tmp_path / f"{steps}-{unrolled}.tflite"
        graph.write(path)
        images[steps, unrolled] = run("tflite", path, inputs)["image"]
    np.testing.assert_allclose(images[5, False], images[5, True], rtol=0, atol=1e-6)
    assert np.abs(images[5, False] - images[2, False]).max() > 1e-3
    sizes = {key: path.stat().st_size for key, path in paths.items()}
    assert sizes[2, False] < sizes[5, False] < sizes[2, False] + 1000 < sizes[5, True] - 50_000
    two, five = (operators(paths[steps, False]) for steps in (2, 5))
    assert two == five and five["WHILE"] == 1
    file = schema.ModelT.InitFromPackedBuf(paths[5, False].read_bytes(), 0)
    _, _, body = file.subgraphs  # after the main graph and the loop's condition
    kinds = Counter(KINDS[file.operatorCodes[made.opcodeIndex].builtinCode] for made in body.operators)
    unet = model.network.unet
    parts = (*unet.down_blocks, *unet.up_blocks, unet.mid_block)
    blocks, resnets = (sum(len(getattr(part, name)) for part in parts) for name in ("attentions", "resnets"))
    # q, k, v and the output; q and the output of the attention to the prompt; two in and two after it
    assert kinds["FULLY_CONNECTED"] == 10 * blocks + 2 + resnets and kinds["SOFTMAX"] == 2 * blocks


def test_a_step_of_parts_knows_nothing_of_their_number(model, tmp_path):
    """Catches a graph of one step that grows with the steps, which a host makes by calling it again."""
    written_for = []
    for steps in (1, 4):
        program = SamplerProgram(model, steps=steps, height=16, width=24)
        path = written("tflite", tmp_path, functools.partial(sampler.denoiser, program=program))
        written_for.append(path.read_bytes())
    assert written_for[0] == written_for[1]


def test_maps_keep_their_layout(model, tmp_path):
    """Transposes of maps stand at the edges alone, before inputs' and after outputs' first use."""
    graph = onnx.load(written("onnx", tmp_path, emitted(model, 2))).graph
    (body,) = onnx_graph.bodies(graph.node)
    of_maps = [n for n in (*graph.node, *body.node) if n.op_type == "Transpose" and len(n.attribute[0].ints) == 4]
    assert [n.input[0] for n in of_maps[:2]] == ["condition", "noise"]
    assert [n.output[0] for n in of_maps[2:]] == ["image"]


@pytest.mark.parametrize(
    "format, weights, error",
    [
        (format, kind, {"float16": 2e-3, "int4": 0.6, "int4_channel": 0.6}.get(kind, 0.1))
        for format in GRAPHS
        for kind in FORMATS[format].weight_formats
        if kind != "float32"
    ],
)
def test_smaller_weights(model, format, weights, error, tmp_path, random):
    stored = {"onnx": onnx_bytes, "tflite": tflite_bytes}[format]
    inputs = {
        "condition": random.random((1, 16, 24, 3)).astype("f"),
        "noise": random.normal(size=(1, 4, 6, 4)).astype("f"),
    }
    (tmp_path / "full").mkdir()
    full, small = (
        written(format, tmp_path / "full", emitted(model, 2)),
        written(format, tmp_path, emitted(model, 2), weights),
    )
    made, expected = (run(format, path, inputs)["image"] for path in (small, full))
    assert 0 < np.abs(made - expected).max() < error
    kernels = sum(
        v.numpy().nbytes
        for v in SamplerProgram(model, steps=1, height=16, width=16).variables_in_use()
        if v.name == "kernel"
    )
    assert stored(small) < stored(full) - 0.35 * kernels
    assert stored(small) == pytest.approx(
        WeightFormats(weights).bytes(SamplerProgram(model, steps=1, height=16, width=16).variables_in_use()), rel=0.06
    )


ROUNDING = ("int8", "int4_channel")  # with these, activations are rounded, too
EXACT = [(format, kind) for format in GRAPHS for kind in FORMATS[format].weight_formats if kind not in ROUNDING]


@pytest.mark.parametrize("format, kind", EXACT)
def test_what_a_runtime_reads_of_a_kernel(format, kind, tmp_path, random):
    """A kernel of a product and one of a convolution, seen through the identity: `weights.dequantized`, exactly."""
    dense, conv = keras.layers.Dense(120, use_bias=False), Conv2D(36, 3)
    dense.build((None, 36)), conv.build((None, 8, 8, 36))
    randomize([dense.kernel, conv.kernel])
    pixels = np.zeros((3, 3, 36), "f")
    pixels[1, 1, 5] = 1

    def build(g):
        g.output("rows", g.dense(g.input("rows_in", (36, 36)), dense))
        g.output("map", g.conv(g.input("map_in", (3, 3, 36)), conv))

    path = written(format, tmp_path, build, kind)
    made = run(format, path, {"rows_in": np.eye(36, dtype="f")[None], "map_in": pixels[None]})
    left = [dequantized(kernel.numpy(), kind) for kernel in (dense.kernel, conv.kernel)]
    np.testing.assert_allclose(made["rows"][0], left[0], rtol=0, atol=1e-6)
    np.testing.assert_allclose(made["map"][0], left[1][::-1, ::-1, 5], rtol=0, atol=1e-6)
    if kind != "float32":
        assert 0 < np.abs(left[0] - dense.kernel.numpy()).max() < {"int4": 0.2}.get(kind, 0.01)


def test_large_weights_lie_in_files_of_bounded_size(model, tmp_path, random, monkeypatch):
    inputs = {
        "condition": random.random((1, 16, 24, 3)).astype("f"),
        "noise": random.normal(size=(1, 4, 6, 4)).astype("f"),
    }
    expected = run("onnx", written("onnx", tmp_path, emitted(model, 1)), inputs)["image"]
    monkeypatch.setattr(onnx_graph, "INLINE", 0)
    monkeypatch.setattr(onnx_store, "MAX_FILE", 60_000)
    (tmp_path / "apart").mkdir()
    path = written("onnx", tmp_path / "apart", emitted(model, 1))
    sizes = [file.stat().st_size for file in sorted(path.parent.glob("*.data"))]
    assert len(sizes) > 1 and max(sizes) <= 60_000 and path.stat().st_size < 200_000
    np.testing.assert_array_equal(run("onnx", path, inputs)["image"], expected)
    assert onnx_bytes(path) == onnx_bytes(tmp_path / "model.onnx")


def test_a_file_that_phones_cannot_hold_is_refused(model, tmp_path, monkeypatch):
    monkeypatch.setattr(litert_file, "MAX_FILE", 100_000)
    with pytest.raises(UserError, match=r"model.tflite would be 0.0 GiB: a LiteRT file holds less than 2"):
        written("tflite", tmp_path, emitted(model, 1))
    assert not list(tmp_path.iterdir())


def test_litert_has_built_in_operators_alone(model, tmp_path):
    kinds = operators(written("tflite", tmp_path, emitted(model, 1)))
    assert kinds["CONV_2D"] > 30 and not [kind for kind in kinds if kind.startswith("CUSTOM")]
