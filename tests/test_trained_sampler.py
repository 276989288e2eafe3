"""A model is sampled as it was trained: by its sampler unless another is named, and at the times that it knows."""

from __future__ import annotations

import json

import numpy as np
import pytest
from commands import run_here
from conftest import make_model
from tiny import tiny_base

import codi_tf
from codi_tf.checkpoints.folder import save_base
from codi_tf.cli import evaluate, restore
from codi_tf.cli.evaluate_options import parse
from codi_tf.core.errors import UserError
from codi_tf.diffusion.halving import halving_steps
from codi_tf.diffusion.sampling import make_checkpoint_grid
from codi_tf.evaluation.entries import make_entries
from codi_tf.evaluation.samplers import model_sampler
from codi_tf.inference.rendering import render
from codi_tf.io.images import write_png
from codi_tf.methods.guided import trailing_scheduler
from export.emit.program import SamplerProgram

IMAGE = np.random.default_rng(0).random((24, 24, 3)).astype("float32")
STOCHASTIC = codi_tf.Guided(stage=2, steps=[8, 4], updates=1, stochastic=True)


pytestmark = pytest.mark.usefixtures("eager")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """A bundle of CM-II: fine-tuned, then trained for consistency."""
    tuned = make_model(tiny_base(), method=codi_tf.Finetune())
    model = codi_tf.CoDi(tuned.base, tuned.student.adapter, method=codi_tf.Consistency(), image_size=16)
    folder = tmp_path_factory.mktemp("consistency") / "bundle"
    model.save(folder)
    return folder


@pytest.fixture(scope="module")
def model(bundle):
    return codi_tf.load(bundle)


def test_a_method_says_which_sampler_it_trains_for():
    assert codi_tf.Consistency().sampler == "consistency" and STOCHASTIC.sampler == "stochastic"
    assert codi_tf.Guided(stage=2, steps=[4], updates=1).sampler == codi_tf.ConditionalDistillation().sampler == "ddim"


def test_generating_takes_the_sampler_of_the_training(model):
    """CM-II was sampled by DDIM, for which it is not trained: 128 against 17.7 in FD-photos."""
    by_default, own, other = (model.generate(IMAGE, steps=2, sampler=name) for name in (None, "consistency", "ddim"))
    np.testing.assert_array_equal(by_default, own)
    assert np.abs(by_default.astype(int) - other).max() > 4
    tiled = [render(model, IMAGE, tile=16, steps=2, sampler=name) for name in (None, "consistency")]
    np.testing.assert_array_equal(*tiled)
    condition = 2 * IMAGE[None, :16, :16] - 1
    (first, _), (second, _) = (model_sampler(model, 2, sampler=name)(condition) for name in (None, "consistency"))
    np.testing.assert_array_equal(first, second)


def test_the_command_says_which_sampler_it_takes(bundle, model, tmp_path):
    write_png(tmp_path / "in.png", (255 * IMAGE).astype("uint8"))
    words = [bundle, "--condition", tmp_path / "in.png", "--steps", 2, "--out"]
    done = run_here(restore.main, *words, tmp_path / "out.png")
    assert done.returncode == 0 and f"sampler consistency, which {bundle} is trained for\n" in done.stderr
    expected = model.generate((255 * IMAGE).astype("uint8"), steps=2)
    np.testing.assert_allclose((255 * codi_tf.read_image(tmp_path / "out.png")).round(), expected, atol=1)
    done = run_here(restore.main, *words, tmp_path / "other.png", "--sampler", "ddim")
    assert done.returncode == 0 and "sampler" not in done.stderr


def test_an_evaluation_takes_the_sampler_of_each_bundle(bundle, model, tmp_path):
    models = {"cm": model, "codi": make_model(tiny_base())}
    entries = make_entries(models, None, prompts=None)
    assert [(one.label, one.options["sampler"]) for one in entries] == [("cm", "consistency"), ("codi", "ddim")]
    options = parse([str(bundle), "--out", str(tmp_path / "report")], "evaluate")
    assert options.samplers is None
    options.bundles = {"cm": bundle, "codi": bundle}
    about = evaluate._about(options, entries, "4 crops")
    assert "Samplers: consistency, ddim." in about and f"`{bundle}`, sampler consistency" in about
    assert evaluate._settings(options, models, [], (4, 16, 16, 3))["samplers"] == ["consistency", "ddim"]


def test_an_export_takes_it_too_or_says_why_not(model):
    said = r"sampler is 'consistency' \(this model is trained for it: with 1 step it can be exported\): exported steps"
    with pytest.raises(UserError, match=said):
        SamplerProgram(model, steps=2, height=16, width=16)
    assert SamplerProgram(model, steps=1, height=16, width=16).sampler == "consistency"
    assert SamplerProgram(model, steps=2, height=16, width=16, sampler="ddim").sampler == "ddim"


# A base whose steps were halved


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"timestep_spacing": "leading", "steps_offset": 1, "set_alpha_to_one": False, "_class_name": "PNDMScheduler"},
        {"timestep_spacing": "linspace", "_class_name": "EulerDiscreteScheduler", "final_sigmas_type": "sigma_min"},
    ],
)
def test_the_scheduler_of_a_halved_base_has_the_steps_that_were_trained(config):
    """751, 501, 251, 1 in place of 999, 749, 499, 249, the last of them not to the data."""
    schedule = tiny_base().schedule
    grid = make_checkpoint_grid("ddim", trailing_scheduler(config), schedule, 4)
    trained = halving_steps(schedule, 4)
    assert [step[:5] for step in grid.steps] == [(*pair[:3], *pair[6:]) for pair in trained]
    other = make_checkpoint_grid("ddim", config, schedule, 4)
    assert [step.t for step in other.steps] != [pair.t for pair in trained]


def test_a_base_is_halved_saved_and_sampled_at_the_times_of_its_training(tmp_path):
    """From the method to the folder, and diffusers' scheduler on it."""
    (tmp_path / "base").mkdir()
    start = tiny_base()
    start.scheduler |= {"_class_name": "DDIMScheduler", "set_alpha_to_one": False, "steps_offset": 1}
    save_base(start, tmp_path / "base")
    settings = codi_tf.Guided(stage=2, steps=[4], updates=1)
    base, student = settings.load(str(tmp_path / "base"))
    method = settings.build(base, student)
    (tmp_path / "result").mkdir()
    method.save(method.start_average(), tmp_path / "result", dict)
    halved = codi_tf.load_stable_diffusion(tmp_path / "result")
    grid = make_checkpoint_grid("ddim", halved.scheduler, halved.schedule, 4)
    trained = [(*pair[:3], *pair[6:]) for pair in halving_steps(halved.schedule, 4)]
    assert [step[:5] for step in grid.steps] == trained
    diffusers = pytest.importorskip("diffusers")
    theirs = diffusers.DDIMScheduler.from_pretrained(tmp_path / "result/scheduler")
    theirs.set_timesteps(4)
    assert theirs.timesteps.tolist() == [999, 749, 499, 249] and float(theirs.final_alpha_cumprod) == 1.0


def test_a_bundle_of_stage_2_says_so_too_unless_its_base_is_named_and_stays(tuned_bundle, tmp_path):
    tuned = codi_tf.load(tuned_bundle)
    options = {"method": codi_tf.Guided(stage=2, steps=[4], updates=1), "image_size": 16}
    codi_tf.CoDi(tuned.base, tuned.student.adapter, **options).save(tmp_path / "all")
    scheduler = json.loads((tmp_path / "all/scheduler/scheduler_config.json").read_text())
    assert scheduler["timestep_spacing"] == "trailing"
    alone = codi_tf.CoDi(tiny_base(), tuned.student.adapter, "adapter", **options)
    assert "timestep_spacing" not in alone.base.scheduler
