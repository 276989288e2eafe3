"""Pipelines of diffusers in folders, and comparisons with what is read from them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny_pipeline import save_pipeline

from codi_tf.io.json_files import read_json, write_json
from codi_tf.io.weights import state_dict

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")
load_file = pytest.importorskip("safetensors.torch").load_file
save_file = pytest.importorskip("safetensors.torch").save_file
torch.set_num_threads(1)

PARTS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}


def make_pipeline(folder, version: str, **unet):
    """diffusers' pipeline from the folder that is made."""
    return diffusers.StableDiffusionPipeline.from_pretrained(save_pipeline(folder, version, **unet))


def assert_same_bits(base, pipeline):
    for part in PARTS:
        theirs, ours = getattr(pipeline, part).state_dict(), state_dict(getattr(base, part))
        assert ours.keys() == theirs.keys()
        for key, value in theirs.items():
            np.testing.assert_array_equal(ours[key], value.float().numpy())


def edited(path: Path, **changes):
    write_json(path, {**read_json(path), **changes})


UNET_CONFIG, TEXT_CONFIG = "unet/config.json", "text_encoder/config.json"


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    """A pipeline of the family 1.x."""
    return make_pipeline(tmp_path_factory.mktemp("pipeline") / "saved", "1.x")


@pytest.fixture
def folder(pipeline, tmp_path):
    """A fresh folder with `pipeline`."""
    pipeline.save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"
