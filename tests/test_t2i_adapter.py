"""T2I-Adapter: diffusers' T2IAdapter alone and inside its UNet, its folder in and out, and what a new one does."""

from __future__ import annotations

import inspect

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from battery import NetworkBattery
from conftest import SCHEDULER, UNET, VAE, make_base
from tiny import randomize

import codi_tf
from codi_tf.adapters.adapted import AdaptedUNet
from codi_tf.adapters.t2i import T2I_ADAPTER, T2IAdapter, load_t2i_adapter
from codi_tf.checkpoints.base import Base, make_autoencoder
from codi_tf.core.errors import UserError
from codi_tf.diffusion.conditioning import Conditioning
from codi_tf.io.json_files import read_json, write_json
from codi_tf.io.weights import shapes_of, state_dict
from codi_tf.models.unet import UNet

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
torch.set_num_threads(1)

from test_parity import SD1, SD2, close, inputs, randomized, same_weights  # noqa: E402

RANDOM = np.random.default_rng(0)
ADAPTERS = {
    "full": {"channels": (16, 32, 32), "adapter_type": "full_adapter", "downscale_factor": 4},
    "full, one level": {"channels": (16,), "adapter_type": "full_adapter", "num_res_blocks": 1},
    "full, gray": {"channels": (16, 16, 24), "adapter_type": "full_adapter", "in_channels": 1},
    "light": {"channels": (16, 32), "adapter_type": "light_adapter", "num_res_blocks": 4},
    "light, one width": {"channels": (20,), "adapter_type": "light_adapter", "num_res_blocks": 1},
    "light, with a mask": {
        "channels": (16, 32, 24),
        "adapter_type": "light_adapter",
        "in_channels": 4,
        "downscale_factor": 2,
    },
}
FULL, LIGHT = ADAPTERS["full"], ADAPTERS["light"]
# Levels without attention that are followed by a smaller one: here only (diffusers adds in a place of another size).
PLAIN = {
    "block_out_channels": (16, 24),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 1,
    "attention_head_dim": 2,
    "cross_attention_dim": 24,
    "norm_num_groups": 8,
}

EQUAL = {**PLAIN, "block_out_channels": (16, 16)}  # where a light adapter fits


def make_adapter(config: dict) -> T2IAdapter:
    adapter = T2IAdapter(name="adapter", **config)
    adapter.build()
    return adapter


def make_unet(config: dict) -> UNet:
    unet = UNet(name="unet", **config)
    unet.build()
    randomize(unet.conv_out.variables)
    return unet


def images(channels: int = 3, *, height: int = 48, width: int = 80) -> np.ndarray:
    return RANDOM.uniform(-1, 1, (2, height, width, channels)).astype("float32")


def to_torch(image: np.ndarray):
    """As diffusers takes it: [B, C, H, W] in [0, 1]."""
    return torch.tensor(((image + 1.0) / 2.0).transpose(0, 3, 1, 2))


@pytest.mark.parametrize("name", ADAPTERS)
def test_the_adapter_is_diffusers_adapter(name):
    """On maps that become odd, too: 48 x 80 pixels are 6 x 10 at an eighth, then 3 x 5 and 2 x 3."""
    config = ADAPTERS[name]
    module = randomized(diffusers.T2IAdapter(**config))
    adapter = make_adapter(config)
    same_weights(adapter, module)
    image = images(config.get("in_channels", 3))
    with torch.no_grad():
        expected = module(to_torch(image))
    features = adapter.condition(image, None)
    assert tuple(f.shape[-1] for f in features) == adapter.feature_channels
    for ours, theirs in zip(features, expected, strict=True):
        close(ours, theirs)


@pytest.mark.parametrize("kind", ["full_adapter", "light_adapter"])
@pytest.mark.parametrize("unet_config", [SD1, SD2], ids=["SD 1.x", "SD 2.x"])
def test_the_adapted_unet_is_diffusers_unet_with_its_adapter(unet_config, kind):
    module = randomized(diffusers.UNet2DConditionModel(**unet_config))
    unet = UNet(name="unet", **unet_config)
    unet.build()
    same_weights(unet, module)
    adapter = T2IAdapter.duplicate(unet, kind=kind, factor=8)
    config = {key: value for key, value in adapter.get_config().items() if key != "name"}
    peer = randomized(diffusers.T2IAdapter(**config), seed=1)
    same_weights(adapter, peer)
    network = AdaptedUNet(unet, adapter)
    (z_t, t, context), theirs = inputs(4, unet_config["cross_attention_dim"])
    conditioning = Conditioning(context)
    image = images(height=128, width=192)
    with torch.no_grad():
        residuals = peer(to_torch(image))
        expected = module(*theirs, down_intrablock_additional_residuals=list(residuals)).sample
        without = module(*theirs).sample
    assert (expected - without).abs().max() > 0.05 * expected.abs().max()
    features = network.condition(image, conditioning)
    close(network(z_t, t, features, conditioning), expected)
    with torch.no_grad():  # the pipeline's adapter_conditioning_scale
        scaled = module(*theirs, down_intrablock_additional_residuals=[1.7 * h for h in residuals]).sample
    assert (scaled - expected).abs().max() > 0.02 * expected.abs().max()
    close(network(z_t, t, features, conditioning, condition_scale=1.7), scaled)


@pytest.mark.parametrize("kind", ["full_adapter", "light_adapter"])
def test_a_new_adapter_leaves_the_unet_as_it_is(kind):
    unet = make_unet(EQUAL)
    network = AdaptedUNet(unet, T2IAdapter.duplicate(unet, kind=kind, factor=4))
    (z_t, t, context), _ = inputs(4, 24)
    features = network.condition(images(height=64, width=96), Conditioning(context))
    assert all((f.numpy() == 0).all() for f in features)
    np.testing.assert_array_equal(network(z_t, t, features, Conditioning(context)), unet(z_t, t, context))


@pytest.mark.parametrize("config", [EQUAL, PLAIN], ids=["light", "full"])
def test_a_new_adapter_learns_in_all_its_weights_from_the_second_step_on(config):
    """With train "adapter", only the adapter changes."""
    unet = make_unet(config)
    network = AdaptedUNet(unet, T2IAdapter.duplicate(unet, factor=4))
    (z_t, t, context), _ = inputs(4, 24)
    conditioning = Conditioning(context)
    image, weights = images(height=64, width=96), network.adapter.trainable_variables

    def gradients():
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(network(z_t, t, network.condition(image, conditioning), conditioning)))
        return tape.gradient(loss, weights)

    for weight, gradient in zip(weights, gradients(), strict=True):
        weight.assign_sub(0.1 * tf.sign(gradient))
    for weight, gradient in zip(weights, gradients(), strict=True):
        assert np.abs(gradient).max() > 0, weight.path


def test_the_kind_is_light_where_the_unet_allows_it():
    light, full = (T2IAdapter.duplicate(make_unet(config), factor=4) for config in (EQUAL, PLAIN))
    assert (light.adapter_type, light.channels, light.num_res_blocks) == ("light_adapter", (16,), 4)
    assert (full.adapter_type, full.channels, full.num_res_blocks) == ("full_adapter", (16, 24), 2)
    assert light.feature_channels == (16, 16) and full.feature_channels == (16, 24)
    with pytest.raises(UserError, match=r"the UNet has \(16, 24\) channels: use full_adapter"):
        T2IAdapter.duplicate(make_unet(PLAIN), kind="light_adapter", factor=4)
    for kind in ("full_adapter_xl", "heavy"):
        with pytest.raises(UserError, match=f"'{kind}', which is not supported: use full_adapter or light_adapter"):
            T2IAdapter.duplicate(make_unet(PLAIN), kind=kind, factor=4)


def test_levels_without_attention_take_their_residual_before_they_get_smaller():
    """diffusers' DownBlock2D cannot (its sum comes after the downsampling); ours does as the block with attention."""
    unet = make_unet(PLAIN)
    (z_t, t, context), _ = inputs(4, 24)
    temb, random = unet.time_embedding(t), np.random.default_rng(3)
    residuals = [random.normal(size=shape).astype("float32") for shape in ((2, 16, 24, 16), (2, 8, 12, 24))]
    skips, plain = (unet.encode(z_t, temb, context, residuals=r) for r in (residuals, None))
    np.testing.assert_array_equal(skips[0], plain[0])
    np.testing.assert_allclose(skips[1], plain[1] + residuals[0], atol=1e-6)
    np.testing.assert_array_equal(skips[2], unet.down_blocks[0].downsampler(skips[1]))
    expected = unet.down_blocks[1].stage(0, skips[2], temb, context) + residuals[1]
    np.testing.assert_allclose(skips[3], expected, atol=1e-6)


@pytest.mark.parametrize("config", [FULL, LIGHT], ids=["full", "light"])
def test_its_folder_is_diffusers_folder_bit_for_bit(config, tmp_path):
    adapter = make_adapter(config)
    randomize(adapter.variables)
    adapter.write(tmp_path / "ours")
    peer = diffusers.T2IAdapter.from_pretrained(tmp_path / "ours")
    assert {key: peer.config[key] for key in adapter.get_config() if key != "name"} == {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in adapter.get_config().items()
        if key != "name"
    }
    theirs, ours = peer.state_dict(), state_dict(adapter)
    assert theirs.keys() == ours.keys()
    for key, value in ours.items():
        np.testing.assert_array_equal(theirs[key].numpy(), value, err_msg=key)
    peer.save_pretrained(tmp_path / "theirs")
    again = load_t2i_adapter(tmp_path / "theirs")
    assert again.get_config() == adapter.get_config()
    for key, value in state_dict(again).items():
        np.testing.assert_array_equal(value, ours[key], err_msg=key)
    image = images()
    for one, other in zip(adapter.condition(image, None), again.condition(image, None), strict=True):
        np.testing.assert_array_equal(one, other)


def test_half_precision_on_disk_and_in_computation(tmp_path):
    adapter = make_adapter(LIGHT)
    randomize(adapter.variables)
    adapter.write(tmp_path / "half", dtype="float16")
    peer = diffusers.T2IAdapter.from_pretrained(tmp_path / "half", torch_dtype=torch.float16)
    for key, value in state_dict(adapter).items():
        np.testing.assert_array_equal(peer.state_dict()[key].numpy(), value.astype("float16"), err_msg=key)
    half = load_t2i_adapter(tmp_path / "half", compute="bfloat16")
    assert {v.dtype for v in half.variables} == {"float32"}
    image = images()
    for one, other in zip(adapter.condition(image, None), half.condition(image, None), strict=True):
        assert other.dtype == tf.bfloat16
        error = np.abs(np.float32(one) - tf.cast(other, tf.float32).numpy()).max() / np.abs(one).max()
        assert 1e-4 < error < 0.03


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("adapter_type", "full_adapter_xl", "adapter_type is 'full_adapter_xl'"),
        ("num_res_blocks", 0, "num_res_blocks is 0"),
        ("activation", "gelu", "activation is 'gelu', which is not supported"),
        ("_class_name", "ControlNetModel", "describes a ControlNetModel"),
        ("channels", [16, 40], "of another shape"),
    ],
)
def test_other_adapters_are_refused(key, value, message, tmp_path):
    make_adapter(LIGHT).write(tmp_path)
    write_json(tmp_path / "config.json", {**read_json(tmp_path / "config.json"), key: value})
    with pytest.raises(UserError, match=message):
        load_t2i_adapter(tmp_path)


def test_missing_keys_have_diffusers_defaults():
    parameters = inspect.signature(diffusers.T2IAdapter.__init__).parameters
    defaults = {key: value.default for key, value in parameters.items() if key != "self"}
    assert {**T2I_ADAPTER.ours, "channels": list(T2I_ADAPTER.ours["channels"])} == defaults


@pytest.mark.parametrize(
    "config",
    [
        {"channels": (320, 640, 1280, 1280), "num_res_blocks": 2, "adapter_type": "full_adapter"},
        {"channels": (320, 640, 1280), "num_res_blocks": 4, "adapter_type": "light_adapter"},
    ],
    ids=["full", "light"],
)
def test_stable_diffusions_adapters_have_the_peers_shapes(config):
    """The published sizes; no weight is made."""
    with torch.device("meta"):
        peer = diffusers.T2IAdapter(**config)
    shapes, _ = shapes_of(lambda: make_adapter(config))
    keras.utils.clear_session()
    assert shapes == {key: tuple(value.shape) for key, value in peer.state_dict().items()}


class TestT2IAdapter(NetworkBattery):
    smallest = 0

    @pytest.fixture(params=ADAPTERS)
    def network(self, request):
        adapter = make_adapter(ADAPTERS[request.param])
        randomize(adapter.variables)
        return adapter

    def outputs(self, adapter):
        channels = adapter.get_config()["in_channels"]
        image = np.random.default_rng(5).uniform(-1, 1, (2, 48, 80, channels)).astype("float32")
        return tf.nest.flatten(adapter.condition(tf.constant(image), None))

    def test_its_layers_are_made_again(self, network):
        for block in network.body:
            for layer in (block, *block.resnets):
                assert type(layer).from_config(layer.get_config()).get_config() == layer.get_config()


def test_converts_to_tflite_with_builtin_operators_only():
    adapter = make_adapter(LIGHT)
    randomize(adapter.variables)
    image = images(height=32, width=64)

    @tf.function(input_signature=[tf.TensorSpec(image.shape)])
    def features(image):
        return adapter.condition(image, None)

    module = tf.Module()
    module.weights = [v.value for v in adapter.variables]
    content = tf.lite.TFLiteConverter.from_concrete_functions([features.get_concrete_function()], module).convert()
    interpreter = Interpreter(model_content=content)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], image)
    interpreter.invoke()
    got = {d["shape"][1]: interpreter.get_tensor(d["index"]) for d in interpreter.get_output_details()}
    for expected in features(image):
        np.testing.assert_allclose(got[expected.shape[1]], expected, atol=1e-5 * np.abs(expected).max())


# --- in a model


def light_base() -> Base:
    """A base whose UNet's last two levels are equally wide."""
    vae = make_autoencoder({**VAE, "scaling_factor": 1.5})
    return Base(make_unet({**UNET, "block_out_channels": [8, 8]}), vae, dict(SCHEDULER))


@pytest.fixture(params=["light_adapter", "full_adapter"])
def model(request):
    base = light_base() if request.param == "light_adapter" else make_base()
    model = codi_tf.CoDi(base, adapter="t2i", train="adapter", image_size=16)
    assert model.student.adapter.adapter_type == request.param
    randomize(model.student.adapter.variables)
    return model


CONDITION = RANDOM.uniform(size=(2, 16, 24, 3)).astype("float32")


def test_a_model_starts_as_the_base_and_its_output_depends_on_the_condition_afterward():
    model = codi_tf.CoDi(make_base(), adapter="t2i", image_size=16)
    first, second = (model.generate(c, steps=2) for c in (CONDITION, CONDITION[::-1].copy()))
    np.testing.assert_array_equal(first, second)
    randomize(model.student.adapter.variables)
    assert (model.generate(CONDITION, steps=2) != model.generate(CONDITION[::-1].copy(), steps=2)).any()


def test_the_adapter_runs_once_for_all_steps(model):
    runs, adapter = [], model.student.adapter
    block = adapter.body[0].call
    adapter.body[0].call = lambda *args: runs.append(1) or block(*args)
    model.sample_latents(
        model.encode_condition(tf.constant(2 * CONDITION[:, :16, :16] - 1)), tf.zeros((2, 4, 4, 4)), steps=3
    )
    assert len(runs) == 1


def test_a_bundle_gives_the_same_images_and_holds_an_adapter_for_diffusers(model, tmp_path):
    expected = model.generate(CONDITION, steps=2)
    model.save(tmp_path / "bundle")
    np.testing.assert_array_equal(codi_tf.load(tmp_path / "bundle").generate(CONDITION, steps=2), expected)
    peer = diffusers.T2IAdapter.from_pretrained(tmp_path / "bundle" / "adapter")
    ours = state_dict(model.network.adapter)
    assert peer.state_dict().keys() == ours.keys()
    for key, value in ours.items():
        np.testing.assert_array_equal(peer.state_dict()[key].numpy(), value, err_msg=key)


def test_its_gradients_reach_the_adapter_and_nothing_else(model):
    model.compile(optimizer=keras.optimizers.SGD(0.1))
    before = [v.numpy().copy() for v in model.base.unet.variables]
    start = [v.numpy().copy() for v in model.student.adapter.variables]
    batch = {name: tf.constant(2 * CONDITION[:, :16, :16] - 1) for name in ("image", "condition")}
    assert np.isfinite(float(model.train_step(batch)["loss"]))
    for variable, value in zip(model.student.adapter.variables, start, strict=True):
        assert np.abs(variable.numpy() - value).max() > 0, variable.path
    for variable, value in zip(model.base.unet.variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)
