"""Every method from its config to an image, and what the configs of all tasks start from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from end_to_end import QUIET, ROOT, SHORT, check, photo, trained
from PIL import Image

import codi_tf
from codi_tf import config
from codi_tf.cli.train import train

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("memory_goes_back_after_each")]


@pytest.mark.parametrize("name", ["pe_codi", "t2i", "finetune", "consistency", "guided_1", "guided_2"])
def test_from_the_config_to_an_exported_image(name, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    Image.fromarray(photo()).save(tmp_path / "photo.png")
    check(trained(f"photos_{name}", tmp_path), ["--condition", str(tmp_path / "photo.png")], tmp_path)


def test_what_the_others_start_from_is_trained_by_its_config(tmp_path, monkeypatch):
    """The autoencoder, the base of it and the small decoder: each is saved, loaded and used."""
    monkeypatch.chdir(ROOT)

    def made(name: str, *overrides: str) -> Path:
        return train(config.load(ROOT / "configs" / f"{name}.yaml", [*SHORT, *QUIET, *overrides]), tmp_path / name)

    image = photo()[None] / np.float32(127.5) - 1
    vae = codi_tf.load_stable_diffusion(made("photos_vae"))
    assert vae.unet is None and np.isfinite(vae.decode(vae.encode(image))).all()
    start = f"base={tmp_path / 'photos_vae' / 'result'}"
    base = codi_tf.load_stable_diffusion(made("photos_base", start, "data.encode_once=0"))
    latents = base.encode(image)
    output = base.unet(latents, np.array([10], "int32"), base.context)
    assert output.shape == latents.shape and np.isfinite(output).all()
    decoder = codi_tf.load_decoder(made("photos_decoder"))
    assert decoder(latents).shape == image.shape
