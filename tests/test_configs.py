"""Every file in configs/ loads, builds and runs one step of the networks that it describes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import VAE
from tiny import tiny_text

from codi_tf import config
from codi_tf.base import Base, make_autoencoder
from codi_tf.convert.folder import save_base
from codi_tf.experiment import build_dataset, build_trainer, make_optimizer

FILES = sorted((Path(__file__).parent.parent / "configs").glob("*.yaml"))


def autoencoder_for(decoder: config.Decoder, folder: Path) -> Path:
    """A small autoencoder alone, of as many levels as a small decoder."""
    widths = [8] * len(decoder.network["num_decoder_blocks"])
    save_base(Base(None, make_autoencoder({**VAE, "block_out_channels": widths}), {"beta_schedule": "linear"}), folder)
    return folder


def small(whole, stem, base, bundle, text) -> list[str]:
    """Overrides of a config: a small batch, and the tests' own base in place of a trained one."""
    overrides = ["train.batch_size=2"]
    if stem.startswith("sd15"):
        overrides += ["data.source=photos", "data.image_size=64", "data.prompts=false"]
        overrides += ["method.drop_prompt=0.0"] if whole.data.prompts else []
    if text is not None:
        overrides.append(f"text={text}")
    goes_on = isinstance(whole.method, config.Consistency | config.Guided)
    if whole.base is not None:
        overrides.append(f"base={bundle if goes_on else base}")
    if whole.data.encode_once:
        overrides.append("data.encode_once=2")
    return overrides


@pytest.mark.parametrize("path", FILES, ids=[file.stem for file in FILES])
def test_it_runs_one_step(path, base_folder, tuned_bundle, tmp_path):
    """Its network, task, method and optimizer; a small batch, and the tests' own base in place of a trained one.

    What is for Stable Diffusion also gets small pictures, of the embedded photos, which have no texts.
    """
    whole = config.load(path)
    text = tiny_text(tmp_path, 8) if whole.task is not None and whole.task["name"] == "editing" else None
    decodes = isinstance(whole.method, config.Decoder)
    base = autoencoder_for(whole.method, tmp_path) if decodes else base_folder
    overrides = small(whole, path.stem, base, tuned_bundle, text)
    experiment = config.load(path, overrides)
    trainer = build_trainer(experiment)
    before = [v.numpy() for v in trainer.trainable_variables]
    trainer.optimizer.iterations.assign(max(whole.train.warmup_steps, 1))  # the rate is 0 before
    batch = next(iter(build_dataset(experiment, trainer, 0)))
    logs = trainer.train_step(batch)
    assert all(np.isfinite(float(value)) for value in logs.values()) and float(logs["gradient_norm"]) > 0
    assert any(not np.array_equal(b, v.numpy()) for b, v in zip(before, trainer.trainable_variables, strict=True))


@pytest.mark.parametrize("path", FILES, ids=[file.stem for file in FILES])
def test_its_header_says_what_it_is_and_the_command(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    header = [line for line in lines[: next(i for i, line in enumerate(lines) if not line.startswith("#"))]]
    assert any(f"python -m codi_tf.train configs/{path.name}" in line for line in header)
    if path.stem.startswith("sd15") or config.load(path).task not in (None, {"name": "super_resolution"}):
        said = " ".join(header)
        assert "GB" in said and ("minutes" in said or "hours" in said)


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
