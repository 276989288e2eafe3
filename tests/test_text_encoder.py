"""The text encoder: transformers' keys and numbers, Stable Diffusion's sizes, half precision, and what Keras asks."""

from __future__ import annotations

import json
import math

import keras
import numpy as np
import pytest
from battery import NetworkBattery

from codi_tf.core.errors import UserError
from codi_tf.io.layouts import key_of
from codi_tf.models.activations import ACTIVATIONS
from codi_tf.models.text_encoder import SelfAttention, TextEncoder

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
torch.set_num_threads(1)

TINY = {
    "vocab_size": 60,
    "hidden_size": 12,
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
}
SIZES = {
    "tiny": TINY,
    "one head, one layer": {**TINY, "num_attention_heads": 1, "num_hidden_layers": 1},
    "wider": {**TINY, "hidden_size": 64, "intermediate_size": 256, "num_attention_heads": 8, "num_hidden_layers": 5},
    "another epsilon": {**TINY, "layer_norm_eps": 1e-2},
    "shorter": {**TINY, "max_position_embeddings": 16},
}
SD_2 = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 23,
    "num_attention_heads": 16,
    "hidden_act": "gelu",
}
END = 59


def prompts(length: int = 77, padding: int = END) -> np.ndarray:
    """Start, a prompt, end, padding: int32 [3, length]; one prompt fills all positions, one is empty."""
    ids = np.random.default_rng(0).integers(1, 58, (3, length)).astype("int32")
    ids[:, 0] = 58
    ids[0, -1] = ids[1, 5] = ids[2, 1] = END
    ids[1, 6:] = ids[2, 2:] = padding
    return ids


def peer_of(config: dict):
    """transformers' encoder with random weights, large enough for every layer to matter."""
    torch.manual_seed(0)
    peer = transformers.CLIPTextModel(transformers.CLIPTextConfig(**config, bos_token_id=58, eos_token_id=END)).eval()
    with torch.no_grad():
        for parameter in peer.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter) / max(1, parameter.shape[-1]) ** 0.5)
    return peer


def encoder_of(peer, config: dict) -> TextEncoder:
    """Ours, with the peer's weights, by their keys."""
    encoder = TextEncoder(name="text_encoder", **config)
    encoder.build()
    state = {key.removeprefix("text_model."): value.numpy() for key, value in peer.state_dict().items()}
    variables = {key_of(variable, encoder): variable for variable in encoder.variables}
    assert variables.keys() == {key for key in state if not key.endswith("position_ids")}
    for key, variable in variables.items():
        variable.assign(state[key].T if variable.name == "kernel" else state[key])
    return encoder


def peer_output(peer, ids) -> np.ndarray:
    with torch.no_grad():
        return peer(torch.from_numpy(ids).long()).last_hidden_state.numpy()


@pytest.mark.parametrize("padding", [END, 0])
@pytest.mark.parametrize("activation", ["quick_gelu", "gelu", "gelu_pytorch_tanh"])
@pytest.mark.parametrize("size", SIZES)
def test_the_numbers_are_those_of_transformers(size, activation, padding):
    config = {**SIZES[size], "hidden_act": activation}
    peer = peer_of(config)
    encoder = encoder_of(peer, config)
    ids = prompts(encoder.max_position_embeddings, padding)
    expected = peer_output(peer, ids)
    found = encoder(ids)
    assert found.dtype == "float32" and found.shape == (*ids.shape, encoder.hidden_size)
    assert np.abs(found - expected).max() <= 2e-5 * np.abs(expected).max()


def test_activations_and_epsilon_differ_by_more_than_the_tolerance():
    """Otherwise the test above could not tell them apart."""
    peer = peer_of(TINY)
    ids = prompts()
    variants = [{"hidden_act": name} for name in ACTIVATIONS] + [{"layer_norm_eps": 1e-6}]
    outputs = [encoder_of(peer, {**TINY, **variant})(ids).numpy() for variant in variants]
    for i, a in enumerate(outputs):
        for b in outputs[:i]:
            assert np.abs(a - b).max() > 5e-5 * np.abs(a).max()


@pytest.fixture(scope="module")
def encoder():
    return encoder_of(peer_of(TINY), TINY)


def test_a_position_sees_itself_and_the_ones_before(encoder):
    ids = prompts()
    changed = ids.copy()
    changed[:, 40] = (ids[:, 40] + 7) % 50
    before, after = encoder(ids).numpy(), encoder(changed).numpy()
    np.testing.assert_allclose(after[:, :40], before[:, :40], rtol=0, atol=1e-6)
    assert (np.abs(after[:, 40:] - before[:, 40:]).max(axis=(0, 2)) > 1e-4).all()


@pytest.mark.parametrize(
    ("config", "parameters"),
    [({}, 123_060_480), (SD_2, 340_387_840)],
    ids=["Stable Diffusion 1.x", "Stable Diffusion 2.x"],
)
def test_stable_diffusion_has_its_sizes_and_shapes(config, parameters):
    """The shapes are those of transformers' model; nothing is allocated on either side."""
    with keras.StatelessScope(initialize_variables=False):
        encoder = TextEncoder(name="text_encoder", **config)
        encoder.build()
        variables = {key_of(v, encoder): v for v in encoder.variables}
        shapes = {key: tuple(v.shape[::-1] if v.name == "kernel" else v.shape) for key, v in variables.items()}
    keras.utils.clear_session()  # forgets the weights that wait for their values
    with torch.device("meta"):
        peer = transformers.CLIPTextModel(transformers.CLIPTextConfig(**encoder.get_config()))
    assert shapes == {key.removeprefix("text_model."): tuple(p.shape) for key, p in peer.named_parameters()}
    assert sum(map(math.prod, shapes.values())) == parameters


@pytest.mark.parametrize(("policy", "bound"), [("mixed_bfloat16", 3e-2), ("mixed_float16", 4e-3)])
def test_half_precision_stays_near(encoder, policy, bound):
    expected = encoder(prompts()).numpy()
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        half = TextEncoder.from_config(encoder.get_config())
        half.build()
    finally:
        keras.config.set_dtype_policy(before)
    half.set_weights(encoder.get_weights())
    found = half(prompts())
    assert found.dtype == "float32"
    error = np.abs(found - expected).max()
    assert 0 < error <= bound * np.abs(expected).max()


@pytest.mark.parametrize("policy", ["float32", "mixed_float16", "mixed_bfloat16"])
def test_the_mask_holds_in_every_format(policy):
    """Values that differ only after the first position, and scores as large as half precision has them."""
    attention = SelfAttention(4, 1, dtype=policy)
    attention.build()
    attention.q_proj.kernel.assign(200 * np.eye(4, dtype="float32"))
    for layer in (attention.k_proj, attention.v_proj, attention.out_proj):
        layer.kernel.assign(np.eye(4, dtype="float32"))
    x = np.array([[[1, 0, 0, 0], [250, 0, 0, 0], [0, 3, 0, 0]]], "float32")
    out = attention(x).numpy().astype("float32")
    assert np.isfinite(out).all()
    np.testing.assert_array_equal(out[0, 0], x[0, 0])


def test_its_config_makes_it_again(encoder):
    config = {**encoder.get_config(), "hidden_act": "gelu", "layer_norm_eps": 1e-6, "max_position_embeddings": 9}
    again = TextEncoder.from_config(json.loads(json.dumps(config)))
    again.build()
    assert again.get_config() == config
    assert again.encoder_layers[1].activation == "gelu" and again.final_layer_norm.epsilon == 1e-6
    assert again.position_embedding.embeddings.shape == (9, 12)
    layer = again.encoder_layers[0]
    copy = type(layer).from_config(layer.get_config())
    assert copy.get_config() == layer.get_config()


class TestTextEncoder(NetworkBattery):
    inputs = (prompts(),)
    exact = 1e-5
    unreached = ("k_proj/bias",)  # adds the same to all of a row's scores

    @pytest.fixture
    def network(self, encoder):
        return encoder


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_act": "relu"}, "unknown hidden_act 'relu': use one of quick_gelu, gelu"),
        ({"num_attention_heads": 5}, "hidden_size 12 cannot be split into 5 heads"),
        ({"num_attention_heads": 0}, "into 0 heads"),
    ],
)
def test_bad_configs_are_refused_in_one_line(changes, message):
    with pytest.raises(UserError) as caught:
        TextEncoder(**{**TINY, **changes})
    assert message in str(caught.value) and "\n" not in str(caught.value)
