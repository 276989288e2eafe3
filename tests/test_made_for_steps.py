"""A model that is made for N evaluations: its loss, its warnings, the average that generates, and N in its bundle."""

from __future__ import annotations

import dataclasses
import json
import warnings

import keras
import numpy as np
import pytest
import yaml
from commands import run_here
from conftest import SCHEDULER, make_model
from tiny import randomize, tiny_base, tiny_run
from training_steps import compiled, latents, values

import codi_tf
from codi_tf.cli import restore, train
from codi_tf.core.errors import UserError
from codi_tf.inference.rendering import render
from codi_tf.io.images import read_image, write_png
from codi_tf.methods.codi import ConditionalDistillation
from codi_tf.methods.draws import Draws
from codi_tf.methods.finetune import Finetune
from codi_tf.trainers.trainer import result_share
from export.build import make_package
from export.package.manifest import read_package

PAPER = {"z_s": "own", "consistency": "noise", "guidance_weight": 1.0, "delta": 1}
OLD = ConditionalDistillation(**PAPER)
IMAGE = np.random.default_rng(0).integers(0, 256, (24, 24, 3), "uint8")


def with_base(prediction_type: str, **options):
    scheduler = {**SCHEDULER, "prediction_type": prediction_type}
    return make_model(dataclasses.replace(tiny_base(), scheduler=scheduler), **options)


def said_at_compile(model) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.compile(keras.optimizers.AdamW(1e-3))
        model.compile(keras.optimizers.AdamW(1e-3))  # says nothing again
    return [str(one.message) for one in caught if str(one.message).startswith("method:")]


# The loss


@pytest.mark.parametrize(("steps", "delta"), [(None, None), (2, 100), (1000, None)])
def test_steps_give_the_weight(steps, delta):
    method = make_model(tiny_base(), method=ConditionalDistillation(steps=steps, delta=delta)).method
    assert method.delta == (delta or 62)  # T / 16
    assert method.weight == pytest.approx(method.delta * (steps or 4) / 1000)
    assert method.settings.sampling_steps == (steps or 4)


def test_more_steps_than_training_times_are_refused():
    with pytest.raises(UserError, match="method.steps is 1001: it must be from 1 to 1000, the training times"):
        make_model(tiny_base(), method=ConditionalDistillation(steps=1001))


def test_an_explicit_weight_decides():
    settings = ConditionalDistillation(guidance_weight=0.25, delta=62)
    method = make_model(tiny_base(), method=settings).method
    assert (method.weight, settings.steps, settings.sampling_steps) == (0.25, None, None)


@pytest.mark.parametrize("t", ["shared", "per_sample"])
def test_the_terms_of_a_noise_network_are_weighted_by_alpha(t):
    """Catches gradients that high noise dominates, and a weight where the loss is to be as it is printed."""
    terms = {}
    for kind in ("epsilon", "v_prediction"):
        for name, how in (("steps", {"steps": 4}), ("plain", {"guidance_weight": 0.248})):
            model = with_base(kind, method=ConditionalDistillation(t=t, delta=62, **how))
            model.method.start_target()
            terms[kind, name] = model.method.loss_terms(latents(3), Draws(0, 5))
            base = model.base
    times = Draws(0, 5).times(latents(3)["latent"], low=1, high=1000, shared=t == "shared")
    alpha = base.schedule.alpha[times.numpy()]
    for name in ("consistency", "guidance"):
        expected = alpha**2 * terms["epsilon", "plain"][name].numpy()
        np.testing.assert_allclose(terms["epsilon", "steps"][name], expected, rtol=1e-5)
        np.testing.assert_allclose(terms["v_prediction", "steps"][name], terms["v_prediction", "plain"][name])


# Warnings


@pytest.mark.parametrize(
    ("kind", "settings", "said"),
    [
        ("v_prediction", {}, []),
        ("epsilon", {}, []),
        ("v_prediction", PAPER, ["stays close to an undistilled one"]),
        ("v_prediction", {"guidance": "none", "guidance_weight": 1.0}, ["training will diverge"]),
        ("sample", {}, ["training will diverge"]),
    ],
)
def test_a_training_that_cannot_work_says_so_once(kind, settings, said):
    found = said_at_compile(with_base(kind, method=ConditionalDistillation(**settings)))
    assert len(found) == len(said) and all(part in line for part, line in zip(said, found, strict=True))


def test_the_command_says_so_in_one_line_before_it_trains(tmp_path):
    values = tiny_run(tmp_path, steps=1, save_every=0)
    values["method"] = {"name": "codi", **PAPER}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(values), "utf-8")
    done = run_here(train.main, tmp_path / "run.yaml", "--out", tmp_path / "run")
    lines = [line for line in done.stderr.splitlines() if line.startswith("warning: ")]
    assert done.returncode == 0 and len(lines) == 1 and "z_s own, consistency noise, delta 1" in lines[0]
    assert done.stderr.index(lines[0]) < done.stderr.index("compiling the first update")


# The result's own average


def test_the_share_of_an_update_falls_from_one_to_its_end():
    shares = [float(result_share(0.999, updates)) for updates in (1, 2, 11, 9991, 100_000)]
    np.testing.assert_allclose(shares, [1.0, 10 / 11, 0.5, 1e-3, 1e-3], rtol=1e-4)


def test_the_result_is_an_average_of_its_own_beside_the_target():
    """Catches a result that is theta-, one that keeps the weights from before training, and a share of the other."""
    model = compiled(result_decay=0.5)
    result = values(model.average.variables)
    for update in (1, 2, 3, 4):
        model.train_step(latents())
        share = np.float32(max(0.5, 10 / (9 + update)))
        result = [m + share * (v - m) for m, v in zip(result, values(model.student.variables), strict=True)]
        for expected, value in zip(result, values(model.average.variables), strict=True):
            np.testing.assert_allclose(value, expected, rtol=0, atol=1e-7)
    assert model.network is model.average and model.method.target is model.target is not model.average
    assert max(np.abs(a - b).max() for a, b in zip(result, values(model.target.variables), strict=True)) > 1e-4


def test_the_result_goes_on_after_another_compile_and_a_skipped_update(eager):
    """Catches a warm-up that counts the optimizer's updates: a new optimizer would throw the average away."""
    model = compiled()
    for _ in range(3):
        model.train_step(latents())
    before = values(model.average.variables)
    model.compile(keras.optimizers.AdamW(1e-3))
    model.train_step({name: value * np.nan for name, value in latents().items()})
    for expected, value in zip(before, values(model.average.variables), strict=True):
        np.testing.assert_array_equal(value, expected)
    model.train_step(latents())
    assert int(model.averaged) == 4
    expected = [m + np.float32(10 / 13) * (v - m) for m, v in zip(before, values(model.student.variables), strict=True)]
    for one, value in zip(expected, values(model.average.variables), strict=True):
        np.testing.assert_allclose(value, one, rtol=0, atol=1e-7)


@pytest.mark.parametrize(("train", "networks"), [("all", 1), ("adapter", 0)])
def test_no_copy_is_made_that_nothing_needs(train, networks):
    """Catches a third copy of the weights for a method without a target, and one of a base that is not trained."""
    model = compiled(train=train)
    unets = {id(network.unet) for network in (model.student, model.target, model.average)}
    assert len(unets) == 1 + 2 * networks
    assert len({id(network.adapter) for network in (model.student, model.target, model.average)}) == 3
    one = compiled(train=train, result_decay=0)
    assert one.average is one.target and one.averaged is None
    tuned = compiled(train=train, method=Finetune())
    assert tuned.target is None and tuned.averaged is None and tuned.result_decay == 0
    alone = ConditionalDistillation(consistency="none", guidance_weight=1.0)
    assert compiled(train=train, method=alone).target is None


def test_without_an_average_of_its_own_the_result_is_that_of_0_1_0(eager):
    """The same bits for theta-, with a second average or without."""
    two, one = compiled(), compiled(result_decay=0)
    for model in (two, one):
        for _ in range(2):
            model.train_step(latents())
    for a, b in zip(values(two.target.variables), values(one.average.variables), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_method_without_a_target_takes_no_second_decay():
    with pytest.raises(UserError, match=r"result_decay is 0.9: this method has no target network.*use ema_decay"):
        make_model(tiny_base(), method=Finetune(), result_decay=0.9)
    with pytest.raises(UserError, match="result_decay is 1.0"):
        make_model(tiny_base(), result_decay=1.0)


# N in bundles


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """A bundle that is made for two evaluations."""
    model = make_model(tiny_base(), method=ConditionalDistillation(steps=2))
    randomize(model.student.adapter.encoder.variables, 1)
    folder = tmp_path_factory.mktemp("made_for_2") / "bundle"
    model.save(folder)
    return folder


def test_a_bundle_says_for_how_many_steps_it_is_made(bundle):
    about = json.loads((bundle / "codi.json").read_text("utf-8"))
    assert about["method"]["steps"] == 2 and about["result_decay"] == 0.999
    model = codi_tf.load(bundle)
    assert model.result_decay == 0.999
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = model.generate(IMAGE)
        np.testing.assert_array_equal(model.generate(IMAGE, steps=2), made)
        np.testing.assert_array_equal(
            render(model, IMAGE / np.float32(255), tile=16), render(model, IMAGE / np.float32(255), tile=16, steps=2)
        )
    with pytest.warns(UserWarning, match="steps is 4: this model is made for 2"):
        assert not np.array_equal(model.generate(IMAGE, steps=4), made)


def test_other_models_take_four_steps_and_any_number_without_a_word():
    for settings in (OLD, Finetune()):
        model = make_model(tiny_base(), method=settings)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert (model.steps_for(None), model.steps_for(8)) == (4, 8)
    halved = codi_tf.Guided(stage=2, steps=[16, 8], updates=1)
    assert halved.sampling_steps == 8 and codi_tf.Guided(stage=1).sampling_steps is None


@pytest.mark.filterwarnings("default:steps is")
def test_the_commands_take_the_steps_of_the_bundle(bundle, tmp_path):
    write_png(tmp_path / "in.png", IMAGE)
    words = [bundle, "--condition", tmp_path / "in.png", "--out"]
    done = run_here(restore.main, *words, tmp_path / "out.png")
    assert done.returncode == 0 and "warning" not in done.stderr
    expected = codi_tf.load(bundle).generate(IMAGE)
    np.testing.assert_allclose(255 * read_image(tmp_path / "out.png"), expected, atol=1)
    done = run_here(restore.main, *words, tmp_path / "other.png", "--steps", 4)
    lines = [line for line in done.stderr.splitlines() if "made for" in line]
    assert done.returncode == 0 and lines == ["warning: steps is 4: this model is made for 2"]


def test_a_package_has_the_steps_of_the_bundle(bundle, tmp_path):
    make_package(bundle, tmp_path / "package", format="saved_model", report=False)
    assert read_package(tmp_path / "package").steps == 2
