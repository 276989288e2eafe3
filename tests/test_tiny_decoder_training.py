"""Training of the small decoder."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import VAE
from tiny import randomize, tiny_photos

import codi_tf
from codi_tf import config, data
from codi_tf.checkpoints.base import Base, make_autoencoder
from codi_tf.checkpoints.folder import save_base
from codi_tf.checkpoints.tiny_decoder import load_decoder
from codi_tf.cli import cache
from codi_tf.cli.train import train
from codi_tf.core.errors import UserError
from codi_tf.diffusion import losses
from codi_tf.evaluation import numerics
from codi_tf.evaluation.features import FeatureNetwork, load_features, save_features
from codi_tf.evaluation.perception.lpips import load_lpips
from codi_tf.io.folders import MARKER
from codi_tf.io.hashing import folder_sha256
from codi_tf.methods.draws import Draws
from codi_tf.training.experiment import build_dataset, build_trainer

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
torch.set_num_threads(1)

from decoder_cases import ROOT, SMALL, decoded  # noqa: E402
from test_parity import close  # noqa: E402

BASE = ROOT / "assets" / "photos-base"


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


def psnr(images, made) -> float:
    return float(numerics.psnr((images + 1) / 2, (np.clip(made, -1, 1) + 1) / 2).mean())


def test_training_learns_to_decode_photos_that_it_has_not_seen(photos_base, tmp_path):
    """A real run; the frozen base is the same before and after, the result one that diffusers reads."""
    options = {"steps": 120, "batch_size": 8, "learning_rate": 4e-3, "ema_decay": 0.9}
    experiment, before = config.from_dict(run_of(BASE, train=options)), folder_sha256(BASE)
    images = heldout()
    z = photos_base.encode(images)
    untrained = psnr(images, build_trainer(experiment).student(z))
    folder = train(experiment, tmp_path / "run")
    decoder = load_decoder(folder)
    trained = psnr(images, decoder(z))
    assert trained > untrained + 6 and trained > psnr(images, 0 * images) + 3  # 0 is gray
    assert trained < psnr(images, photos_base.decode(z))
    assert folder_sha256(BASE) == before
    assert sorted(path.name for path in folder.iterdir()) == [
        MARKER,
        "config.json",
        "diffusion_pytorch_model.safetensors",
        "provenance.json",
    ]
    peer = diffusers.AutoencoderTiny.from_pretrained(folder)
    close(decoder(z[:2]), decoded(peer, np.asarray(z[:2])), tolerance=1e-5)


def test_the_decoder_of_the_assets_is_nearly_as_good_as_the_autoencoders(photos_base):
    """Within a decibel, with an eighth of the weights."""
    decoder = load_decoder(ROOT / "assets" / "photos-decoder")
    images = data.evaluation_set(data.load_photos("heldout"), None, image_size=64, count=32, seed=1)["image"]
    z = photos_base.encode(images)
    full, small = psnr(images, photos_base.decode(z)), psnr(images, decoder(z))
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
        ({}, {"memory": {"recompute": True}}, "memory.recompute is true: the network of this method"),
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
