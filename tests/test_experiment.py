"""From a config to a trainer: what it starts from, and what does not fit together."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from conftest import SCHEDULER, make_model
from tiny import tiny_base

import codi_tf
from codi_tf import config
from codi_tf.checkpoints.folder import save_base
from codi_tf.core.errors import UserError
from codi_tf.methods.draws import Draws
from codi_tf.methods.finetune import Finetune
from codi_tf.methods.networks import denoiser
from codi_tf.training.experiment import build_trainer, load_source, make_optimizer, save_result


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("start") / "base"
    folder.mkdir()
    save_base(tiny_base(), folder)
    return folder


@pytest.fixture(scope="module")
def of_noise(tmp_path_factory):
    """A base that predicts the noise, as the first Stable Diffusion does."""
    folder = tmp_path_factory.mktemp("of_noise") / "base"
    folder.mkdir()
    save_base(dataclasses.replace(tiny_base(), scheduler={**SCHEDULER, "prediction_type": "epsilon"}), folder)
    return folder


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tuned") / "bundle"
    make_model(tiny_base(), method=Finetune(drop_condition=0.1)).save(folder)
    return folder


def experiment(base, method, task="super_resolution", **sections):
    values = {"method": method, "train": {"steps": 4, "warmup_steps": 0}, "data": {"image_size": 16}, "base": str(base)}
    values |= {"task": None if task is None else {"name": task}, **sections}
    return config.from_dict(values)


def latents(channels=4):
    random = np.random.default_rng(0)
    shapes = {"latent": (3, 4, 4, 4), "condition_latent": (3, 4, 4, channels)}
    return {name: tf.constant(random.normal(size=shape).astype("float32")) for name, shape in shapes.items()}


def values(network):
    return [variable.numpy() for variable in network.variables]


@pytest.mark.parametrize("method", ["finetune", "codi", "consistency"])
def test_a_bundle_as_base_brings_its_adapter(tuned, method):
    trainer, bundle = build_trainer(experiment(tuned, {"name": method})), codi_tf.load(tuned)
    for ours, theirs in zip(values(trainer.student), values(bundle.student), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert np.isfinite(float(trainer.train_step(latents())["loss"]))


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"task": "inpainting"}, "^task is Inpainting.* in the bundle .* it is SuperResolution"),
        ({"adaptation": {"adapter": "controlnet"}}, "^adaptation.adapter is controlnet, in the bundle .* it is mu"),
    ],
)
def test_a_bundle_as_base_must_fit(tuned, sections, message):
    with pytest.raises(UserError, match=message):
        build_trainer(experiment(tuned, {"name": "finetune"}, **sections))


@pytest.mark.parametrize("method", [{"name": "consistency"}, {"name": "guided", "stage": 1}])
def test_distillation_starts_from_a_bundle(base, method):
    with pytest.raises(UserError, match=f"method {method['name']} starts from a bundle of method finetune$"):
        build_trainer(experiment(base, method))


@pytest.mark.parametrize("adapter", ["mu", "controlnet", "t2i", "concat"])
@pytest.mark.parametrize("task", ["super_resolution", "inpainting"])
def test_every_adapter_learns_every_task(base, adapter, task):
    trainer = build_trainer(experiment(base, {"name": "codi"}, task, adaptation={"adapter": adapter}))
    channels = trainer.task.condition_channels
    images = np.random.default_rng(0).uniform(-1, 1, (2, 16, 16, 3 + channels)).astype("float32")
    before = values(trainer.student.adapter)
    for _ in range(3):
        logs = trainer.train_step({"image": tf.constant(images[..., :3]), "condition": tf.constant(images[..., 3:])})
    assert np.isfinite(float(logs["loss"]))
    assert any(not np.array_equal(b, a) for b, a in zip(before, values(trainer.student.adapter), strict=True))


@pytest.fixture(scope="module")
def untold(tmp_path_factory):
    folder = tmp_path_factory.mktemp("untold") / "bundle"
    make_model(tiny_base(), method=Finetune()).save(folder)
    return folder


@pytest.fixture(scope="module")
def distilled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("distilled") / "bundle"
    make_model(tiny_base()).save(folder)
    return folder


HALVING = {"name": "guided", "stage": 2, "steps": [4, 2], "updates": 2}


@pytest.mark.parametrize(
    ("start", "method", "sections", "message"),
    [
        (
            "distilled",
            {"name": "consistency"},
            {},
            "consistency starts from a bundle of method finetune, this one is",
        ),
        ("distilled", {"name": "guided", "stage": 1}, {}, "guided starts from a bundle of method finetune, this one"),
        (
            "distilled",
            HALVING,
            {},
            "starts from a bundle of method finetune or guided, this one is of method codi$",
        ),
        (
            "untold",
            {"name": "guided", "stage": 1, "guidance": [1.0, 2.0]},
            {},
            "fine-tune it with method.drop_condition",
        ),
        ("tuned", {**HALVING, "guidance": [1.0, 2.0]}, {}, "distill it with stage 1 first"),
        ("tuned", HALVING, {"task": None}, "a bundle's UNet needs its adapter; set task"),
        ("tuned", {"name": "pretrain"}, {"task": None}, "a bundle's UNet needs its adapter"),
        ("tuned", {"name": "codi"}, {"adaptation": {"pretrained": False}}, "adaptation.pretrained is false"),
        ("base", {**HALVING, "steps": [1024, 512]}, {"task": None}, "method.steps begins with 1024: at most 500"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(request, start, method, sections, message):
    with pytest.raises(UserError, match=message) as error:
        build_trainer(experiment(request.getfixturevalue(start), method, **sections))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"adaptation": {"pretrained": False, "train": "adapter"}}, "random weights must be trained"),
        ({"adaptation": {"train": "adapter"}, "task": None}, "a training without a task has no adapter"),
    ],
)
def test_adaptations_that_make_no_sense_are_refused(base, sections, message):
    method = HALVING if "task" in sections else {"name": "codi"}
    with pytest.raises(UserError, match=message):
        experiment(base, method, **sections)


def test_stage_2_keeps_within_the_guidance_of_stage_1(tuned, tmp_path):
    stage_1 = build_trainer(experiment(tuned, {"name": "guided", "stage": 1, "guidance": [1.0, 2.0]}))
    stage_1.save(tmp_path / "bundle")
    build_trainer(experiment(tmp_path / "bundle", {**HALVING, "guidance": [1.5, 2.0]}))
    with pytest.raises(UserError, match="method.guidance is .* was trained for .*: stay within"):
        build_trainer(experiment(tmp_path / "bundle", {**HALVING, "guidance": [1.0, 3.0]}))


def test_a_network_that_takes_the_guidance_can_be_tuned_without(tuned, tmp_path):
    stage_1 = build_trainer(experiment(tuned, {"name": "guided", "stage": 1, "guidance": [1.0, 2.0]}))
    stage_1.save(tmp_path / "bundle")
    trainer = build_trainer(experiment(tmp_path / "bundle", {"name": "codi"}))
    assert trainer.lowest_guidance == 1.0 and trainer.network.takes_guidance
    assert np.isfinite(float(trainer.train_step(latents())["loss"]))


def test_a_base_keeps_its_prompts(tmp_path):
    from tiny_pipeline import save_pipeline

    save_pipeline(tmp_path / "sd", "1.x")
    settings = experiment(tmp_path / "sd", HALVING, task=None)
    trainer = build_trainer(settings)
    prompts = codi_tf.load_stable_diffusion(tmp_path / "sd").context
    assert np.abs(prompts).max() > 0
    np.testing.assert_array_equal(trainer.method.base.context, prompts)
    save_result(settings, trainer, tmp_path / "result", {})
    np.testing.assert_array_equal(codi_tf.load_stable_diffusion(tmp_path / "result").context, prompts)


def test_random_initialization_keeps_the_shape_and_nothing_else(base):
    trained, fresh = (
        build_trainer(experiment(base, {"name": "codi"}, adaptation={"pretrained": pretrained}))
        for pretrained in (True, False)
    )
    kernels = [network.student.unet.conv_in.kernel.numpy() for network in (trained, fresh)]
    assert kernels[0].shape == kernels[1].shape and not np.array_equal(*kernels)
    np.testing.assert_array_equal(kernels[0], codi_tf.load_stable_diffusion(base).unet.conv_in.kernel.numpy())
    # The duplicate copies the encoder that is there.
    np.testing.assert_array_equal(kernels[1], fresh.student.adapter.encoder.conv_in.kernel.numpy())


@pytest.mark.parametrize(
    ("start", "before_type", "after_type"),
    [("base", "v_prediction", "epsilon"), ("of_noise", "epsilon", "v_prediction")],
)
def test_a_base_is_trained_on_in_another_parametrization(request, start, before_type, after_type, tmp_path):
    start, settings = request.getfixturevalue(start), {"name": "pretrain", "scheduler": {"prediction_type": after_type}}
    trainer = build_trainer(experiment(start, settings, task=None))
    before = codi_tf.load_stable_diffusion(start)
    assert (before.prediction_type, trainer.method.base.prediction_type) == (before_type, after_type)
    for ours, theirs in zip(values(trainer.student.unet), values(before.unet), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    # The same output now counts as noise, or as velocity.
    x = latents()["latent"]
    t, eps = Draws(0, 0).times(x, low=0, high=1000, shared=False), Draws(0, 0).noise(x)
    terms = trainer.method.loss_terms({"latent": x}, Draws(0, 0))
    schedule = before.schedule
    alpha_t, sigma_t = (table[t.numpy()].reshape(-1, 1, 1, 1) for table in (schedule.alpha, schedule.sigma))
    z_t = alpha_t * x + sigma_t * eps
    output = np.asarray(before.unet(z_t, t, before.context))
    if after_type == "epsilon":
        output = alpha_t * output - sigma_t * (z_t - sigma_t * output) / alpha_t
    expected = np.square((alpha_t * eps - sigma_t * x) - output).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(terms["denoising"], expected, rtol=1e-3)
    trainer.train_step({"latent": x})
    save_result(experiment(start, settings, task=None), trainer, tmp_path / "result", {})
    after = codi_tf.load_stable_diffusion(tmp_path / "result")
    assert after.prediction_type == after_type
    for ours, theirs in zip(values(after.unet), values(trainer.average.unet), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_conditions_are_dropped_at_the_rate(tuned):
    trainer = build_trainer(experiment(tuned, {"name": "finetune", "drop_condition": 0.5}))
    batch = {name: tf.repeat(value, 4, axis=0) for name, value in latents().items()}
    got = trainer.method.loss_terms(batch, Draws(2, 9))["denoising"].numpy()
    base, (x, c) = trainer.base, batch.values()
    t, eps = Draws(2, 9).times(x, low=0, high=1000, shared=False), Draws(2, 9).noise(x)
    dropped = Draws(2, 9).uniform(x, "drop").numpy() < 0.5
    assert 0 < dropped.sum() < len(dropped)
    alpha_t, sigma_t = (table[t.numpy()].reshape(-1, 1, 1, 1) for table in (base.schedule.alpha, base.schedule.sigma))
    z_t, v = alpha_t * x + sigma_t * eps, alpha_t * eps - sigma_t * x
    prompt = base.conditioning()
    conditional, unconditional = (
        np.square(v - denoiser(base, trainer.student, condition, prompt)(z_t, t).v_hat).mean(axis=(1, 2, 3))
        for condition in (c, tf.zeros_like(c))
    )
    assert np.abs(conditional - unconditional).max() > 1e-4
    np.testing.assert_allclose(got, np.where(dropped, unconditional, conditional), rtol=1e-5)


def test_all_images_of_a_folder_or_those_of_a_split(tmp_path):
    from tiny import tiny_photos

    def names(source, split):
        values = {"method": {"name": "codi"}, "train": {"steps": 1}, "base": "b", "task": {"name": "bicubic"}}
        return set(load_source(config.from_dict({**values, "data": {"source": str(source)}}), split).names)

    photos = tiny_photos(tmp_path / "photos")
    splits = {split: names(photos, split) for split in (None, "train", "heldout")}
    assert splits["train"] | splits["heldout"] == splits[None] and not splits["train"] & splits["heldout"]
    assert min(map(len, splits.values())) > 0
    assert names("photos", None) == names("photos", "train") | names("photos", "heldout")


def test_the_cosine_runs_once_a_cycle():
    rate = make_optimizer(config.Train(steps=30, cycles=3, warmup_steps=0, learning_rate=1.0))._learning_rate
    rates = [float(rate(step)) for step in (0, 5, 9.99, 10, 15, 20, 29.99)]
    np.testing.assert_allclose(rates, [1.0, 0.5, 0.0, 1.0, 0.5, 1.0, 0.0], atol=1e-4)
    with pytest.raises(UserError, match="train.cycles is 2: it needs decay cosine and warmup_steps 0"):
        config.Train(steps=30, cycles=2)


def test_phases_that_do_not_fit_are_refused(tuned):
    settings = {"name": "guided", "stage": 2, "steps": [4, 2], "updates": 3}
    with pytest.raises(UserError, match="train.steps is 4: 2 phases of method.updates 3 are more"):
        experiment(tuned, settings)
