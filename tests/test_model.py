"""`CoDi`: sampling, what it costs, bundles on disk. How bundles can be broken: test_broken_bundles.py."""

from __future__ import annotations

import json
import shutil

import bundles
import keras
import numpy as np
import pytest
import tensorflow as tf
from bundles import ADAPTER, refusal
from conftest import make_model
from safetensors.numpy import load_file, save_file
from tiny import randomize, tiny_base

import codi_tf
from codi_tf.adapters.adapted import AdaptedUNet
from codi_tf.adapters.mu import MuAdapter
from codi_tf.checkpoints.folder import save_base
from codi_tf.checkpoints.stable_diffusion import load_stable_diffusion
from codi_tf.core.errors import UserError
from codi_tf.core.noise import gaussian_noise
from codi_tf.io import images
from codi_tf.io.folders import MARKER
from codi_tf.io.weights import WEIGHTS
from codi_tf.methods.codi import ConditionalDistillation
from codi_tf.model import CoDi
from codi_tf.tasks import make_task

CONDITION, model, saved = bundles.CONDITION, bundles.model, bundles.saved
pytestmark = pytest.mark.usefixtures("eager")


@pytest.fixture
def pe(tmp_path):
    """(folder of a base, PE-CoDi model on it, its bundle)."""
    folder = tmp_path / "base"
    folder.mkdir()
    save_base(tiny_base(), folder)
    model = make_model(load_stable_diffusion(folder), train="adapter")
    model.save(tmp_path / "pe")
    return folder, model, tmp_path / "pe"


def latents(seed, *, count=2):
    return np.random.default_rng(seed).normal(size=(count, 4, 4, 4)).astype("float32")


# Sampling


class CountedUNet(AdaptedUNet):
    """Counts its evaluations."""

    calls = 0

    def call(self, *args):
        self.calls += 1
        return super().call(*args)


class CountedAdapter(MuAdapter):
    """Counts the computations of the condition's features."""

    calls = 0

    def call(self, *args):
        self.calls += 1
        return super().call(*args)


@pytest.mark.parametrize("steps", [1, 4])
def test_the_condition_is_seen_once_and_the_network_once_a_step(steps):
    base = tiny_base()
    model = CoDi(base)
    adapter = CountedAdapter(model.student.adapter.encoder_config, name="counted")
    adapter.build()
    model.student = CountedUNet(base.unet, adapter)
    model.sample_latents(latents(0), latents(1), steps=steps)
    assert (adapter.calls, model.student.calls) == (1, steps)


def test_sampling_is_ddim_with_the_average(model):
    condition, z = latents(0), latents(1)
    schedule, network = model.base.schedule, model.average
    features = network.condition(condition, model.base.conditioning())
    for t, s in ((999, 499), (499, None)):
        v = network(z, np.array([t]), features, model.base.conditioning()).numpy()
        alpha, sigma = schedule.alpha[t], schedule.sigma[t]
        x_hat, eps_hat = alpha * z - sigma * v, alpha * v + sigma * z
        z = x_hat if s is None else schedule.alpha[s] * x_hat + schedule.sigma[s] * eps_hat
    np.testing.assert_allclose(model.sample_latents(condition, latents(1), steps=2), z, rtol=0, atol=1e-4)


def test_a_model_trained_with_boundary_scalings_samples_with_them(model):
    settings = ConditionalDistillation(boundary=True)
    bounded = CoDi(model.base, method=settings)
    bounded.student = model.student
    plain = CoDi(model.base)
    plain.student = model.student
    z, t = latents(1), tf.constant(500)
    c_skip, c_out = 0.25 / ((500 / 999) ** 2 + 0.25), (500 / 999) / ((500 / 999) ** 2 + 0.25) ** 0.5
    expected = c_skip * z + c_out * plain.denoiser(latents(0))(z, t).x_hat
    np.testing.assert_allclose(bounded.denoiser(latents(0))(z, t).x_hat, expected, atol=1e-5)
    literal = CoDi(model.base, method=ConditionalDistillation(boundary="noise"))
    literal.student = model.student
    expected = c_skip * z + c_out * plain.denoiser(latents(0))(z, t).eps_hat
    np.testing.assert_allclose(literal.denoiser(latents(0))(z, t).eps_hat, expected, atol=1e-5)


def test_generate_is_encoding_sampling_decoding(model):
    condition = np.stack([CONDITION, CONDITION[::-1]])
    x = model.base.encode(condition / np.float32(127.5) - 1)
    noise = gaussian_noise(3, (2, 4, 4, 4))
    decoded = np.asarray(model.base.decode(model.sample_latents(x, noise, steps=2)))
    expected = images.to_uint8(np.clip((decoded + 1) / 2, 0, 1))
    generated = model.generate(condition, steps=2, seed=3)
    assert generated.dtype == np.uint8 and generated.shape == (2, 16, 16, 3) and generated.std() > 1
    assert np.abs(generated.astype(int) - expected).max() <= 1


def test_generate_takes_one_image_or_many_uint8_or_float(model):
    one = model.generate(CONDITION, steps=1)
    assert one.shape == (16, 16, 3)
    np.testing.assert_array_equal(model.generate(CONDITION[None], steps=1), one[None])
    np.testing.assert_array_equal(model.generate(CONDITION / np.float32(255), steps=1), one)
    assert not np.array_equal(model.generate(CONDITION, steps=1, seed=1), one)


@pytest.mark.parametrize(("height", "width"), [(13, 30), (3, 5), (16, 17)])
def test_any_size_comes_back_in_that_size(model, height, width):
    condition = np.random.default_rng(0).integers(0, 256, (height, width, 3), "uint8")
    assert model.generate(condition, steps=1).shape == (height, width, 3)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"steps": 0}, "steps is 0: it must be a whole number from 1 to 1000"),
        ({"steps": 1001}, "steps is 1001"),
        ({"steps": 2.0}, "steps is 2.0"),
        ({"steps": True}, "steps is True"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 1.5}, "seed is 1.5"),
        ({"seed": "a"}, "seed is 'a'"),
        ({"prompt": "a cat"}, "prompt 'a cat'"),
        ({"condition": CONDITION[..., 0]}, r"shape \(16, 16\)"),
        ({"condition": np.zeros((1, 16, 16, 4), "uint8")}, r"shape \(1, 16, 16, 4\)"),
        ({"condition": np.zeros((0, 16, 3), "uint8")}, r"shape \(0, 16, 3\)"),
        ({"condition": CONDITION.astype("int32")}, "type int32"),
        ({"condition": CONDITION.astype("float32")}, r"lies in \[0, 255\]"),
        ({"condition": np.full((16, 16, 3), np.nan)}, "nan"),
    ],
)
def test_generate_refuses_what_it_cannot_use(model, options, said):
    with pytest.raises(UserError, match=said):
        model.generate(**{"condition": CONDITION, **options})


def test_after_compile_the_average_generates():
    """What was generated before training must not pin the student."""
    tf.config.run_functions_eagerly(False)
    model = make_model(tiny_base())
    untrained = model.generate(CONDITION, steps=1)
    model.compile(keras.optimizers.AdamW(1e-3))
    np.testing.assert_array_equal(model.generate(CONDITION, steps=1), untrained)
    randomize(model.average.variables, 5)
    averaged = model.generate(CONDITION, steps=1)
    assert not np.array_equal(averaged, untrained)
    for variable in model.student.variables:
        variable.assign(variable * 0.0)
    np.testing.assert_array_equal(model.generate(CONDITION, steps=1), averaged)
    tf.config.run_functions_eagerly(True)
    eager = model.generate(CONDITION, steps=1)
    assert np.abs(eager.astype(int) - averaged).max() <= 1


def test_condition_use_is_0_where_the_condition_is_ignored(model):
    x, c = latents(0, count=4), latents(1, count=4)
    mu = model.average.adapter.mu.numpy()
    used = float(model.condition_use(x, c))
    assert used > 1e-3
    assert float(model.condition_use(x, np.repeat(c[:1], 4, axis=0))) == 0.0
    model.average.adapter.mu.assign(mu / 100)
    assert 0.0 < float(model.condition_use(x, c)) < used / 10
    model.average.adapter.mu.assign(np.zeros_like(mu))
    assert float(model.condition_use(x, c)) == 0.0
    model.average.adapter.mu.assign(mu)


def test_the_networks_are_refused_where_they_do_not_fit():
    base = tiny_base()
    base.unet = None
    with pytest.raises(UserError, match="no UNet"):
        CoDi(base)
    with pytest.raises(UserError, match="adaptation.adapter is 'lora'"):
        CoDi(tiny_base(), adapter="lora")
    with pytest.raises(UserError, match="adaptation.train is 'everything'"):
        CoDi(tiny_base(), train="everything")


# Bundles


def test_a_bundle_gives_the_same_images_and_settings(tmp_path):
    task = make_task("super_resolution", scale=2, noise_std=[0.0, 0.5])
    settings = ConditionalDistillation(z_s="predicted", delta=7)
    model = CoDi(tiny_base(), method=settings, task=task, ema_decay=0.5, mu_rate=3.0, seed=11, image_size=32)
    randomize(model.student.variables, 4)
    model.save(tmp_path / "bundle", provenance={"steps": 5})
    loaded = codi_tf.load(tmp_path / "bundle")
    np.testing.assert_array_equal(loaded.generate(CONDITION, steps=2), model.generate(CONDITION, steps=2))
    for name in ("settings", "task", "adaptation", "ema_decay", "mu_rate", "seed", "image_size"):
        assert getattr(loaded, name) == getattr(model, name), name
    assert json.loads((tmp_path / "bundle/codi.json").read_text())["provenance"] == {"steps": 5}
    files = {p.relative_to(tmp_path / "bundle").as_posix() for p in (tmp_path / "bundle").rglob("*") if p.is_file()}
    parts = {f"{part}/{file}" for part in ("unet", "vae", "adapter") for file in ("config.json", WEIGHTS)}
    assert files == parts | {MARKER, "codi.json", "scheduler/scheduler_config.json"}
    assert loaded.base.scheduler == {"_class_name": "DDIMScheduler", **model.base.scheduler}


def test_the_average_is_what_is_saved(model, saved):
    np.testing.assert_array_equal(load_file(saved / ADAPTER)["mu"], model.average.adapter.mu.numpy())
    stored = load_file(saved / "unet" / WEIGHTS)["conv_in.weight"]
    np.testing.assert_array_equal(stored.transpose(2, 3, 1, 0), model.average.unet.conv_in.kernel.numpy())
    assert not np.array_equal(model.average.unet.conv_in.kernel, model.student.unet.conv_in.kernel)
    np.testing.assert_array_equal(codi_tf.load(saved).generate(CONDITION, steps=1), model.generate(CONDITION, steps=1))


def test_float16_takes_half_the_room_and_is_close(model, saved, tmp_path):
    model.save(tmp_path / "half", dtype="float16")
    for part in ("unet", "vae", "adapter"):
        full, half = load_file(saved / part / WEIGHTS), load_file(tmp_path / "half" / part / WEIGHTS)
        assert sum(v.nbytes for v in full.values()) == 2 * sum(v.nbytes for v in half.values())
    loaded = codi_tf.load(tmp_path / "half")
    assert {v.dtype for v in loaded.variables} == {"float32"}
    difference = loaded.generate(CONDITION, steps=1).astype(int) - model.generate(CONDITION, steps=1)
    assert 0 < np.abs(difference).max() <= 8


def test_a_pe_bundle_holds_the_adapter_alone(pe):
    folder, model, bundle = pe
    assert sorted(p.name for p in bundle.iterdir()) == [MARKER, "adapter", "codi.json"]
    reference = json.loads((bundle / "codi.json").read_text())["base"]
    assert (bundle / reference["path"]).resolve() == folder and len(reference["sha256"]) == 64
    loaded = codi_tf.load(bundle)
    np.testing.assert_array_equal(loaded.generate(CONDITION, steps=1), model.generate(CONDITION, steps=1))
    assert loaded.adaptation.train == "adapter"
    assert len(loaded.trainable_variables) == len(loaded.student.adapter.variables)


def test_a_pe_bundle_refuses_another_base(pe):
    folder, _, bundle = pe
    weights = load_file(folder / "unet" / WEIGHTS)
    weights["conv_in.bias"][0] += 1e-3
    save_file(weights, folder / "unet" / WEIGHTS)
    assert f"its base {folder} has changed" in refusal(bundle)
    shutil.rmtree(folder)
    line = refusal(bundle)
    assert f"{folder} is missing" in line and "codi.json" in line


def test_a_pe_model_of_a_base_without_a_folder_is_saved_whole(tmp_path):
    make_model(tiny_base(), train="adapter").save(tmp_path / "bundle")
    assert (tmp_path / "bundle/unet" / WEIGHTS).is_file()
    loaded = codi_tf.load(tmp_path / "bundle")
    assert len(loaded.trainable_variables) == len(loaded.student.adapter.variables)
