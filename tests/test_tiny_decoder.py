"""The small decoder: diffusers' AutoencoderTiny, its folder in and out, its training, and pictures through it."""

from __future__ import annotations

import dataclasses
import inspect
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from battery import NetworkBattery
from conftest import VAE
from PIL import Image
from tiny import randomize, tiny_photos

import codi_tf
from codi_tf import config, data
from codi_tf.checkpoints.base import Base, make_autoencoder, make_network
from codi_tf.checkpoints.folder import save_base
from codi_tf.checkpoints.networks import read_config
from codi_tf.checkpoints.tiny_decoder import TINY_DECODER, load_decoder, save_decoder
from codi_tf.cli import cache
from codi_tf.cli.sample import main
from codi_tf.cli.train import train
from codi_tf.core.errors import UserError
from codi_tf.diffusion import losses
from codi_tf.evaluation import numerics
from codi_tf.evaluation.features import FeatureNetwork, load_features, save_features
from codi_tf.evaluation.perception.lpips import load_lpips
from codi_tf.inference.rendering import render
from codi_tf.io.hashing import folder_sha256
from codi_tf.io.json_files import read_json, write_json
from codi_tf.io.weights import shapes_of, state_dict
from codi_tf.methods.draws import Draws
from codi_tf.models.tiny_decoder import TinyDecoder
from codi_tf.training.experiment import build_dataset, build_trainer

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
torch.set_num_threads(1)

from test_parity import close, randomized  # noqa: E402
from tiny_pipeline import save_pipeline  # noqa: E402

ROOT = Path(codi_tf.__file__).parents[1]
BASE = ROOT / "assets" / "photos-base"
RANDOM = np.random.default_rng(0)
SMALL = {"decoder_block_out_channels": (8, 8, 8), "num_decoder_blocks": (1, 2, 1)}  # for latents 4 times smaller
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


def decoded(peer, z: np.ndarray):
    with torch.no_grad():
        return peer.decode(torch.tensor(z.transpose(0, 3, 1, 2))).sample


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
    picture = torch.tensor(RANDOM.normal(size=(1, 3, 8, 8)).astype("float32"))
    assert (peer.encode(picture).latents == 0).all()  # an encoder that says nothing
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
    pictures = RANDOM.uniform(-1, 1, (1, 8, 8, 3)).astype("float32")
    np.testing.assert_array_equal(small.encode(pictures), base.encode(pictures))


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
    apart = [np.abs(picture.astype(int) - tiles).mean() for picture in (whole, plain)]
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


# --- training


def run_of(base, method=None, **sections) -> dict:
    return {
        "method": {"name": "decoder", "network": {key: list(value) for key, value in SMALL.items()}, **(method or {})},
        "base": base and str(base),
        "data": {"source": "photos", "image_size": 32, **sections.pop("data", {})},
        "train": {"steps": 2, "batch_size": 2, "warmup_steps": 0, **sections.pop("train", {})},
        **sections,
    }


@pytest.fixture(scope="module")
def photos_base() -> Base:
    return codi_tf.load_stable_diffusion(BASE)


def heldout() -> np.ndarray:
    return data.evaluation_set(data.load_photos("heldout"), None, image_size=32, count=32, seed=1)["image"]


def psnr(pictures, made) -> float:
    return float(numerics.psnr((pictures + 1) / 2, (np.clip(made, -1, 1) + 1) / 2).mean())


def test_training_learns_to_decode_photos_that_it_has_not_seen(photos_base, tmp_path):
    """A real run; the frozen base is the same before and after, the result one that diffusers reads."""
    options = {"steps": 120, "batch_size": 8, "learning_rate": 4e-3, "ema_decay": 0.9}
    experiment, before = config.from_dict(run_of(BASE, train=options)), folder_sha256(BASE)
    pictures = heldout()
    z = photos_base.encode(pictures)
    untrained = psnr(pictures, build_trainer(experiment).student(z))
    folder = train(experiment, tmp_path / "run")
    decoder = load_decoder(folder)
    trained = psnr(pictures, decoder(z))
    assert trained > untrained + 6 and trained > psnr(pictures, 0 * pictures) + 3  # 0 is grey
    assert trained < psnr(pictures, photos_base.decode(z))
    assert folder_sha256(BASE) == before
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "diffusion_pytorch_model.safetensors"]
    peer = diffusers.AutoencoderTiny.from_pretrained(folder)
    close(decoder(z[:2]), decoded(peer, np.asarray(z[:2])), tolerance=1e-5)


def test_the_decoder_of_the_assets_is_nearly_as_good_as_the_autoencoders(photos_base):
    """Within a decibel, with an eighth of the weights."""
    decoder = load_decoder(ROOT / "assets" / "photos-decoder")
    pictures = data.evaluation_set(data.load_photos("heldout"), None, image_size=64, count=32, seed=1)["image"]
    z = photos_base.encode(pictures)
    full, small = psnr(pictures, photos_base.decode(z)), psnr(pictures, decoder(z))
    assert full - 1 < small < full
    assert 7 * decoder.count_params() < photos_base.vae.decoder.count_params()


def test_a_step_changes_the_decoder_alone():
    trainer = build_trainer(config.from_dict(run_of(BASE, train={"learning_rate": 1e-2})))
    vae = trainer.method.base.vae
    before = [variable.numpy() for variable in vae.variables]
    own = [variable.numpy() for variable in trainer.student.variables]
    assert {id(v) for v in trainer.trainable_variables} == {id(v) for v in trainer.student.variables}
    trainer.train_step({"image": tf.constant(heldout()[:2])})
    for variable, value in zip(vae.variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)
    assert all((v.numpy() != value).any() for v, value in zip(trainer.student.variables, own, strict=True))


@pytest.mark.parametrize("target", ["image", "decoding"])
@pytest.mark.parametrize("distance", ["absolute", "squared"])
def test_the_loss_is_the_distance_to_the_target(photos_base, target, distance):
    trainer = build_trainer(config.from_dict(run_of(BASE, {"target": target, "distance": distance})))
    randomize(trainer.student.variables)
    image = heldout()[:3]
    terms = trainer.method.loss_terms({"image": tf.constant(image)}, Draws(0, 0))
    z = photos_base.encode(image)
    y = image if target == "image" else np.clip(photos_base.decode(z), -1, 1)
    apart = np.abs(y - np.asarray(trainer.student(z), np.float64))
    assert set(terms) == {"pixels"} == set(trainer.method.terms)
    np.testing.assert_allclose(
        terms["pixels"], (apart if distance == "absolute" else apart**2).mean(axis=(1, 2, 3)), rtol=1e-5
    )


@pytest.fixture(scope="module")
def feature_folder(tmp_path_factory):
    keras.utils.set_random_seed(0)
    network = FeatureNetwork(num_photos=3, widths=(4, 4, 4, 4, 4), name="features")
    network.build()
    folder = tmp_path_factory.mktemp("features") / "features"
    save_features(network, folder)
    return folder


def lpips_file(folder: Path) -> Path:
    from safetensors.torch import save_model

    path = folder / "lpips.safetensors"
    save_model(pytest.importorskip("lpips").LPIPS(net="alex", pnet_rand=True, verbose=False), str(path))
    return path


@pytest.mark.parametrize("kind", ["folder", "LPIPS"])
def test_the_perceptual_term_is_weighted_and_added(photos_base, kind, feature_folder, tmp_path):
    path = feature_folder if kind == "folder" else lpips_file(tmp_path)
    maps = (load_features if kind == "folder" else load_lpips)(path).maps
    trainer = build_trainer(config.from_dict(run_of(BASE, {"perceptual_weight": 0.5, "features": str(path)})))
    image = tf.constant(heldout()[:2])
    logs = trainer.train_step({"image": image})
    assert float(logs["loss"]) == pytest.approx(float(logs["pixels"] + logs["perceptual"]))
    made = trainer.student(photos_base.encode(image))
    expected = sum(losses.latent_distance(a, b) for a, b in zip(maps(image), maps(made), strict=True))
    terms = trainer.method.loss_terms({"image": image}, Draws(0, 0))
    assert np.min(terms["perceptual"]) > 0
    np.testing.assert_allclose(terms["perceptual"], 0.5 * expected, rtol=1e-4)


@pytest.fixture(scope="module")
def vae_folder(tmp_path_factory):
    """An autoencoder alone, as a training of one leaves it."""
    folder = tmp_path_factory.mktemp("vae") / "vae"
    save_base(Base(None, make_autoencoder({**VAE, "scaling_factor": 2.0}), {"beta_schedule": "linear"}), folder)
    return folder


def test_an_autoencoder_alone_will_do_as_a_base(vae_folder, tmp_path):
    photos = tiny_photos(tmp_path / "photos")
    values = run_of(vae_folder, data={"source": str(photos), "image_size": 8})
    experiment = config.from_dict(values)
    trainer = build_trainer(experiment)
    batch = next(iter(build_dataset(experiment, trainer, 0)))
    assert batch.keys() == {"image"} and np.isfinite(float(trainer.train_step(batch)["loss"]))


@pytest.mark.parametrize(
    ("method", "sections", "said"),
    [
        ({"target": "photo"}, {}, "method.target is 'photo': use one of image, decoding"),
        ({"distance": "l3"}, {}, "method.distance is 'l3': use one of squared, absolute"),
        ({"perceptual_weight": -1}, {}, "method.perceptual_weight is -1.0: it must be at least 0"),
        ({"perceptual_weight": 1}, {}, "method.perceptual_weight is 1.0, method.features None: set both, or neither"),
        ({"features": "somewhere"}, {}, "method.perceptual_weight is 0.0, method.features somewhere: set both"),
        ({}, {"base": None}, "base is not set: name the folder of the model"),
        ({}, {"task": {"name": "super_resolution"}}, "task is set, but this method trains without a condition"),
        ({}, {"memory": {"recompute": True}}, "memory is set, but without a task the whole network"),
        ({}, {"data": {"prompts": True}}, "data.prompts is set, but method decoder uses images alone: remove it"),
        ({}, {"data": {"encode_once": 8}}, "data.encode_once is set, but method decoder uses images alone: remove it"),
        ({"network": {"width": 3}}, {}, "not a configuration of TinyDecoder"),
        (
            {"network": {}},
            {},
            "method.network: the decoder's latents are 8 times smaller than images, the autoencoder's 4: take one",
        ),
        ({}, {"data": {"image_size": 32}, "base": "no/such/base"}, "no/such/base: no such model folder"),
        ({"perceptual_weight": 1, "features": "none"}, {}, "none/config.json: no such file"),
        (
            {"perceptual_weight": 1, "features": "lpips.safetensors"},
            {"data": {"image_size": 24}},
            r"data.image_size is 24: LPIPS \(alex\) needs 31 or more",
        ),
    ],
)
def test_a_run_that_cannot_start_is_refused_in_one_line(method, sections, said, vae_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if method.get("features") == "lpips.safetensors":
        lpips_file(tmp_path)
    with pytest.raises(UserError, match=said) as caught:
        build_trainer(config.from_dict(run_of(**{"base": vae_folder, "method": method, **sections})))
    assert "\n" not in str(caught.value)


def test_latents_are_not_encoded_beforehand(tmp_path, vae_folder):
    with pytest.raises(UserError, match="method decoder is trained on images, not on latents; name the config"):
        cache.encode(config.from_dict(run_of(vae_folder)), tmp_path / "cache", examples=2)
