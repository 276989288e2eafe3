"""The small decoder: diffusers' AutoencoderTiny, its folder in and out, and images through it."""

from __future__ import annotations

import dataclasses
import inspect
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from battery import NetworkBattery
from PIL import Image
from tiny import randomize

import codi_tf
from codi_tf.checkpoints.base import make_network
from codi_tf.checkpoints.networks import read_config
from codi_tf.checkpoints.tiny_decoder import TINY_DECODER, load_decoder, save_decoder
from codi_tf.cli.sample import main
from codi_tf.core.errors import UserError
from codi_tf.inference.rendering import render
from codi_tf.io.bundle_files import decoder_at
from codi_tf.io.json_files import read_json, write_json
from codi_tf.io.weights import shapes_of, state_dict
from codi_tf.models.tiny_decoder import TinyDecoder

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
torch.set_num_threads(1)

from decoder_cases import ROOT, SMALL, decoded  # noqa: E402
from test_parity import close, randomized  # noqa: E402
from tiny_pipeline import save_pipeline  # noqa: E402

RANDOM = np.random.default_rng(0)
DECODERS = {
    "as TAESD": {"decoder_block_out_channels": (16, 16, 16, 16), "num_decoder_blocks": (3, 3, 3, 1)},
    "two enlargements": SMALL,
    "one level, no block": {"decoder_block_out_channels": (8,), "num_decoder_blocks": (0,)},
    "16 channels of latents": {**SMALL, "latent_channels": 16},
}
# What stands in a published TAESD's config.json.
PUBLISHED = {
    "_class_name": "AutoencoderTiny",
    "_diffusers_version": "0.20.0.dev0",
    "act_fn": "relu",
    "block_out_channels": [64, 64, 64, 64],
    "decoder_block_out_channels": [64, 64, 64, 64],
    "encoder_block_out_channels": [64, 64, 64, 64],
    "force_upcast": False,
    "in_channels": 3,
    "latent_channels": 4,
    "latent_magnitude": 3,
    "latent_shift": 0.5,
    "num_decoder_blocks": [3, 3, 3, 1],
    "num_encoder_blocks": [1, 3, 3, 3],
    "out_channels": 3,
    "scaling_factor": 1.0,
    "upsampling_scaling_factor": 2,
}


def make_decoder(options=SMALL, seed: int = 0) -> TinyDecoder:
    decoder = make_network(TinyDecoder, options, "decoder")
    randomize(decoder.variables, seed)
    return decoder


def make_peer(options=SMALL, **encoder):
    encoder = encoder or {"encoder_block_out_channels": (8, 8), "num_encoder_blocks": (1, 1)}
    return randomized(diffusers.AutoencoderTiny(**options, **encoder))


def latents(channels: int = 4, batch: int = 2) -> np.ndarray:
    """Some of them far beyond what the decoder bounds them to."""
    return 3 * RANDOM.normal(size=(batch, 6, 10, channels)).astype("float32")


def of_decoder(peer) -> dict[str, np.ndarray]:
    return {key: value.numpy() for key, value in peer.state_dict().items() if key.startswith("decoder.")}


def assert_same_weights(decoder, theirs: dict[str, np.ndarray]):
    ours = state_dict(decoder)
    assert ours.keys() == theirs.keys()
    for key, value in ours.items():
        np.testing.assert_array_equal(value, theirs[key], err_msg=key)


# --- diffusers


@pytest.mark.parametrize("name", DECODERS)
def test_what_diffusers_writes_decodes_as_there(name, tmp_path):
    peer = make_peer(DECODERS[name])
    peer.save_pretrained(tmp_path)
    decoder = load_decoder(tmp_path)
    assert_same_weights(decoder, of_decoder(peer))
    z = latents(decoder.latent_channels)
    made = decoder(z)
    assert made.shape == (2, 6 * decoder.factor, 10 * decoder.factor, 3) and made.dtype == "float32"
    close(made, decoded(peer, z), tolerance=1e-5)


@pytest.mark.parametrize("name", DECODERS)
def test_what_is_written_decodes_in_diffusers_and_lacks_nothing(name, tmp_path):
    decoder = make_decoder(DECODERS[name])
    save_decoder(decoder, tmp_path)
    peer, said = diffusers.AutoencoderTiny.from_pretrained(tmp_path, output_loading_info=True)
    assert not said["missing_keys"] and not said["unexpected_keys"]
    assert_same_weights(decoder, of_decoder(peer))
    z = latents(decoder.latent_channels)
    close(decoder(z), decoded(peer, z), tolerance=1e-5)
    image = torch.tensor(RANDOM.normal(size=(1, 3, 8, 8)).astype("float32"))
    assert (peer.encode(image).latents == 0).all()  # an encoder that says nothing
    again = load_decoder(tmp_path)
    assert {**again.get_config(), "name": "decoder"} == decoder.get_config()
    assert_same_weights(again, state_dict(decoder))


def test_half_precision_on_disk_and_in_computation(tmp_path):
    decoder, z = make_decoder(), latents()
    save_decoder(decoder, tmp_path, dtype="float16")
    peer = diffusers.AutoencoderTiny.from_pretrained(tmp_path, torch_dtype=torch.float16)
    assert {value.dtype for value in peer.state_dict().values()} == {torch.float16}
    rounded = {key: value.astype("float16").astype("float32") for key, value in state_dict(decoder).items()}
    half = load_decoder(tmp_path, compute="bfloat16")
    assert_same_weights(half, rounded)
    made, expected = half(z), load_decoder(tmp_path)(z)
    assert made.dtype == "float32"
    assert 1e-4 < np.abs(made - expected).max() / np.abs(expected).max() < 0.05


def test_published_folders_are_read(tmp_path):
    """The keys of a published config.json; TAESD's shapes and size, 1.2 M. Nothing is allocated."""
    with torch.device("meta"):
        peer = diffusers.AutoencoderTiny()
    shapes, _ = shapes_of(lambda: make_network(TinyDecoder, {}, "decoder"))
    keras.utils.clear_session()
    theirs = {key: tuple(value.shape) for key, value in peer.state_dict().items() if key.startswith("decoder.")}
    assert shapes == theirs
    assert sum(np.prod(shape) for shape in shapes.values()) == 1_222_531
    write_json(tmp_path / "config.json", PUBLISHED)
    assert read_config(TINY_DECODER, tmp_path / "config.json") == TINY_DECODER.ours | {
        "decoder_block_out_channels": [64] * 4,
        "num_decoder_blocks": [3, 3, 3, 1],
    }
    assert TinyDecoder().factor == 8


def test_every_key_of_diffusers_is_known_with_its_default():
    parameters = inspect.signature(diffusers.AutoencoderTiny.__init__).parameters
    defaults = {key: value.default for key, value in parameters.items() if key != "self"}
    fixed = {key: values[0] for key, values in TINY_DECODER.fixed.items()}
    known = {**TINY_DECODER.ours, **fixed}
    assert {key: defaults[key] for key in known} == known
    assert defaults.keys() - known.keys() <= TINY_DECODER.inert


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"_class_name": "AutoencoderKL"}, "describes a AutoencoderKL, expected a AutoencoderTiny"),
        ({"act_fn": "silu"}, "act_fn is 'silu', which is not supported: only 'relu' is"),
        ({"upsampling_scaling_factor": 4}, "upsampling_scaling_factor is 4, which is not supported: only 2 is"),
        ({"scaling_factor": 0.5}, "scaling_factor is 0.5, which is not supported"),
        ({"latent_channels": 0}, "latent_channels is 0: it must be a whole number above 0"),
        (
            {"decoder_block_out_channels": [8, 8]},
            r"is \(8, 8\), num_decoder_blocks \(1, 2, 1\): they must have the same length",
        ),
        ({"decoder_block_out_channels": [8, 8, 16]}, r"is \(8, 8, 16\): all levels must have the same width"),
        ({"num_decoder_blocks": [1, 2, 0.5]}, r"num_decoder_blocks is \(1, 2, 0.5\): it must be"),
        ({"num_decoder_blocks": []}, r"num_decoder_blocks is \(\): it must be"),
        ({"num_decoder_blocks": [1, 1, 1]}, "9 weights missing: decoder.layers.7.weight"),
    ],
)
def test_other_decoders_are_refused_in_one_line(changes, said, tmp_path):
    save_decoder(make_decoder(), tmp_path)
    write_json(tmp_path / "config.json", {**read_json(tmp_path / "config.json"), **changes})
    with pytest.raises(UserError, match=said) as caught:
        load_decoder(tmp_path)
    assert "\n" not in str(caught.value)


# --- the network


class TestTinyDecoder(NetworkBattery):
    inputs = (3 * np.random.default_rng(5).normal(size=(2, 6, 10, 4)).astype("float32"),)
    smallest = 0

    @pytest.fixture
    def network(self):
        return make_decoder()

    def test_its_layers_are_made_again(self, network):
        for layer in network.body:
            assert type(layer).from_config(layer.get_config()).get_config() == layer.get_config()


# --- in a base and a model


@pytest.fixture(scope="module")
def decoder_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("decoder") / "decoder"
    save_decoder(make_decoder(), folder)
    return folder


def test_a_base_decodes_through_it_and_encodes_as_before(base):
    decoder, z = make_decoder(), latents()
    small = dataclasses.replace(base, decoder=decoder)
    np.testing.assert_array_equal(small.decode(z), decoder(z))
    assert np.abs(small.decode(z) - base.decode(z)).max() > 0.01
    images = RANDOM.uniform(-1, 1, (1, 8, 8, 3)).astype("float32")
    np.testing.assert_array_equal(small.encode(images), base.encode(images))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({**SMALL, "latent_channels": 8}, "the decoder's latents have 8 channels, the autoencoder's 4"),
        (DECODERS["as TAESD"], "the decoder's latents are 8 times smaller than images, the autoencoder's 4"),
        ({**SMALL, "out_channels": 1}, "the decoder's images have 1 channels, the autoencoder's 3"),
    ],
)
def test_a_decoder_of_other_latents_is_refused(base, options, said):
    with pytest.raises(UserError, match=f"^{said}: take one made for this base$"):
        dataclasses.replace(base, decoder=make_decoder(options))


def test_a_model_generates_through_it_and_its_bundle_stays_what_it_was(bundle, decoder_folder, tmp_path):
    photo = RANDOM.random((16, 24, 3)).astype("float32")
    decoder = codi_tf.load_decoder(decoder_folder)
    model = codi_tf.load(bundle, decoder=decoder)
    noise = codi_tf.core.noise.gaussian_noise(0, model.latent_shape(1, 16, 24))
    z = model.generator.latents(tf.constant(2 * photo[None] - 1), noise, model.base.conditioning(), steps=2)
    expected = codi_tf.io.images.to_uint8((np.clip(decoder(z), -1, 1)[0] + 1) / 2)
    np.testing.assert_array_equal(model.generate(photo, steps=2), expected)
    plain = codi_tf.load(bundle)
    assert np.abs(expected.astype(int) - plain.generate(photo, steps=2)).max() > 2
    model.save(tmp_path / "bundle")
    again = codi_tf.load(tmp_path / "bundle")
    np.testing.assert_array_equal(again.generate(photo, steps=2), plain.generate(photo, steps=2))


def test_tiles_are_decoded_by_it(bundle, decoder_folder):
    photo = RANDOM.random((24, 32, 3)).astype("float32")
    model = codi_tf.load(bundle, decoder=codi_tf.load_decoder(decoder_folder))
    whole, tiles = (render(model, photo, steps=1, tile=tile) for tile in (0, 24))
    plain = render(codi_tf.load(bundle), photo, steps=1, tile=24)
    apart = [np.abs(image.astype(int) - tiles).mean() for image in (whole, plain)]
    assert 0 < apart[0] < apart[1] / 2


def test_sample_takes_a_bundle_and_a_decoder(bundle, decoder_folder, tmp_path):
    Image.fromarray(RANDOM.integers(0, 256, (8, 8, 3), "uint8")).save(tmp_path / "in.png")
    arguments = ["--condition", str(tmp_path / "in.png"), "--out", str(tmp_path / "out.png"), "--steps", "2"]
    main([str(bundle), *arguments, "--decoder", str(decoder_folder)])
    model = codi_tf.load(bundle, decoder=codi_tf.load_decoder(decoder_folder))
    expected = model.generate(codi_tf.read_image(tmp_path / "in.png"), steps=2)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out.png")), expected)


def test_sample_of_a_prompt_and_diffusers_pipeline_with_the_same_decoder(tmp_path):
    save_pipeline(tmp_path / "sd", "1.x")
    peer = make_peer({"decoder_block_out_channels": (8, 8), "num_decoder_blocks": (1, 1)})
    peer.save_pretrained(tmp_path / "tiny")
    options = ["--steps", "3", "--guidance", "2", "--sampler", "ddim", "--decoder", str(tmp_path / "tiny")]
    main([str(tmp_path / "sd"), "--prompt", "the cat", "--out", str(tmp_path / "out.png"), *options])
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(
        tmp_path / "sd", vae=peer, safety_checker=None, feature_extractor=None
    )
    pipeline.scheduler = diffusers.DDIMScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    noise = torch.tensor(codi_tf.core.noise.gaussian_noise(0, (1, 8, 8, 4)).transpose(0, 3, 1, 2))
    expected = pipeline("the cat", num_inference_steps=3, guidance_scale=2, latents=noise, output_type="np").images[0]
    made = np.asarray(Image.open(tmp_path / "out.png"))
    assert np.ptp(made) > 20
    np.testing.assert_allclose(made, 255 * expected, atol=1.01)


def test_a_missing_decoder_is_told_before_tensorflow_is_loaded(bundle, tmp_path):
    program = (
        "import sys; from codi_tf.core.command_line import run_command; from codi_tf.cli.sample import main; "
        "status = run_command(main); assert not {'tensorflow', 'keras'} & sys.modules.keys(); sys.exit(status)"
    )
    arguments = [str(bundle), "--condition", "in.png", "--out", str(tmp_path / "out.png"), "--decoder", "none"]
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: --decoder is none: no such folder; name that of a small decoder\n"


def test_one_that_comes_with_codi_tf_is_found_by_its_name(tmp_path, monkeypatch):
    """--decoder refused the names that the other options for models take."""
    monkeypatch.chdir(tmp_path)
    assert load_decoder("photos-decoder").latent_channels == 4
    assert decoder_at("photos-decoder").name == "photos-decoder"
