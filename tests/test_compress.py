"""Compression of a base: where the student's weights come from, the three losses, and the base that it ends in."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from conftest import SCHEDULER, VAE
from tiny import randomize, tiny_text

import codi_tf
from codi_tf import config
from codi_tf.checkpoints.base import Base, make_autoencoder, make_unet
from codi_tf.checkpoints.folder import save_base
from codi_tf.checkpoints.stable_diffusion import with_text
from codi_tf.core.errors import UserError
from codi_tf.io.weights import state_dict
from codi_tf.methods.compress import Compress, compact_unet
from codi_tf.methods.draws import Draws
from codi_tf.methods.networks import with_guidance
from codi_tf.training.experiment import build_trainer

TEACHER = {
    "block_out_channels": [8, 16, 16],  # the two lowest levels are equally wide, as Stable Diffusion's
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "UpBlock2D", "CrossAttnUpBlock2D"],
    "layers_per_block": 2,
    "attention_head_dim": 2,
    "cross_attention_dim": 8,
    "norm_num_groups": 4,
}
SMALL = {"layers_per_block": 1, "mid_block_type": None}
TINY = {  # also without the lowest level
    **SMALL,
    "block_out_channels": [8, 16],
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
}


def teacher_unet():
    unet = make_unet(TEACHER)
    randomize(unet.variables)
    return unet


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A text-to-image base that predicts noise, as Stable Diffusion does."""
    path = tmp_path_factory.mktemp("base")
    vae = make_autoencoder({**VAE, "scaling_factor": 1.5})
    randomize(vae.variables)
    base = Base(teacher_unet(), vae, {**SCHEDULER, "prediction_type": "epsilon"})
    (path / "base").mkdir()
    save_base(with_text(base, tiny_text(path / "text", 8)), path / "base")
    return path / "base"


def trainer_of(base, network=None, **method):
    values = {
        "method": {"name": "compress", "network": SMALL if network is None else network, **method},
        "base": str(base),
        "data": {"image_size": 16, "prompts": True},
        "train": {"steps": 2, "warmup_steps": 0, "learning_rate": 1e-3, "ema_decay": 0.5},
    }
    return build_trainer(config.from_dict(values))


def batch_of(trainer):
    x = np.random.default_rng(0).normal(size=(3, 4, 4, 4)).astype("float32")
    tokens = trainer.method.base.tokenizer(["a red house", "two trees", ""])
    return {"latent": tf.constant(x), "tokens": tf.constant(tokens)}


@pytest.mark.parametrize("levels", [3, 2])
def test_the_student_starts_from_the_first_blocks_and_the_decoders_last(levels):
    """Catches a level or a block of the decoder that is matched by its number from the wrong end."""
    teacher = teacher_unet()
    student = compact_unet(teacher, SMALL if levels == 3 else TINY)
    ours, theirs, seen = state_dict(student), state_dict(teacher), set()
    for key, value in ours.items():
        part, *rest = key.split(".")
        if part == "up_blocks":
            level, kind, block = rest[:3]
            if kind != "upsamplers":
                block = {"0": "0", "1": "2"}[block]
            key = ".".join([part, str(int(level) + 3 - levels), kind, block, *rest[3:]])
        np.testing.assert_array_equal(value, theirs[key], err_msg=key)
        seen.add(key)
    assert len(seen) == len(ours) < 0.8 * len(theirs)


def test_what_has_no_counterpart_of_its_shape_starts_anew():
    teacher = teacher_unet()
    student = compact_unet(teacher, {"block_out_channels": [8, 24, 24]})
    ours, theirs = state_dict(student), state_dict(teacher)
    same = {key for key in ours if ours[key].shape == theirs[key].shape}
    assert all(np.array_equal(ours[key], theirs[key]) for key in same)
    assert "down_blocks.0.resnets.0.conv1.weight" in same and "mid_block.resnets.0.conv1.weight" not in same


@pytest.mark.parametrize("network", [SMALL, TINY])
def test_the_loss_is_the_three_errors(folder, network):
    """Catches a feature that is compared with another level's, and a weight on the wrong term."""
    trainer = trainer_of(folder, network, output_weight=0.5, feature_weight=2.0)
    method, batch, draws = trainer.method, batch_of(trainer), Draws(3, 5)
    x, context = batch["latent"], method.base.text_encoder(batch["tokens"])
    t, eps = draws.times(x, low=0, high=1000, shared=False), draws.noise(x)
    alpha_t, sigma_t = (level[t.numpy()].reshape(-1, 1, 1, 1) for level in method.base.schedule)
    z_t = (alpha_t * x.numpy() + sigma_t * eps.numpy()).astype("float32")
    (taught, theirs), (said, ours) = (n.unet.with_features(z_t, t, context) for n in (method.frozen, method.student))
    levels = len(ours) // 2
    pairs = [(theirs[i], ours[i]) for i in range(levels)]  # the encoder's, from the finest level
    pairs += [(theirs[-1 - i], ours[-1 - i]) for i in range(levels)]  # the decoder's, from the finest level
    assert all(a.shape == b.shape for a, b in pairs)

    def error(a, b):
        return np.square(np.asarray(a) - np.asarray(b)).mean(axis=(1, 2, 3))

    expected = {
        "denoising": error(eps, said),
        "output_matching": 0.5 * error(taught, said),
        "feature_matching": 2.0 * sum(error(a, b) for a, b in pairs),
    }
    got = method.loss_terms(batch, draws)
    assert got.keys() == expected.keys() == set(method.terms)
    for name, value in expected.items():
        assert value.min() > 1e-6
        np.testing.assert_allclose(got[name], value, rtol=1e-4, err_msg=name)


def test_a_student_that_is_its_teacher_has_nothing_to_match(folder):
    trainer = trainer_of(folder, {"layers_per_block": 2})
    terms = trainer.method.loss_terms(batch_of(trainer), Draws(0, 0))
    assert float(tf.reduce_max(terms["output_matching"])) == 0 == float(tf.reduce_max(terms["feature_matching"]))
    assert float(tf.reduce_min(terms["denoising"])) > 0


def test_it_learns_from_a_teacher_that_stays_and_ends_in_a_smaller_base(folder, tmp_path):
    """Catches a teacher that is trained, and a result that is the teacher's folder or has lost its text encoder."""
    trainer = trainer_of(folder)
    batch, frozen = batch_of(trainer), [v.numpy() for v in trainer.method.frozen.variables]
    losses = [float(trainer.train_step(batch)["loss"]) for _ in range(3)]
    assert losses[-1] < losses[0]
    for before, after in zip(frozen, trainer.method.frozen.variables, strict=True):
        np.testing.assert_array_equal(before, after)
    (tmp_path / "result").mkdir()
    trainer.method.save(trainer.average, tmp_path / "result", dict)
    base = codi_tf.load_stable_diffusion(tmp_path / "result")
    assert base.unet.mid_block is None and base.unet.layers_per_block == 1
    for ours, theirs in zip(base.unet.variables, trainer.average.unet.variables, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    images = codi_tf.TextToImage(base).generate(["a red house"], steps=1, seed=0, height=16, width=16)
    assert images.shape == (1, 16, 16, 3)


def test_other_widths_learn_the_output_alone(folder):
    trainer = trainer_of(folder, {"block_out_channels": [4, 8, 8]}, feature_weight=0.0)
    assert trainer.method.terms == ("denoising", "output_matching")
    logs = trainer.train_step(batch_of(trainer))
    assert np.isfinite(float(logs["loss"])) and float(logs["gradient_norm"]) > 0


REFUSED = {
    "no network": ({"network": {}}, "method.network is not set, for example {layers_per_block: 1"),
    "other latents": (
        {"network": {"in_channels": 9}},
        "method.network.in_channels is set: the student takes and gives",
    ),
    "nothing to learn": ({"output_weight": 0, "feature_weight": 0}, "nothing is left of the base; set one"),
    "a negative weight": ({"output_weight": -1.0}, "method.output_weight is -1.0: it must be at least 0"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_settings_that_cannot_be_are_refused_in_one_line(name):
    options, message = REFUSED[name]
    with pytest.raises(UserError, match=message) as caught:
        Compress(**{"network": SMALL, **options})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (
            {"block_out_channels": [8, 24, 24]},
            r"block_out_channels is \[8, 24, 24\], the base's \[8, 16, 16\]: features are compared",
        ),
        ({"layers_per_block": [1]}, "layers_per_block 1: give one entry per level"),
        ({"layers_per_block": 0}, "method.network: layers_per_block is 0: it must be a whole number above 0"),
        ({"depth": 3}, "not a configuration of UNet"),
    ],
)
def test_a_network_that_cannot_be_is_refused_in_one_line(folder, network, message):
    with pytest.raises(UserError, match=message) as caught:
        trainer_of(folder, network)
    assert "\n" not in str(caught.value)


def test_a_base_that_takes_the_guidance_is_refused(folder, tmp_path):
    base = codi_tf.load_stable_diffusion(folder)
    save_base(dataclasses.replace(base, unet=with_guidance(base.unet, "unet"), path=None), tmp_path)
    with pytest.raises(UserError, match="takes the guidance as an input; compress the base that it comes from"):
        trainer_of(tmp_path)
