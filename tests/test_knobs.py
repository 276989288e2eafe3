"""--condition-scale and --fidelity: exact at their ends, as the formulas say between them, in Keras and in exports."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from conftest import make_base, make_model
from PIL import Image
from tiny import randomize, tiny_base

import codi_tf
from codi_tf.adapters.adapted import AdaptedUNet
from codi_tf.cli import sample
from codi_tf.core.errors import UserError
from codi_tf.core.noise import gaussian_noise
from codi_tf.inference.tiling import generate_tiled
from codi_tf.io.json_files import read_json
from export import build
from export.emit.program import SamplerProgram
from export.package.adapters import with_adapter
from export.package.manifest import read_package
from export.runtime import run
from export.runtime.sampler import scaled

CONDITION = np.random.default_rng(0).uniform(size=(2, 16, 16, 3)).astype("float32")


def model_of(adapter: str, **options) -> codi_tf.CoDi:
    """A tiny model whose adapter acts."""
    model = codi_tf.CoDi(tiny_base(), adapter=adapter, train="adapter", image_size=16, **options)
    randomize(model.student.adapter.variables)
    return model


def outputs(model, scale, adapter=True):
    """The network's output for two conditions at one z_t, without a graph."""
    base, network, conditioning = model.base, model.network, model.base.conditioning()
    z_t = tf.constant(gaussian_noise(1, (2, 4, 4, 4)))
    features = network.condition(model.encode_condition(tf.constant(2 * CONDITION - 1)), conditioning)
    network = network if adapter else AdaptedUNet(base.unet)
    return network(z_t, tf.constant([700]), features, conditioning, condition_scale=scale).numpy()


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("adapter", ["mu", "controlnet", "t2i"])
def test_a_condition_counts_not_at_all_or_as_in_training_or_in_proportion(adapter):
    """Catches a scale of 0 that leaves something of the condition, and one of 1 that changes a bit of the image."""
    model = model_of(adapter)
    np.testing.assert_array_equal(outputs(model, 0.0), outputs(model, None, adapter=False))
    assert np.abs(outputs(model, 0.5) - outputs(model, None)).max() > 1e-3
    image = model.generate(CONDITION, steps=2)
    np.testing.assert_array_equal(model.generate(CONDITION, steps=2, condition_scale=1.0), image)
    without = model.generate(CONDITION, steps=2, condition_scale=0.0)
    np.testing.assert_array_equal(model.generate(CONDITION[::-1], steps=2, condition_scale=0.0), without)
    assert (without != image).any()


@pytest.mark.usefixtures("eager")
def test_the_scale_is_a_factor_of_mu():
    """Catches a scale that multiplies the features and leaves the weight of the UNet's own as it was."""
    model = model_of("mu")
    scaled, mu = outputs(model, 1.6), model.network.adapter.mu
    mu.assign(1.6 * mu)
    np.testing.assert_allclose(scaled, outputs(model, None), rtol=0, atol=2e-6 * np.abs(scaled).max())


@pytest.mark.usefixtures("eager")
def test_fidelity_leads_from_the_last_steps_prediction_to_the_first_steps():
    """Catches ends that are swapped or only nearly exact, in one piece and in tiles."""
    model = model_of("mu")
    noise, conditioning = gaussian_noise(0, model.latent_shape(2, 16, 16)), model.base.conditioning()
    steps = list(model.generator.trajectory(2 * CONDITION - 1, noise, conditioning, steps=3))
    first, last = steps[0].x_hat.numpy(), steps[-1].x_hat.numpy()
    assert np.abs(first - last).max() > 1e-3
    done = []
    for fidelity, expected in ((0.0, last), (1.0, first), (0.25, 0.75 * last + 0.25 * first)):
        options = {"steps": 3, "fidelity": fidelity, "report": done.append}
        latents = model.generator.latents(2 * CONDITION - 1, noise, conditioning, **options)
        np.testing.assert_array_equal(latents, expected)
    assert done == 3 * [1, 2, 3]
    one = model.generate(CONDITION, steps=1)
    np.testing.assert_array_equal(model.generate(CONDITION, steps=3, fidelity=1), one)
    assert (model.generate(CONDITION, steps=3) != one).any()
    tiled = {"tile": 16, "overlap": 0}
    large = np.concatenate(CONDITION)
    few, more = (generate_tiled(model, large, steps=n, fidelity=f, **tiled) for n, f in ((1, 0), (2, 1)))
    np.testing.assert_array_equal(few, more)
    small, all_at_once = generate_tiled(model, large, steps=1, condition_scale=0, **tiled), few
    assert (small != all_at_once).any()


@pytest.mark.parametrize(
    ("adapter", "options", "message"),
    [
        ("mu", {"condition_scale": -0.5}, "condition_scale is -0.5: it must be a number from 0 to 10"),
        ("mu", {"condition_scale": float("nan")}, "condition_scale is nan"),
        ("mu", {"condition_scale": "1"}, "condition_scale is '1'"),
        ("mu", {"fidelity": 1.5}, "fidelity is 1.5: it must be from 0, the last step's image, to 1, the first's"),
        ("mu", {"fidelity": float("inf")}, "fidelity is inf"),
        ("concat", {"condition_scale": 0.5}, r"is an input of this model's UNet \(Concat\), which has no scale; leave"),
    ],
)
def test_mistakes(adapter, options, message):
    with pytest.raises(UserError, match=message):
        model_of(adapter).generate(CONDITION, **options)


@pytest.mark.usefixtures("eager")
def test_the_command_passes_both_on(bundle, tmp_path):
    """Catches an option that is parsed and then dropped."""
    Image.fromarray(np.uint8(255 * CONDITION[0])).save(tmp_path / "in.png")
    flags = ["--steps", "2", "--condition-scale", "2", "--fidelity", "0.5"]
    sample.main([str(bundle), "--condition", str(tmp_path / "in.png"), "--out", str(tmp_path / "out.png"), *flags])
    model, image = codi_tf.load(bundle), np.asarray(Image.open(tmp_path / "in.png"))
    expected = model.generate(image, steps=2, condition_scale=2.0, fidelity=0.5)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out.png")), expected)
    assert all((model.generate(image, steps=2, **one) != expected).any() for one in ({"condition_scale": 2.0}, {}))


# --- exports: the gate compares a package with the Keras model at the same scale


@pytest.mark.parametrize(
    ("adapter", "format", "layout"),
    [
        ("t2i", "tflite", "parts"),
        pytest.param("mu", "onnx", "parts", marks=pytest.mark.slow),
        pytest.param("mu", "onnx", "whole", marks=pytest.mark.slow),
        pytest.param("controlnet", "onnx", "parts", marks=pytest.mark.slow),
    ],
)
def test_a_package_has_the_scale_that_it_was_made_with_and_takes_another(adapter, format, layout, tmp_path):
    """Catches a scale that an adapter's emitted graphs leave out, and features that are scaled away from 0 alone."""
    model = model_of(adapter)
    program = SamplerProgram(model, steps=2, height=16, width=16, condition_scale=1.5)
    build.write_package([program], tmp_path / "p", format=format, layout=layout, report=False)
    assert read_json(tmp_path / "p" / "manifest.json")["condition_scale"] == program.at(16, 24).condition_scale == 1.5
    sampler = run.load(read_package(tmp_path / "p"))
    if adapter == "controlnet" or layout == "whole":
        with pytest.raises(UserError, match="--condition-scale: that of .*p is fixed; export the model again, with"):
            scaled(sampler, 2.0)
        return
    image = run.generate(scaled(sampler, 0.4 / 1.5), CONDITION[0], seed=0)
    expected = model.generate(CONDITION[0], steps=2, condition_scale=0.4) / 255
    np.testing.assert_allclose(image, expected, atol=0.003)
    assert np.abs(run.generate(sampler, CONDITION[0], seed=0) - expected).max() > 0.01


@pytest.mark.slow
def test_another_adapter_brings_a_scale_of_its_own(tmp_path):
    """Catches a scale in the parts that a package shares with other adapters of its base."""
    base = make_base()
    for name, scale in (("a", 0.2), ("b", 0.7)):
        model = make_model(base, train="adapter")
        model.network.adapter.mu.assign(model.network.adapter.mu * scale)
        model.save(tmp_path / f"bundle-{name}")
    shared = {"steps": 2, "sizes": [(16, 16)], "report": False}
    build.make_package(tmp_path / "bundle-a", tmp_path / "a", format="onnx", layout="parts", **shared)
    build.make_adapter(
        tmp_path / "bundle-b", tmp_path / "plug", package=tmp_path / "a", condition_scale=2.0, report=False
    )
    sampler = run.load(with_adapter(read_package(tmp_path / "a"), tmp_path / "plug"))
    image = run.generate(sampler, CONDITION[0], seed=0)
    expected = codi_tf.load(tmp_path / "bundle-b").generate(CONDITION[0], steps=2, condition_scale=2.0)
    np.testing.assert_allclose(image, expected / 255, atol=0.003)


@pytest.mark.parametrize(("adapter", "scale", "message"), [("concat", 2.0, "has no scale"), ("mu", 0.0, "use more")])
def test_an_export_without_a_condition_or_a_scale_is_refused(adapter, scale, message):
    with pytest.raises(UserError, match=message):
        SamplerProgram(model_of(adapter), steps=1, height=16, width=16, condition_scale=scale)
