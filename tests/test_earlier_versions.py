"""What version 0.1.0 wrote is read: files that it made are kept in tests/data/0.1.0.

They were made by 0.1.0 itself: a run of three updates on a tiny base, its bundle, the state after two updates, an
image of the bundle (2 steps, seed 5), and four encoded examples in two shards.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file

import codi_tf
from codi_tf import config
from codi_tf.cli import cache
from codi_tf.cli.train import train
from codi_tf.core.errors import UserError
from codi_tf.training.experiment import build_trainer
from codi_tf.training.states import restore_newest

KEPT = Path(__file__).parent / "data" / "0.1.0"


OF_0_1_0 = (  # its defaults
    "method.z_s=own",
    "method.consistency=noise",
    "method.guidance_weight=1",
    "train.result_decay=0",
)


@pytest.fixture
def run(tmp_path, monkeypatch) -> config.Experiment:
    """The config of the run, in a folder that holds a copy of its base, its images and its state."""
    shutil.copytree(KEPT / "state", tmp_path / "state")
    monkeypatch.chdir(tmp_path / "state")
    return config.load(Path("run.yaml"), OF_0_1_0)


def weights(model: codi_tf.CoDi) -> list[np.ndarray]:
    return [v.numpy() for v in (*model.average.variables, *model.base.vae.variables)]


def test_a_bundle_makes_the_same_image():
    """Catches: a renamed key, a changed default, weights in another order, another noise for a seed."""
    expected = np.load(KEPT / "bundle.npz")
    image = codi_tf.load(KEPT / "bundle").generate(expected["condition"], steps=2, seed=5)
    assert image.shape == expected["image"].shape and image.std() > 40
    assert np.abs(image.astype(int) - expected["image"]).max() <= 1


def test_the_settings_of_a_run_are_read(run):
    """Catches: a renamed or removed setting that old files name. Each has the value that it had."""
    settings = config.from_record(yaml.safe_load(Path("run/config.yaml").read_text()))
    assert settings == run
    assert (settings.method.delta, settings.train.save_every, settings.adaptation.mu_rate) == (5, 1, 20000.0)


def test_a_state_is_read(run):
    """Catches: variables in another order, or more or fewer of them. They have no names, only positions."""
    trainer = build_trainer(run)
    assert restore_newest(trainer, Path("run/checkpoints")) == int(trainer.optimizer.iterations) == 2
    values = load_file("run/checkpoints/step-00000002.safetensors")
    found = {f"weights/{i:05}": v.numpy() for i, v in enumerate(trainer.variables)}
    found |= {f"optimizer/{i:05}": v.numpy() for i, v in enumerate(trainer.optimizer.variables)}
    assert found.keys() == values.keys()
    for key, value in values.items():
        np.testing.assert_array_equal(found[key], value)


def test_a_run_does_not_go_on_with_another_average(run):
    """Catches a state with one moving average that is read into two, or refused without the name of the setting."""
    with pytest.raises(UserError, match="started with train.result_decay = 0.0, now it is 0.999"):
        train(config.load(Path("run.yaml"), OF_0_1_0[:-1]), Path("run"))


def test_a_run_goes_on_as_in_0_1_0(eager, run):
    """Its third update gives the weights that 0.1.0 gave, of the moving average and of the adapter."""
    assert train(run, Path("run")) == Path("run/result")
    for file in ("unet", "adapter", "vae"):
        path = f"{file}/diffusion_pytorch_model.safetensors"
        found, expected = load_file(Path("run/result") / path), load_file(KEPT / "bundle" / path)
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            np.testing.assert_allclose(found[key], value, rtol=0, atol=2e-6, err_msg=f"{file}: {key}")


def test_encoded_examples_are_read(run):
    """Catches: a renamed key of meta.json. The same command adds what is missing, and trains on them."""
    kept = {path.name: path.read_bytes() for path in Path("cache").iterdir()}
    Path("cache/shard-00001.sha256").unlink()
    assert cache.encode(run, Path("cache"), examples=4, shard=2)
    for name in ("meta.json", "shard-00000.safetensors"):
        assert Path("cache", name).read_bytes() == kept[name]
    assert train(
        config.load(Path("run.yaml"), [*OF_0_1_0, "data.source=cache", "train.steps=1"]), Path("run2")
    ).is_dir()
