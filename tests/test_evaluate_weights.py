"""The command line with weights that a user brings: LPIPS, CLIP and a prompt."""

from __future__ import annotations

import json

import keras
import numpy as np
import pytest
from test_clip import save_clip
from tiny_pipeline import save_pipeline

import codi_tf
from codi_tf import data
from codi_tf.cli.evaluate import main
from codi_tf.evaluation.perception.clip import load_clip
from codi_tf.evaluation.perception.lpips import Lpips, load_lpips
from codi_tf.evaluation.samplers import model_sampler
from codi_tf.io.hashing import folder_sha256
from codi_tf.io.weights import save_network

S, COUNT, PROMPT = 32, 3, "the cat"


def save_lpips(folder):
    """LPIPS with random weights, in a file as its package writes them."""
    network = Lpips(net="alex", name="lpips")
    network.build()
    network.scale.assign(keras.ops.ones_like(network.scale))
    for linear in network.linear:
        linear.kernel.assign(keras.ops.abs(linear.kernel))
    folder.mkdir()
    save_network(network, folder)
    return folder / "diffusion_pytorch_model.safetensors"


def test_weights_of_the_user(feature_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("codi_tf.cli.evaluate.PROCESS_STEPS", (1, 2))  # ten images of a process take 55 evaluations
    keras.utils.set_random_seed(0)
    base = codi_tf.load_stable_diffusion(save_pipeline(tmp_path / "sd", "1.x"))
    model = codi_tf.CoDi(base, image_size=S)
    model.save(tmp_path / "bundle")
    weights = save_lpips(tmp_path / "lpips")
    save_clip(tmp_path / "clip")

    folders = {"features": feature_folder, "lpips": weights.relative_to(tmp_path), "clip": "clip", "out": "report"}
    options = [part for name, path in folders.items() for part in (f"--{name}", str(tmp_path / path))]
    main([str(tmp_path / "bundle"), "--steps", "2", "--count", str(COUNT), "--prompt", PROMPT, *options])

    written = json.loads((tmp_path / "report" / "metrics.json").read_text())
    row, settings = written["rows"]["bundle, 2 steps"], written["settings"]
    photos = data.load_photos("heldout")
    inputs = data.evaluation_set(photos, model.task, image_size=S, count=COUNT, seed=0)
    x = np.array(base.encode(inputs["image"]))
    images, latents = model_sampler(model, 2, prompt=PROMPT)(inputs["condition"])
    _, unprompted = model_sampler(model, 2)(inputs["condition"])
    assert row["latent_error"] == pytest.approx(np.mean(np.square(latents - x)), rel=1e-5)
    assert row["latent_error"] != pytest.approx(np.mean(np.square(unprompted - x)), rel=1e-4)
    distances = load_lpips(weights).distance(images, inputs["image"])
    scores = load_clip(tmp_path / "clip")(images, PROMPT)
    np.testing.assert_allclose(row["lpips"], np.mean(distances), rtol=1e-3)
    np.testing.assert_allclose(row["clip_score"], np.mean(scores), rtol=2e-2, atol=1e-3)  # of images in bytes
    assert row["lpips_interval"][0] <= row["lpips"] <= row["lpips_interval"][1]
    assert written["rows"]["original"]["lpips"] == pytest.approx(0, abs=1e-6)
    assert settings["prompt"] == PROMPT and settings["clip"]["sha256"] == folder_sha256(tmp_path / "clip")
    assert len(settings["lpips"]["sha256"]) == 64 and settings["inception"] is None
    page = (tmp_path / "report" / "report.md").read_text()
    assert "LPIPS | CLIP score | FD-photos" in page and "Prompt: the cat" in page
