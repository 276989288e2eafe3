"""Every switch of every method: two steps of training, begun as the program begins it, then two of sampling."""

from __future__ import annotations

import dataclasses
import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import SCHEDULER, make_model
from tiny import tiny_base

import codi_tf
from codi_tf import config
from codi_tf.checkpoints.folder import save_base
from codi_tf.diffusion.samplers import SAMPLERS
from codi_tf.evaluation.features import FeatureNetwork, save_features
from codi_tf.methods.finetune import Finetune
from codi_tf.methods.guided import Guided
from codi_tf.training.experiment import build_trainer, save_result

STAGE_1 = {"name": "guided", "stage": 1, "guidance": [1.0, 2.0]}
HALVING = {"name": "guided", "stage": 2, "steps": [4, 2], "updates": 1}


def codi(**switches):
    return {"name": "codi", "delta": 50, "guidance_weight": 1.0, **switches}


def consistency(**switches):
    return {"name": "consistency", "delta": 50, **switches}


CASES = {  # what it starts from, what is trained, the method, the sampler that goes with it
    "z_s predicted, signal": ("base", "all", codi(z_s="predicted", consistency="signal", guidance="none"), "ddim"),
    "z_s frozen, velocity": ("tuned", "adapter", codi(z_s="frozen", consistency="velocity"), "ddim"),
    "boundary scalings": ("base", "all", codi(boundary=True, t="per_sample"), "ddim"),
    # Whatever these learn has come through the decoder.
    "encoded alone": ("base", "all", codi(consistency="none", guidance="encoded"), "ddim"),
    "pixel alone": ("base", "adapter", codi(consistency="none", guidance="pixel"), "ddim"),
    "perceptual alone": ("base", "all", codi(consistency="none", guidance="perceptual", features="features"), "ddim"),
    "CM, perceptual": ("tuned", "all", consistency(distance="perceptual", features="features"), "consistency"),
    "CM, boundary scalings": ("tuned", "adapter", consistency(boundary=True), "consistency"),
    "fine-tuning": ("base", "adapter", {"name": "finetune", "drop_condition": 0.1}, "ddim"),
    "guided, stage 1": ("tuned", "all", STAGE_1, "ddim"),
    "guided, stage 2": ("guided", "all", {**HALVING, "guidance": [1.0, 2.0], "stochastic": True}, "stochastic"),
}


@pytest.fixture(scope="module")
def starts(tmp_path_factory):
    """A folder of what trainings start from, by its name."""
    folder = tmp_path_factory.mktemp("starts")
    for name, prediction_type in (("base", "v_prediction"), ("epsilon", "epsilon")):
        (folder / name).mkdir()
        scheduler = {**SCHEDULER, "prediction_type": prediction_type}
        save_base(dataclasses.replace(tiny_base(), scheduler=scheduler), folder / name)
    tuned = make_model(tiny_base(), method=Finetune(drop_condition=0.1))
    tuned.save(folder / "tuned")
    guided = Guided(stage=1, guidance=STAGE_1["guidance"])
    codi_tf.CoDi(tuned.base, tuned.student.adapter, method=guided, image_size=16).save(folder / "guided")
    keras.utils.set_random_seed(0)
    features = FeatureNetwork(num_photos=2, widths=(4, 4, 4, 4, 4), name="features")
    features.build()
    save_features(features, folder / "features")
    return folder


def experiment(base, method, task="super_resolution", **sections):
    values = {"method": method, "base": str(base), "data": {"image_size": 16}, **sections}
    values["train"] = {"steps": 2, "warmup_steps": 0, "learning_rate": 1e-2, "ema_decay": 0.5}
    return config.from_dict({**values, "task": None if task is None else {"name": task}})


def latents(*names):
    random = np.random.default_rng(0)
    return {name: tf.constant(random.normal(size=(2, 4, 4, 4)).astype("float32")) for name in names}


def condition():
    return np.random.default_rng(1).uniform(size=(16, 16, 3)).astype("float32")


def learn(trainer):
    """Two steps: finite, with a gradient, and what is trained moves, nothing else."""
    student, base = trainer.student, trainer.method.base
    frozen = trainer.method.frozen
    variables = [*student.variables, *base.vae.variables, *([] if frozen is None else frozen.variables)]
    before = [variable.numpy() for variable in variables]
    batch = latents("latent", *(() if student.adapter is None else ("condition_latent",)))
    for _ in range(2):
        logs = {name: float(value) for name, value in trainer.train_step(batch).items()}
        assert np.isfinite(list(logs.values())).all() and logs["skipped"] == 0 and logs["gradient_norm"] > 0
    moved = {id(v) for v, old in zip(variables, before, strict=True) if not np.array_equal(v.numpy(), old)}
    trained = {id(v) for v in student.trainable_variables}
    assert moved <= trained and len(moved) > 0.85 * len(trained)  # an empty prompt gives its attention no gradient


def generated(model, **options):
    """An image that is one."""
    image = model.generate(condition(), **options)  # refuses what is not finite
    assert image.shape == (16, 16, 3) and image.dtype == np.uint8 and len(np.unique(image)) > 50
    return image


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("name", CASES)
def test_a_switch_trains_and_samples(starts, name):
    start, train, method, sampler = CASES[name]
    if "features" in method:
        method = {**method, "features": str(starts / method["features"])}
    trainer = build_trainer(experiment(starts / start, method, adaptation={"train": train}))
    trained = {id(v) for v in trainer.trainable_variables}
    unet_and_adapter = [id(part.variables[0]) in trained for part in (trainer.student.unet, trainer.student.adapter)]
    assert unet_and_adapter == [train == "all", True]
    learn(trainer)
    generated(trainer, steps=2, sampler=sampler)


@pytest.mark.usefixtures("eager")
def test_gd_1_from_end_to_end(starts, tmp_path):
    """A base that predicts noise is converted, halved, fine-tuned with an adapter and sampled."""
    stages = {
        "converted": ({"name": "pretrain", "scheduler": {"prediction_type": "v_prediction"}}, None),
        "halved": (HALVING, None),
        "tuned": ({"name": "finetune"}, "super_resolution"),
    }
    before, start = codi_tf.load_stable_diffusion(starts / "epsilon").unet, starts / "epsilon"
    for name, (method, task) in stages.items():
        settings = experiment(start, method, task)
        trainer, start = build_trainer(settings), tmp_path / name
        assert trainer.method.base.prediction_type == "v_prediction"
        for ours, theirs in zip(trainer.student.unet.variables, before.variables, strict=True):
            np.testing.assert_array_equal(ours.numpy(), theirs.numpy())
        learn(trainer)
        save_result(settings, trainer, start, {})
        before = trainer.average.unet
    np.testing.assert_array_equal(generated(codi_tf.load(start), steps=2), generated(trainer, steps=2))


ALIKE = {  # evaluations -> samplers that are the same, by their definitions
    2: [{"ddim", "dpm", "dpm++"}, {"stochastic", "consistency"}],
    4: [{name} for name in SAMPLERS],
}


@pytest.fixture(scope="module")
def model(starts):
    return codi_tf.load(starts / "tuned")


@pytest.mark.parametrize("steps", ALIKE)
def test_samplers_differ_and_repeat_themselves(model, steps):
    near = {("ddpm", 2), ("lcm", 2)}  # which are nearly, not quite, "consistency"
    names = [name for name in SAMPLERS if (name, steps) not in near]
    images = {name: generated(model, steps=steps, sampler=name, seed=3) for name in names}
    for a, b in itertools.combinations(names, 2):
        alike = any({a, b} <= same for same in ALIKE[steps])
        assert np.array_equal(images[a], images[b]) == alike, (a, b)
    for name, image in images.items():
        np.testing.assert_array_equal(generated(model, steps=steps, sampler=name, seed=3), image)
        assert not np.array_equal(generated(model, steps=steps, sampler=name, seed=4), image)
