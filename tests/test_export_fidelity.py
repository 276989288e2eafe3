"""--fidelity in exports: fixed in a package of one graph, chosen by the host of one of parts; exact at its ends."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from PIL import Image
from test_knobs import CONDITION, model_of

from codi_tf.core.errors import UserError
from codi_tf.core.noise import gaussian_noise
from codi_tf.io.json_files import read_json
from codi_tf.methods.codi import ConditionalDistillation
from export import build
from export.emit.fidelity import of_ends, shares
from export.emit.program import SamplerProgram
from export.emit.sampler import estimate, step_numbers
from export.package.manifest import read_package
from export.runtime import run
from export.runtime.fidelity import faithful

STEPS = 3
SIZE = {"height": 16, "width": 16}


def test_the_first_prediction_follows_from_z_before_and_after():
    """Catches p and q of another step, and a sum that ends with another share than f."""
    step, end = (0.7, -0.4), (0.3, 1.1)  # z_s = 0.7 z - 0.4 w, x_hat = 0.3 z + 1.1 w
    random = np.random.default_rng(0)
    z, w, last = random.normal(size=(3, 5))
    z_s, x_hat = (a * z + b * w for a, b in (step, end))
    p, q = of_ends(step, end)
    np.testing.assert_allclose(p * z + q * z_s, x_hat)
    total = 99.0
    rounds = zip(shares(0.25, step, end, 3), (z, z_s, 1.0), (z_s, 2.0, last), strict=True)
    for (kept, of_z, of_after), before, after in rounds:
        total = kept * total + of_z * before + of_after * after
    np.testing.assert_allclose(total, 0.75 * last + 0.25 * x_hat, rtol=1e-6)


@pytest.mark.parametrize(
    "format", ["onnx", *(pytest.param(name, marks=pytest.mark.slow) for name in ("tflite", "saved_model"))]
)
def test_a_package_of_one_graph_has_the_fidelity_that_it_was_made_with(format, tmp_path):
    """The gate compares it with Keras. Catches a share that a format loses, and a loop that keeps the wrong step."""
    model = model_of("mu")
    program = SamplerProgram(model, steps=STEPS, fidelity=0.25, **SIZE)
    (figures,) = build.write_package([program], tmp_path / "p", format=format, report=False)
    assert figures["psnr_db"] > 80
    manifest = read_json(tmp_path / "p" / "manifest.json")
    assert (manifest["fidelity"], manifest["steps"]) == (program.at(16, 24).fidelity, STEPS) == (0.25, STEPS)
    images = [model.generate(CONDITION, steps=STEPS, fidelity=f) for f in (0.0, 0.25)]
    assert np.abs(images[0].astype(int) - images[1]).max() > 4  # far beyond what the gate lets pass
    if format != "saved_model":
        sampler = run.load(read_package(tmp_path / "p"))
        made = run.generate(sampler, CONDITION[0], seed=0)
        np.testing.assert_allclose(made, images[1][0] / 255, atol=0.003)
        with pytest.raises(UserError, match="--fidelity: that of .*p is fixed; export the model again, with --fidel"):
            run.generate(sampler, CONDITION[0], seed=0, fidelity=0.5)


def test_at_its_ends_a_package_is_that_of_all_steps_or_of_the_first_alone():
    """Catches an end that is nearly exact: the graphs are the same."""
    model = model_of("mu")
    plain, none, full, one = (
        SamplerProgram(model, steps=n, fidelity=f, **SIZE) for n, f in ((STEPS, 0), (STEPS, 0.0), (STEPS, 1), (1, 0))
    )
    assert none.grid == plain.grid and not none.mixes and not full.mixes
    assert full.grid == one.grid and full.steps == STEPS
    assert not SamplerProgram(model, steps=1, fidelity=0.5, **SIZE).mixes


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """(A model, the sampler of its package of parts)."""
    model = model_of("mu")
    folder = tmp_path_factory.mktemp("fidelity") / "p"
    program = SamplerProgram(model, steps=STEPS, **SIZE)
    build.write_package([program], folder, format="onnx", layout="parts", report=False)
    return model, run.load(read_package(folder))


@pytest.mark.parametrize("fidelity", [0.0, 0.25, 1.0])
def test_a_host_of_parts_chooses(parts, fidelity):
    """Catches a mixture of z, which is no prediction."""
    model, sampler = parts
    image = run.generate(sampler, CONDITION[0], seed=0, fidelity=fidelity)
    expected = model.generate(CONDITION[0], steps=STEPS, fidelity=fidelity) / 255
    np.testing.assert_allclose(image, expected, atol=0.003)


def test_tiles_mix_what_they_share(parts):
    """With a linear decoder, images mix as latents do. Catches tiles that leave the option out, or mix another step."""
    _, sampler = parts

    def enlarged(inputs):
        return {"image": np.repeat(np.repeat(inputs["z"][..., :3], 4, axis=1), 4, axis=2)}

    linear = dataclasses.replace(sampler, graphs={**sampler.graphs, "decoder": enlarged})
    large = np.concatenate(CONDITION)
    last, mixed, first = (run.generate(linear, large, seed=0, fidelity=f) for f in (0.0, 0.25, 1.0))
    assert np.abs(last - first).max() > 0.1
    np.testing.assert_allclose(mixed, 0.75 * last + 0.25 * first, atol=1e-4)


def test_at_its_ends_a_host_of_parts_has_the_bits_of_one_step_or_of_all(parts):
    _, sampler = parts
    noise = gaussian_noise(0, sampler.package.latent_shape)
    assert faithful(sampler, 0.0) is sampler
    first = dict(zip("ab", sampler.package.estimate, strict=True))
    alone = dataclasses.replace(sampler.package, schedule=({**sampler.package.schedule[0], **first},))
    one = dataclasses.replace(sampler, package=alone)
    np.testing.assert_array_equal(faithful(sampler, 1.0)(CONDITION[:1], noise), one(CONDITION[:1], noise))


def test_boundary_scalings_are_in_the_numbers():
    """Catches x_hat without the scalings that the model carries. No package: the numbers are all there is."""
    model = model_of("mu", method=ConditionalDistillation(boundary=True))
    program = SamplerProgram(model, steps=STEPS, **SIZE)
    end = estimate(program)
    (wanted,) = step_numbers(model, SamplerProgram(model, steps=1, **SIZE).grid)
    assert end == wanted and end.t == program.grid.steps[0].t


def test_what_is_refused(parts, tmp_path):
    model, sampler = parts
    with pytest.raises(UserError, match="fidelity is 1.5: it must be from 0"):
        SamplerProgram(model, steps=1, fidelity=1.5, **SIZE)
    old = dataclasses.replace(sampler, package=dataclasses.replace(sampler.package, estimate=None))
    with pytest.raises(UserError, match="does not say how its steps are mixed; export the model again"):
        faithful(old, 0.5)
    with pytest.raises(UserError, match="--fidelity: a package of parts takes it when it runs; give it to codi run"):
        build.make_package(tmp_path / "b", tmp_path / "out", format="onnx", layout="parts", fidelity=0.5)
    assert not (tmp_path / "out").exists()


def test_the_command_passes_it_on(parts, tmp_path):
    model, sampler = parts
    Image.fromarray(np.uint8(255 * CONDITION[0])).save(tmp_path / "in.png")
    run.main(
        [str(sampler.package.folder), "--condition", str(tmp_path / "in.png"), "--out", str(tmp_path / "out.png")]
        + ["--fidelity", "1"]
    )
    image = np.asarray(Image.open(tmp_path / "in.png"))
    expected = model.generate(image, steps=1).astype(int)
    assert np.abs(np.asarray(Image.open(tmp_path / "out.png")) - expected).max() <= 1
