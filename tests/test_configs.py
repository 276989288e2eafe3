"""Every file in configs/ loads, builds and runs one step of the networks that it describes."""

from __future__ import annotations

import dataclasses
import itertools
import re
from pathlib import Path

import numpy as np
import pytest
from conftest import VAE
from tiny import tiny_text

from benchmarks.recipes import small_overrides, write_captioned
from codi_tf import config
from codi_tf.checkpoints.base import Base, make_autoencoder
from codi_tf.checkpoints.folder import save_base
from codi_tf.checkpoints.stable_diffusion import load_stable_diffusion, with_text
from codi_tf.methods.compress import Compress
from codi_tf.methods.decoder import Decoder
from codi_tf.methods.guided import Guided
from codi_tf.methods.networks import with_guidance
from codi_tf.tasks.real_world import RealWorld
from codi_tf.training.experiment import build_dataset, build_task, build_trainer, make_optimizer, takes_prompts

FILES = sorted((Path(__file__).parent.parent / "configs").glob("*.yaml"))
RECIPES = [file for file in FILES if file.stem.startswith("sd15")]


def autoencoder_for(decoder: Decoder, folder: Path) -> Path:
    """A small autoencoder alone, of as many levels as a small decoder."""
    widths = [8] * len(decoder.network["num_decoder_blocks"])
    save_base(Base(None, make_autoencoder({**VAE, "block_out_channels": widths}), {"beta_schedule": "linear"}), folder)
    return folder


def prompted(folder: Path, base: Path, *, guided: bool) -> Path:
    """The tests' base with a text encoder and, where the guidance is to be one, that input."""
    made = with_text(load_stable_diffusion(base), tiny_text(folder / "text", 8))
    if guided:
        made = dataclasses.replace(made, unet=with_guidance(made.unet, "unet"))
    (folder / "prompted").mkdir()
    save_base(made, folder / "prompted")
    return folder / "prompted"


def small(path: Path, base: Path, bundle: Path, folder: Path) -> list[str]:
    """Overrides of a config: a small batch, the tests' own base in place of a trained one, a text encoder where there
    are prompts, and small images in place of data that is not here; `folder` takes what has to be made."""
    whole, overrides = config.load(path), ["train.batch_size=2"]
    if whole.data.source == "scenes":
        overrides += ["data.image_size=32"]
    elif whole.data.source != "photos":
        overrides += ["data.source=photos", "data.image_size=64"]
    if whole.data.prompts and whole.data.source != "scenes":  # which have captions
        write_captioned(folder / "captioned")
        overrides.append(f"data.source={folder / 'captioned'}")
    if isinstance(whole.method, Guided | Compress) and whole.task is None:
        base = bundle = prompted(folder, base, guided=getattr(whole.method, "stage", 1) == 2)
    elif takes_prompts(whole) and not whole.method.learns_words:
        overrides.append(f"text={tiny_text(folder, 8)}")
    if isinstance(whole.method, Decoder):
        base = autoencoder_for(whole.method, folder)
    if whole.base is not None:
        overrides.append(f"base={bundle if whole.method.starts_from else base}")
    if whole.adaptation is not None and whole.adaptation.lora is not None:
        overrides.append("adaptation.lora.rank=2")
    if whole.train.accumulate > 1:
        overrides.append("train.accumulate=1")
    if whole.data.encode_once:
        overrides.append("data.encode_once=2")
    return overrides


QUICK = ("photos_codi", "photos_guided_2", "photos_vae", "photos_decoder", "sd15_editing_finetune")


def one_of(file: Path):
    return pytest.param(file, id=file.stem, marks=() if file.stem in QUICK else pytest.mark.slow)


@pytest.mark.parametrize("path", map(one_of, FILES))
def test_it_runs_one_step(path, base_folder, tuned_bundle, tmp_path):
    """Its network, task, prompts, method and optimizer; see `small`."""
    experiment = config.load(path, small(path, base_folder, tuned_bundle, tmp_path))
    trainer = build_trainer(experiment)
    before = [v.numpy() for v in trainer.trainable_variables]
    trainer.optimizer.iterations.assign(max(experiment.train.warmup_steps, 1))  # the rate is 0 before
    batch = next(iter(build_dataset(experiment, trainer, 0)))
    assert bool({"tokens", "context"} & batch.keys()) == takes_prompts(experiment)
    logs = trainer.train_step(batch)
    assert all(np.isfinite(float(value)) for value in logs.values()) and float(logs["gradient_norm"]) > 0
    assert any(not np.array_equal(b, v.numpy()) for b, v in zip(before, trainer.trainable_variables, strict=True))


@pytest.mark.parametrize("path", FILES, ids=[file.stem for file in FILES])
def test_its_header_says_the_command_the_hardware_the_time_and_the_memory(path):
    lines = itertools.takewhile(lambda line: line.startswith("#"), path.read_text(encoding="utf-8").splitlines())
    text = " ".join(line.strip("# ") for line in lines)
    assert f"python -m codi_tf.train configs/{path.name}" in text
    for wanted in ("CPU core|GPU", r"\d (minutes|hours)", r"\d GB"):
        assert re.search(wanted, text), wanted


@pytest.mark.parametrize("path", RECIPES, ids=[file.stem for file in RECIPES])
def test_the_benchmark_of_recipes_takes_it(path):
    """`python -m benchmarks.recipes`: its overrides are none that the recipe's method refuses, and keep its prompts."""
    whole, experiment = config.load(path), config.load(path, small_overrides(path, "BASE", Path("CAPTIONED")))
    assert experiment.train.batch_size == 1 and experiment.data.prompts == whole.data.prompts
    assert experiment.data.source == ("CAPTIONED" if whole.data.prompts else "photos")
    large = config.load(path, small_overrides(path, "BASE", Path("CAPTIONED"), 512))  # above the embedded photos' size
    assert (large.data.source, large.data.image_size) == ("CAPTIONED", 512)


def test_the_recipe_of_super_resolution_writes_out_the_defaults():
    recipe = config.load(FILES[0].parent / "sd15_super_resolution.yaml")
    assert build_task(recipe) == RealWorld() and recipe.task.keys() == {"name", *dataclasses.asdict(RealWorld())}


def test_there_are_configs():
    assert FILES


@pytest.mark.parametrize("decay", ["cosine", "constant"])
def test_the_learning_rate_warms_up_then_decays_or_stays(decay):
    settings = config.Train(steps=110, warmup_steps=10, learning_rate=0.5, decay=decay)
    optimizer = make_optimizer(settings)
    optimizer.build([])

    def rate(step):
        optimizer.iterations.assign(step)
        return float(optimizer.learning_rate)

    assert rate(0) == 0.0 and rate(5) == pytest.approx(0.25) and rate(10) == pytest.approx(0.5)
    middle, end = (0.25, 0.0) if decay == "cosine" else (0.5, 0.5)
    assert rate(60) == pytest.approx(middle) and rate(110) == pytest.approx(end, abs=1e-7)


@pytest.mark.parametrize("decay", ["cosine", "constant"])
def test_without_a_warm_up_the_rate_starts_at_its_peak(decay):
    optimizer = make_optimizer(config.Train(steps=100, warmup_steps=0, learning_rate=0.5, decay=decay))
    assert float(optimizer.learning_rate) == pytest.approx(0.5)


def test_the_optimizer_is_the_config_s():
    settings = config.Train(steps=1, weight_decay=0.25, clip_norm=3.0)
    optimizer = make_optimizer(settings)
    assert (optimizer.weight_decay, optimizer.global_clipnorm) == (0.25, 3.0)
