"""KerasCV's true classes at full size, built without values: every layer is where the tables say, every shape fits."""

from __future__ import annotations

import math

import keras
import pytest

from codi_tf.checkpoints.keras_cv import layers_of, part_of, renamed
from codi_tf.io.layouts import key_of
from codi_tf.models.autoencoder import AutoencoderKL
from codi_tf.models.text_encoder import TextEncoder
from codi_tf.models.unet import UNet

pytest.importorskip("keras_cv")
from keras_cv.src.models.stable_diffusion import decoder, diffusion_model, image_encoder, text_encoder  # noqa: E402

UNETS = {
    "1.x": {},
    "2.x": {"cross_attention_dim": 1024, "attention_head_dim": (5, 10, 20, 20), "use_linear_projection": True},
}
TEXT_ENCODERS = {
    "1.x": {},
    "2.x": {"hidden_size": 1024, "num_hidden_layers": 23, "num_attention_heads": 16, "intermediate_size": 4096},
}
ATTENTION = ["ResBlock", "SpatialTransformer"]
JOINED = ["Concatenate", *ATTENTION]
DIFFUSION_MODEL = [
    "PaddedConv2D",
    *[*ATTENTION * 2, "PaddedConv2D"] * 3,
    *["ResBlock"] * 2,
    *[*ATTENTION, "ResBlock"],
    *[*["Concatenate", "ResBlock"] * 3, "Upsample"],
    *[*JOINED * 3, "Upsample"] * 2,
    *JOINED * 3,
    *["GroupNormalization", "PaddedConv2D"],
]
SIZES = {"1.x": (859_520_964, 123_060_480), "2.x": (865_910_724, 340_387_840)}


@pytest.fixture(autouse=True)
def without_values():
    """Variables have shapes and no memory."""
    with keras.StatelessScope(initialize_variables=False):
        yield
    keras.utils.clear_session()  # forgets the weights that wait for their values


def check_shapes(models: dict[str, keras.Model], network) -> None:
    shapes = {}
    for part, model in models.items():
        layers = layers_of(model, part)
        assert part_of(layers) == part
        shapes |= {key: weight.shape for key, weight in renamed(layers, part).items()}
    network.build()
    assert shapes == {key_of(v, network): tuple(v.shape) for v in network.variables}


def number(layer) -> int:
    """Layers of a kind are numbered as they are made: res_block, res_block_1, ..."""
    last = layer.name.rsplit("_", 1)[-1]
    return int(last) if last.isdecimal() else 0


@pytest.mark.parametrize("family", ["1.x", "2.x"])
def test_the_diffusion_models(family):
    kind = diffusion_model.DiffusionModelV2 if family == "2.x" else diffusion_model.DiffusionModel
    model = kind(128, 128, 77, download_weights=False)
    check_shapes({"diffusion_model": model}, UNet(name="unet", **UNETS[family]))
    assert sum(math.prod(v.shape) for v in model.variables) == SIZES[family][0]
    assert [
        type(layer).__name__ for layer in model.layers if type(layer).__name__ in DIFFUSION_MODEL
    ] == DIFFUSION_MODEL
    for name in {*DIFFUSION_MODEL, "Dense"}:  # they are made in the order of the flow, and the list of layers keeps it
        numbers = [number(layer) for layer in model.layers if type(layer).__name__ == name]
        assert numbers == sorted(set(numbers))


@pytest.mark.parametrize("family", ["1.x", "2.x"])
def test_the_text_encoders(family):
    kind = text_encoder.TextEncoderV2 if family == "2.x" else text_encoder.TextEncoder
    model = kind(77, download_weights=False)
    check_shapes({"text_encoder": model}, TextEncoder(name="text_encoder", **TEXT_ENCODERS[family]))
    assert sum(math.prod(v.shape) for v in model.variables) == SIZES[family][1]
    numbers = [number(layer) for layer in model.layers if type(layer).__name__ == "CLIPEncoderLayer"]
    assert numbers == sorted(set(numbers))


def test_the_autoencoder():
    models = {
        "image_encoder": image_encoder.ImageEncoder(download_weights=False),
        "decoder": decoder.Decoder(64, 64, download_weights=False),
    }
    check_shapes(models, AutoencoderKL(name="vae"))
