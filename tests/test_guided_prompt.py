"""Guided distillation of the prompt's guidance where there is a condition, too: an inpainting model with prompts."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from tiny import randomize, tiny_base, tiny_text
from tiny_pipeline import save_pipeline

import codi_tf
from codi_tf import config
from codi_tf.checkpoints.stable_diffusion import with_text
from codi_tf.core.errors import UserError
from codi_tf.diffusion.process import coefficients
from codi_tf.methods.draws import Draws
from codi_tf.training.experiment import build_dataset, build_trainer

RANDOM = np.random.default_rng(0)
S, PROMPTS = 16, ["the cat sat", "a hat!"]
GUIDED = {"name": "guided", "stage": 1, "guidance": [1.0, 8.0], "guided": "prompt"}


def masked_images() -> np.ndarray:
    """Two conditions in [-1, 1], masks of single pixels."""
    images = RANDOM.uniform(-1, 1, (2, S, S, 4)).astype("float32")
    images[..., 3:] = np.where(images[..., 3:] > 0, 1.0, 0.0)
    return images


def tuned_model(folder, **options) -> codi_tf.CoDi:
    """A fine-tuned inpainting model with prompts whose adapter acts."""
    base = with_text(tiny_base(), tiny_text(folder, 8))
    made = codi_tf.CoDi(base, "concat", task="inpainting", method=codi_tf.Finetune(**options), image_size=S)
    randomize(made.student.adapter.variables)
    return made


def test_stage_1_compares_with_the_teacher_guided_by_the_prompt(tmp_path):
    """The teacher is what `text_guidance` samples with. Catches guidance by the condition, and by no prompt at all."""
    tuned = tuned_model(tmp_path, drop_prompt=0.1)
    method = codi_tf.Guided(stage=1, guidance=[3.0, 3.0], guided="prompt")
    model = codi_tf.CoDi(tuned.base, tuned.student.adapter, task="inpainting", method=method)
    images, x = tf.constant(masked_images()), tf.constant(RANDOM.normal(size=(2, 4, 4, 4)).astype("float32"))
    batch = {"latent": x, "condition": images, "tokens": tf.constant(model.base.tokenizer(PROMPTS))}
    got = model.method.loss_terms(batch, Draws(3, 5))["guidance_matching"].numpy()
    t, eps = Draws(3, 5).times(x, low=0, high=1000, shared=False), Draws(3, 5).noise(x)
    alpha_t, sigma_t = (np.asarray(a) for a in coefficients(model.base.schedule, t))
    z_t, given = alpha_t * x.numpy() + sigma_t * eps.numpy(), model.base.conditioning(PROMPTS)
    teacher, own = (tuned.generator.denoiser(images, given, guidance=1.0, text_guidance=g) for g in (3.0, 1.0))
    # The student says what its teacher says of the prompt, as long as nothing is trained.
    expected = np.square(np.asarray(teacher(z_t, t).v_hat - own(z_t, t).v_hat)).mean(axis=(1, 2, 3))
    assert expected.min() > 1e-6
    np.testing.assert_allclose(got, expected, rtol=1e-3)
    with pytest.raises(UserError, match="a batch has no tokens"):
        model.method.check_batch({"latent": x, "condition": images})


@pytest.mark.usefixtures("eager")
def test_both_stages_go_on_from_a_checkpoint_of_9_channels(tmp_path):
    """Catches a result that forgets what it is guided by, and a stage 2 without prompts."""
    codi_tf.load(save_pipeline(tmp_path / "checkpoint", "1.x", in_channels=9)).save(tmp_path / "tuned")
    images = masked_images()
    values = {"task": {"name": "inpainting"}, "adaptation": {"adapter": "concat"}, "data": {"image_size": S}}
    stages = {"1": GUIDED, "2": {**GUIDED, "stage": 2, "steps": [4, 2], "updates": 1}}
    base = tmp_path / "tuned"
    for name, method in stages.items():
        run = config.from_dict(
            {**values, "base": str(base), "method": method, "train": {"steps": 2, "warmup_steps": 0}}
        )
        trainer = build_trainer(run)
        tokens = tf.constant(trainer.base.tokenizer(PROMPTS))
        batch = {"image": tf.constant(images[..., :3]), "condition": tf.constant(images), "tokens": tokens}
        assert np.isfinite(float(trainer.train_step(batch)["loss"]))
        randomize([v for v in trainer.network.unet.variables if "cond_proj" in v.path])
        base = tmp_path / name
        trainer.save(base)
        with pytest.raises(UserError, match="method.guided is prompt, but no prompts are used: set data.prompts=true"):
            build_dataset(run, trainer, 0)
    model, given = codi_tf.load(base), (images[:1] + 1) / 2
    given[..., 3:] = images[:1, ..., 3:]
    made = [model.generate(given, PROMPTS[0], guidance=g).astype(int) for g in (1.0, 8.0)]
    assert model.settings.sampling_steps == 2 and np.abs(made[0] - made[1]).max() > 2
    for options, message in (
        ({"text_guidance": 7.5}, "text_guidance is 7.5: this model takes the prompt's guidance as an input; use guid"),
        ({"guidance": 9.0}, "trained for 1.0 to 8.0"),
    ):
        with pytest.raises(UserError, match=message):
            model.generate(given, PROMPTS[0], **options)


def test_what_it_cannot_start_from_is_refused_in_one_line(tmp_path):
    plain, other = tuned_model(tmp_path, drop_condition=0.1), codi_tf.Guided(stage=1, guidance=[1.0, 8.0])

    def refused(bundle, message, **changes):
        settings = {key: value for key, value in {**GUIDED, **changes}.items() if key != "name"}
        with pytest.raises(UserError, match=message) as error:
            codi_tf.Guided(**settings).check_bundle(bundle, "BUNDLE")
        assert "\n" not in str(error.value)

    refused(plain, r"BUNDLE was trained for \[1.0, 1.0\]: fine-tune it with method.drop_prompt=0.1 first")
    by_condition = codi_tf.CoDi(plain.base, plain.student.adapter, task="inpainting", method=other)
    changes = {"stage": 2, "steps": [4, 2], "updates": 1}
    refused(by_condition, "method.guided is prompt, of BUNDLE it is condition: use that", **changes)
    with pytest.raises(UserError, match="method.guided is 'image'"):
        codi_tf.Guided(stage=1, guided="image")
