"""Guided distillation of text-to-image itself: the prompt is what is guided (Meng et al. 2023, section 4.2.2)."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from commands import run_here
from PIL import Image
from tiny import UNET, randomize, tiny_base, tiny_text

import codi_tf
from codi_tf import config
from codi_tf.checkpoints.base import make_unet
from codi_tf.checkpoints.folder import save_base
from codi_tf.checkpoints.made_for import MadeFor
from codi_tf.checkpoints.stable_diffusion import save_stable_diffusion, with_text
from codi_tf.cli import text2image
from codi_tf.core.errors import UserError
from codi_tf.core.noise import gaussian_noise
from codi_tf.diffusion.process import coefficients, predict
from codi_tf.inference.text_to_image import TextToImage
from codi_tf.methods.draws import Draws
from codi_tf.training.experiment import build_trainer
from codi_tf.training.samples import make_samples

RANGE = [3.0, 15.0]  # the paper's w from 2 to 14
PROMPTS = ["a red house", "two trees", ""]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A text-to-image base that predicts epsilon, as Stable Diffusion does."""
    path = tmp_path_factory.mktemp("base")
    base = with_text(tiny_base(), tiny_text(path / "text", 8))
    base = dataclasses.replace(base, scheduler={**base.scheduler, "prediction_type": "epsilon"})
    base.unet.sample_size = 4
    (path / "base").mkdir()
    save_base(base, path / "base")
    return path / "base"


def trainer_of(base, method, **sections):
    values = {
        "method": method,
        "base": str(base),
        "data": {"image_size": 16, "prompts": True},
        "train": {"steps": 2, "warmup_steps": 0, "learning_rate": 1e-2, "ema_decay": 0.5},
    }
    return build_trainer(config.from_dict({**values, **sections}))


def batch_of(trainer):
    x = np.random.default_rng(0).normal(size=(3, 4, 4, 4)).astype("float32")
    return {"latent": tf.constant(x), "tokens": tf.constant(trainer.method.base.tokenizer(PROMPTS))}


STAGE_1 = {"name": "guided", "stage": 1, "guidance": RANGE}
STAGE_2 = {"name": "guided", "stage": 2, "guidance": RANGE, "steps": {"from": 8, "to": 2}, "updates": 1}


def trained(base, method, out):
    """The folder of what two eager updates make, and the trainer."""
    trainer = trainer_of(base, method)
    for _ in range(2):
        logs = trainer.train_step(batch_of(trainer))
    assert float(logs["gradient_norm"]) > 0
    out.mkdir()
    trainer.method.save(trainer.average, out, dict)
    return out


@pytest.fixture(scope="module")
def distilled(folder, tmp_path_factory):
    """The three trainings of the recipe, one after the other: (of v, of stage 1, of stage 2)."""
    made = tmp_path_factory.mktemp("recipe")
    velocity = {"name": "pretrain", "scheduler": {"prediction_type": "v_prediction"}, "drop_prompt": 0.1}
    first = trained(folder, velocity, made / "velocity")
    second = trained(first, STAGE_1, made / "stage_1")
    base = codi_tf.load_stable_diffusion(second)
    randomize(base.unet.time_embedding.cond_proj.variables)  # two updates teach it little
    loud = made / "loud"
    loud.mkdir()
    save_base(base, loud)
    return first, loud, trained(loud, STAGE_2, made / "stage_2")


# Stage 1


def test_stage_1_compares_with_the_guided_prompt(folder):
    """Catches a teacher that is guided away from the prompt itself, or by a condition that is not there."""
    trainer = trainer_of(folder, STAGE_1)
    method, batch, draws = trainer.method, batch_of(trainer), Draws(3, 5)
    base, unet = method.base, method.frozen.unet
    got = method.loss_terms(batch, draws)["guidance_matching"].numpy()
    x = batch["latent"]
    t, eps = draws.times(x, low=0, high=1000, shared=False), draws.noise(x)
    alpha_t, sigma_t = (np.asarray(a) for a in coefficients(base.schedule, t))
    z_t = (alpha_t * x.numpy() + sigma_t * eps.numpy()).astype("float32")
    prompted, empty = (
        np.asarray(predict(unet(z_t, t, base.embed(texts)), z_t, alpha_t, sigma_t, "epsilon").v_hat)
        for texts in (PROMPTS, [""] * 3)
    )
    guidance = (3.0 + 12.0 * draws.uniform(x, "guidance").numpy()).reshape(-1, 1, 1, 1)
    # The student says what its teacher says with the prompt, as long as nothing is trained.
    expected = np.square((guidance - 1.0) * (prompted - empty)).mean(axis=(1, 2, 3))
    assert expected[:2].min() > 1e-6 and expected[2] < 1e-8  # the empty prompt cannot be guided
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-8)


def test_the_recipe_ends_in_a_model_that_knows_how_it_is_sampled(distilled):
    """Catches a result that forgets its range, its steps or the times that were trained."""
    of_v, loud, few = map(codi_tf.load_stable_diffusion, distilled)
    assert of_v.made_for == MadeFor() and of_v.prediction_type == "v_prediction"
    assert loud.made_for == MadeFor(guidance=(3.0, 15.0))
    assert few.made_for == MadeFor("ddim", 2, (3.0, 15.0)) and few.unet.time_cond_proj_dim == 256
    assert few.scheduler["timestep_spacing"] == "trailing" and few.prediction_type == "v_prediction"


def test_a_distilled_model_is_converted_with_what_it_is_made_for(distilled, tmp_path):
    save_stable_diffusion(codi_tf.load_stable_diffusion(distilled[2]), tmp_path / "again")
    again = codi_tf.load_stable_diffusion(tmp_path / "again")
    assert again.made_for == MadeFor("ddim", 2, (3.0, 15.0))


def test_a_step_is_one_evaluation_whatever_the_guidance(distilled, monkeypatch):
    """Catches a doubled batch, a guidance that does not arrive, and defaults of an undistilled model."""
    model = TextToImage(codi_tf.load_stable_diffusion(distilled[2]))
    calls, denoise = [], model.denoise
    monkeypatch.setattr(model, "denoise", lambda *args: calls.append(args[0].shape[0]) or denoise(*args))
    monkeypatch.setattr(model, "denoise_guided", None)
    images = {g: model.generate(PROMPTS[:2], guidance=g) for g in (None, 3.0, 15.0)}
    assert calls == [2] * 6
    assert np.array_equal(images[None], model.generate(PROMPTS[:2], guidance=7.5, steps=2, sampler="ddim"))
    assert not np.array_equal(images[3.0], images[15.0])
    # By hand: two DDIM steps of the UNet with the features of w = 2, at the trained times.
    base, schedule = model.base, model.base.schedule
    z = gaussian_noise(0, (2, 4, 4, 4))
    for t, s in ((999, 499), (499, None)):
        alpha_t, sigma_t = (np.float32(a[t]) for a in schedule)
        output = base.unet(z, np.array([t]), base.embed(PROMPTS[:2]), np.array([3.0], "float32"))
        prediction = predict(output, z, alpha_t, sigma_t, "v_prediction")
        alpha_s, sigma_s = (1.0, 0.0) if s is None else (np.float32(a[s]) for a in schedule)
        z = np.asarray(alpha_s * prediction.x_hat + sigma_s * prediction.eps_hat)
    pixels = (np.clip(base.decode(z), -1, 1) + 1) / 2
    assert np.abs(images[3.0] / 255 - pixels).max() < 0.51 / 255


def test_a_model_for_the_stochastic_sampler_draws_its_noise(distilled, tmp_path):
    """Catches a sampler without the fresh noise that it was trained with."""
    settings = {**STAGE_2, "stochastic": True}
    base = codi_tf.load_stable_diffusion(trained(distilled[1], settings, tmp_path / "stochastic"))
    assert base.made_for.sampler == "stochastic"
    model = TextToImage(base)
    first = model.generate("a tree", seed=1)
    assert np.array_equal(first, model.generate("a tree", seed=1))
    assert not np.array_equal(first, model.generate("a tree", seed=1, sampler="ddim"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"guidance": 2.0}, "guidance is 2.0: this model was trained for 3 to 15"),
        ({"guidance": 16}, "guidance is 16: this model was trained for 3 to 15"),
        ({"negative_prompt": "fog"}, "takes the guidance as an input, trained with the empty prompt; leave it out"),
    ],
)
def test_what_a_distilled_model_does_not_take(distilled, options, message):
    model = TextToImage(codi_tf.load_stable_diffusion(distilled[2]))
    with pytest.raises(UserError, match=message):
        model.generate("a tree", **options)


def test_the_command_samples_it_from_noise_and_from_an_image(distilled, tmp_path):
    """Catches defaults of the command in place of the model's, and an SDEdit that takes all steps."""
    out, source = tmp_path / "out.png", tmp_path / "in.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)).save(source)
    model = TextToImage(codi_tf.load_stable_diffusion(distilled[2]))
    done = run_here(text2image.main, distilled[2], "--prompt", "a tree", "--out", out)
    assert done.returncode == 0, done.stderr
    assert "step 2/2" in done.stderr
    np.testing.assert_allclose(np.asarray(Image.open(out)).astype(int), model.generate("a tree")[0], atol=1)
    options = ("--image", source, "--strength", "0.5", "--guidance", "4")
    done = run_here(text2image.main, distilled[2], "--prompt", "a tree", "--out", out, *options)
    assert done.returncode == 0 and "step 1/1" in done.stderr, done.stderr
    pixels = np.asarray(Image.open(source))
    expected = model.generate("a tree", image=pixels, strength=0.5, guidance=4.0)[0]
    np.testing.assert_allclose(np.asarray(Image.open(out)).astype(int), expected, atol=1)
    for options, message in (
        (("--guidance", "2"), "--guidance is 2.0: this model was trained for 3 to 15"),
        (("--negative-prompt", "fog"), "--negative-prompt: .* takes the guidance as an input; leave it out"),
    ):
        with pytest.raises(UserError, match=message):
            text2image.main([str(distilled[2]), "--prompt", "a tree", "--out", str(out), *options])


# What a training refuses, before it begins


@pytest.mark.parametrize(
    ("method", "data", "message"),
    [
        (STAGE_1, {"prompts": False}, "without a task guides the prompt, but no prompts are used: set data.prompts"),
        ({**STAGE_1, "guidance": [0.5, 3.0]}, {}, "a guidance is at least 1"),
        (STAGE_2, {}, "was trained for \\[1.0, 1.0\\]: distill it with stage 1 first"),
    ],
)
def test_bases_that_cannot_be_distilled_so(folder, method, data, message):
    with pytest.raises(UserError, match=message):
        trainer_of(folder, method, data={"image_size": 16, "prompts": True, **data})


def test_the_range_of_stage_2_is_within_that_of_stage_1(distilled):
    with pytest.raises(UserError, match=r"guidance is \[1.0, 15.0\], .* was trained for \[3.0, 15.0\]: stay within"):
        trainer_of(distilled[1], {**STAGE_2, "guidance": [1.0, 15.0]})
    with pytest.raises(UserError, match="takes the guidance already: use stage 2"):
        trainer_of(distilled[1], STAGE_1)


def test_a_base_without_prompts_has_nothing_to_guide(tmp_path):
    (tmp_path / "base").mkdir()
    save_base(tiny_base(), tmp_path / "base")
    with pytest.raises(UserError, match="has no text encoder and no classes, and without a task the prompt"):
        trainer_of(tmp_path / "base", STAGE_1)


def test_a_batch_without_prompts_is_refused(folder):
    """Catches a training that guides the empty prompt away from itself: its loss would be 0."""
    trainer = trainer_of(folder, STAGE_1)
    with pytest.raises(UserError, match="a batch has no tokens"):
        trainer.train_step({"latent": batch_of(trainer)["latent"]})


# Files


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"sampler": "ddim", "steps": 0, "guidance": null}', "steps is 0: it must be a whole number"),
        ('{"sampler": "euler", "steps": 2, "guidance": null}', "sampler is 'euler'"),
        (
            '{"sampler": "ddim", "steps": 2, "guidance": [9, 3]}',
            r"guidance is \[9, 3\]: it must be \[lowest, highest\]",
        ),
        ('{"sampler": "ddim", "steps": 2, "guidance": [0.5, 3]}', r"guidance\[0\] is 0.5"),
        ('{"sampler": "ddim", "steps": 2}', "guidance is missing"),
        ("{", "not readable as JSON"),
    ],
)
def test_a_broken_made_for_json_is_refused_in_one_line(folder, tmp_path, content, message):
    from codi_tf.checkpoints.made_for import read_made_for

    (tmp_path / "made_for.json").write_text(content)
    with pytest.raises(UserError, match=f"made_for.json.*{message}") as error:
        read_made_for(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_samples_of_a_training_are_made_as_the_result_will_be(distilled):
    """Catches samples of a distilled model at 20 steps, or with a guidance that it was not trained for."""
    trainer = trainer_of(distilled[1], STAGE_2)
    experiment = config.from_dict({"method": STAGE_2, "base": str(distilled[1]), "data": {"prompts": True},
                                   "train": {"steps": 2}})  # fmt: skip
    image = np.zeros((2, 16, 16, 3), "float32")
    samples = make_samples(experiment, trainer, {"image": image, "prompt": ["a tree", ""]})
    assert (samples.steps, samples.guidance) == (2, 7.5)
    assert np.isfinite(samples.grid()).all() and np.isfinite(samples.figures()["heldout_halving"])


@pytest.mark.parametrize("method", [STAGE_1, {"name": "pretrain"}], ids=["guided", "pretrain"])
def test_a_unet_that_takes_a_condition_is_refused_without_a_task(method, tmp_path):
    """Catches: a convolution that fails in the first update; pre-training was not checked."""
    save_base(dataclasses.replace(tiny_base(), unet=make_unet({**UNET, "in_channels": 9})), tmp_path)
    with pytest.raises(UserError, match="its UNet takes 9 channels, a latent has 4: without a task, name a model"):
        trainer_of(tmp_path, method)


def test_a_base_that_was_distilled_without_guidance_is_sampled_without(folder):
    """Catches the default of 7.5: a doubled batch, and images of a network that never saw any."""
    trainer = trainer_of(folder, {**STAGE_2, "guidance": [1.0, 1.0]})
    base = trainer.method.result(trainer.method.start_average())
    assert base.made_for.check_guidance(None) == 1.0
    with pytest.raises(UserError, match="this model was trained for 1 to 1"):
        base.made_for.check_guidance(7.5)
